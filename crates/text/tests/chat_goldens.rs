//! Chat templates of public models, and Jinja's dialect, against what transformers makes of them
//! (testdata/chat-templates/make-goldens.py).

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tempfile::TempDir;
use text::{ChatError, ChatTemplate, Conversation};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/chat-templates").join(name)
}

fn read(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(data(name)).unwrap()).unwrap()
}

fn cases(name: &str) -> Vec<Value> {
    read(name)["cases"].as_array().unwrap().clone()
}

/// A folder with the template and the special tokens.
fn folder(template: &str, special_tokens: &Value) -> TempDir {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    std::fs::write(dir.path().join("tokenizer_config.json"), special_tokens.to_string()).unwrap();
    dir
}

fn list(value: &Value) -> Option<Vec<Value>> {
    value.as_array().cloned()
}

/// Python's error where minijinja goes on, with nothing to loop over.
const LOOP_OVER_NONE: &str = "TypeError: 'NoneType' object is not iterable";

/// What differs from the outcome that a golden states, if anything.
fn difference(case: &Value, found: &Result<String, ChatError>) -> Option<String> {
    let is_right = match found {
        Ok(prompt) => case["prompt"] == **prompt,
        Err(ChatError::Refused { message }) => case["refused"] == **message,
        Err(_) => case.get("error").is_some(),
    } || case["error"] == LOOP_OVER_NONE;
    let expected = ["prompt", "refused", "error"].map(|key| &case[key]);
    let expected = expected.into_iter().find(|value| !value.is_null());
    (!is_right).then(|| format!("expected {}\nfound    {found:?}", expected.unwrap()))
}

#[test]
fn every_template_makes_transformers_prompts() {
    let conversations = read("conversations.json");
    let mut differences = Vec::new();
    let goldens = cases("goldens.json");
    assert!(goldens.len() > 600);
    let mut opened: Option<(String, ChatTemplate)> = None;
    for case in &goldens {
        let name = case["template"].as_str().unwrap();
        if opened.as_ref().is_none_or(|(opened, _)| opened != name) {
            let source = std::fs::read_to_string(data("templates").join(format!("{name}.jinja"))).unwrap();
            let template = ChatTemplate::open(folder(&source, &conversations["special_tokens"]).path()).unwrap();
            opened = Some((name.to_owned(), template));
        }
        let given = &conversations["conversations"][case["conversation"].as_str().unwrap()];
        let conversation = Conversation {
            messages: list(&given["messages"]).unwrap(),
            tools: list(&given["tools"]),
            add_generation_prompt: case["run"] == "prompted",
            continue_final_message: case["run"] == "continued",
            kwargs: given["kwargs"].as_object().cloned().unwrap_or_default(),
            unix_seconds: conversations["unix_seconds"].as_u64().unwrap(),
            ..Conversation::default()
        };
        let found = opened.as_ref().unwrap().1.render(&conversation);
        if let Some(difference) = difference(case, &found) {
            differences.push(format!("{name}, {}, {}:\n{difference}", case["conversation"], case["run"]));
        }
    }
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn jinjas_dialect_is_transformers() {
    let variables: Map<String, Value> = serde_json::from_value(read("dialect-variables.json")).unwrap();
    let unix_seconds = read("conversations.json")["unix_seconds"].as_u64().unwrap();
    let mut differences = Vec::new();
    let goldens = cases("dialect.json");
    assert!(goldens.len() > 200);
    for case in &goldens {
        let line = case["template"].as_str().unwrap();
        let known = line.strip_prefix("~~ ");
        let source: String = serde_json::from_str(&format!("\"{}\"", known.unwrap_or(line))).unwrap();
        let difference = match ChatTemplate::open(folder(&source, &json!({})).path()) {
            Ok(template) => {
                let messages = vec![json!({"role": "user"})];
                let kwargs = variables.clone();
                let found =
                    template.render(&Conversation { messages, kwargs, unix_seconds, ..Conversation::default() });
                difference(case, &found)
            }
            Err(error) => case.get("error").is_none().then(|| error.to_string()),
        };
        match (known, difference) {
            (None, Some(difference)) => differences.push(format!("{line}\n{difference}")),
            (Some(_), None) => differences.push(format!("{line}\nno longer differs")),
            _ => {}
        }
    }
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), differences.join("\n"));
}

#[test]
fn the_template_of_a_folder_is_the_one_that_transformers_takes() {
    let goldens = cases("folders.json");
    assert!(goldens.len() > 5);
    for case in &goldens {
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("tokenizer_config.json"), case["config"].to_string()).unwrap();
        for (name, text) in case["files"].as_object().unwrap() {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text.as_str().unwrap()).unwrap();
        }
        let conversation = Conversation {
            messages: vec![json!({"role": "user", "content": "Hi"})],
            tools: list(&case["tools"]),
            template: case["template"].as_str().map(str::to_owned),
            ..Conversation::default()
        };
        let found = ChatTemplate::open(dir.path()).unwrap().render(&conversation);
        assert_eq!(difference(case, &found), None, "{case}");
    }
}
