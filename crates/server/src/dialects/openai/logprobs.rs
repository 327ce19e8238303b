//! Log-probabilities, in the two shapes that OpenAI has for them. They are the model's own, before any parameter changes them.

use api::{PromptToken, TokenEvent};
use serde::ser::{Serialize, Serializer};
use text::{Detokenizer, Tokenizer};

/// What stands for a probability of 0.
const LEAST: f32 = -9999.0;

/// Log-probabilities of a completion. The lists have an entry for each token.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, utoipa::ToSchema)]
pub struct CompletionLogprobs {
    /// Where the token begins in the text, in characters.
    pub text_offset: Vec<usize>,
    /// Their log-probabilities; null for the first token of an echoed prompt.
    pub token_logprobs: Vec<Option<f32>>,
    /// Their texts; `bytes:\x…` where a token is no whole characters. Or their ids, as `token_id:N`.
    pub tokens: Vec<String>,
    /// The most probable tokens and the token itself; null for tokens of an echoed prompt.
    #[schema(value_type = Vec<Option<std::collections::HashMap<String, f32>>>)]
    pub top_logprobs: Vec<Option<TopLogprobs>>,
}

/// Texts of tokens with their log-probabilities, as an object of JSON.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopLogprobs(pub Vec<(String, f32)>);

impl Serialize for TopLogprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(token, logprob)| (token, logprob)))
    }
}

/// Log-probabilities of a message.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, utoipa::ToSchema)]
pub struct ChatLogprobs {
    /// Of each token.
    pub content: Vec<ChatTokenLogprob>,
    /// Models here do not have it.
    pub refusal: Option<()>,
}

/// A token of a message.
#[derive(Clone, Debug, PartialEq, serde::Serialize, utoipa::ToSchema)]
pub struct ChatTokenLogprob {
    /// The token.
    #[serde(flatten)]
    pub token: ChatTopLogprob,
    /// The most probable tokens in its place.
    pub top_logprobs: Vec<ChatTopLogprob>,
}

/// A token with its log-probability.
#[derive(Clone, Debug, PartialEq, serde::Serialize, utoipa::ToSchema)]
pub struct ChatTopLogprob {
    /// Its text; U+FFFD where it is no whole characters. Or its id, as `token_id:N`.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// The bytes of its text.
    pub bytes: Vec<u8>,
}

/// How tokens are spelled.
#[derive(Clone)]
pub(crate) struct Spelling {
    pub(crate) tokenizer: Tokenizer,
    /// By their ids, as vLLM does where that is asked for.
    pub(crate) as_ids: bool,
}

/// Makes the log-probabilities of one completion, in the order of its tokens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Offsets {
    /// Characters so far.
    characters: usize,
}

impl Spelling {
    /// In a completion, where OpenAI has a form for those that are no whole characters.
    fn of_completion(&self, id: u32) -> String {
        let bytes = self.tokenizer.bytes(id);
        match std::str::from_utf8(bytes) {
            _ if self.as_ids => format!("token_id:{id}"),
            Ok(text) => text.to_owned(),
            Err(_) => bytes.iter().fold("bytes:".to_owned(), |text, byte| text + &format!("\\x{byte:02x}")),
        }
    }

    /// In a chat, where the bytes are beside it.
    fn of_chat(&self, id: u32) -> String {
        if self.as_ids { format!("token_id:{id}") } else { self.tokenizer.decode(&[id], false) }
    }
}

impl Offsets {
    /// Those of an echoed prompt.
    pub(crate) fn prompt(&mut self, spelling: &Spelling, prompt: &[PromptToken], into: &mut CompletionLogprobs) {
        let mut text = Detokenizer::new(spelling.tokenizer.clone(), false);
        for token in prompt {
            into.text_offset.push(self.characters);
            into.token_logprobs.push(token.logprob.map(at_least));
            into.tokens.push(spelling.of_completion(token.id));
            into.top_logprobs.push(None);
            self.characters += text.push(token.id).chars().count();
        }
        self.characters += text.finish().chars().count();
    }

    /// Those of a generated token.
    pub(crate) fn token(&mut self, spelling: &Spelling, event: &TokenEvent, into: &mut CompletionLogprobs) {
        let chosen = (spelling.of_completion(event.token.id), at_least(event.token.model_logprob));
        let mut top = vec![chosen.clone()];
        for other in &event.top {
            // Keys of an object are there once.
            let spelled = spelling.of_completion(other.id);
            if top.iter().all(|(token, _)| *token != spelled) {
                top.push((spelled, at_least(other.model_logprob)));
            }
        }
        // The most probable first.
        top.sort_by(|a, b| b.1.total_cmp(&a.1));
        into.text_offset.push(self.characters);
        into.token_logprobs.push(Some(chosen.1));
        into.tokens.push(chosen.0);
        into.top_logprobs.push(Some(TopLogprobs(top)));
        if !event.token.special {
            self.characters += event.token.text.chars().count();
        }
    }
}

impl ChatTokenLogprob {
    pub(crate) fn new(spelling: &Spelling, event: &TokenEvent) -> Self {
        let of = |token: &api::Token| ChatTopLogprob {
            token: spelling.of_chat(token.id),
            logprob: at_least(token.model_logprob),
            bytes: spelling.tokenizer.bytes(token.id).to_vec(),
        };
        Self { token: of(&event.token), top_logprobs: event.top.iter().map(of).collect() }
    }
}

fn at_least(logprob: f32) -> f32 {
    logprob.max(LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_log_probability_is_a_number_of_json() {
        assert_eq!([f32::NEG_INFINITY, f32::NAN, -1e30, -2.5, 0.0].map(at_least), [LEAST, LEAST, LEAST, -2.5, 0.0]);
        let top = TopLogprobs(vec![("a\"".to_owned(), -0.5), ("é".to_owned(), LEAST)]);
        assert_eq!(serde_json::to_string(&top).expect("JSON"), r#"{"a\"":-0.5,"é":-9999.0}"#);
    }
}
