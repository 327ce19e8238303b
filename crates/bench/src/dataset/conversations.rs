//! Conversations in ShareGPT's format.

use super::{DatasetError, Prompt, Request};
use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize)]
struct Conversation {
    conversations: Vec<Turn>,
}

#[derive(Deserialize)]
struct Turn {
    value: String,
}

/// A request for each conversation of the file that has a question and an answer; at least one.
pub(super) fn read(path: &Path) -> Result<Vec<Request>, DatasetError> {
    let text = std::fs::read_to_string(path).map_err(|error| DatasetError::File { path: path.to_owned(), error })?;
    let parsed: Result<Vec<Conversation>, _> = serde_json::from_str(&text);
    let conversations = parsed.map_err(|error| DatasetError::Format { path: path.to_owned(), error })?;
    let request = |conversation: Conversation| {
        let [question, answer, ..] = &conversation.conversations[..] else { return None };
        // English text has about four tokens for three words.
        let tokens = answer.value.split_whitespace().count() * 4 / 3;
        let prompt = Prompt::Text(question.value.clone());
        (!question.value.is_empty()).then(|| Request::of_length(prompt, tokens.max(1)))
    };
    let requests: Vec<_> = conversations.into_iter().filter_map(request).collect();
    if requests.is_empty() { Err(DatasetError::Empty { path: path.to_owned() }) } else { Ok(requests) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_conversations_is_read() {
        let path = std::env::temp_dir().join(format!("peregrine-sharegpt-{}.json", std::process::id()));
        let from = |text: &str| {
            std::fs::write(&path, text).expect("a temporary file");
            read(&path)
        };
        let turn = |from: &str, value: &str| format!(r#"{{"from": "{from}", "value": "{value}"}}"#);
        let talk = |turns: &[String]| format!(r#"{{"id": "x", "conversations": [{}]}}"#, turns.join(","));
        let (question, answer) = (turn("human", "Why?"), turn("gpt", "Because of six more words."));
        let both = format!("[{}, {}]", talk(&[question.clone(), answer]), talk(std::slice::from_ref(&question)));
        let requests = from(&both).expect("well formed");
        assert_eq!(requests.len(), 1);
        assert_eq!(requests[0].prompt, Prompt::Text("Why?".to_owned()));
        assert_eq!(requests[0].parameters.max_new_tokens, 6);
        assert!(from("[]").expect_err("empty").to_string().contains("there is no conversation"));
        assert!(from("{}").expect_err("no list").to_string().contains("expected a list of"));
        std::fs::remove_file(&path).expect("written above");
        assert!(read(&path).expect_err("gone").to_string().contains("peregrine-sharegpt"));
    }
}
