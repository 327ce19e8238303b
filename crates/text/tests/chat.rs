//! Conversations to prompts: which template is taken, what a conversation must be, and what is refused.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use text::{ChatError, ChatTemplate, ChatTemplateError, Conversation};

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    dir
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::open(folder(&[("chat_template.jinja", source)]).path()).unwrap()
}

fn falcon() -> ChatTemplate {
    ChatTemplate::open(folder(&[]).path()).unwrap()
}

#[expect(clippy::needless_pass_by_value, reason = "most are made where they are passed")]
fn conversation(messages: Value) -> Conversation {
    Conversation { messages: messages.as_array().unwrap().clone(), ..Conversation::default() }
}

fn prompted(messages: Value) -> Conversation {
    Conversation { add_generation_prompt: true, ..conversation(messages) }
}

fn error_of(template: &ChatTemplate, conversation: &Conversation) -> String {
    template.render(conversation).unwrap_err().to_string()
}

#[test]
fn falcons_own_format() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden/chat_template.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let falcon = falcon();
    assert_eq!(falcon.stops(), ["\nUser:"]);
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 5);
    for case in cases {
        let messages = &case["messages"];
        assert_eq!(falcon.render(&prompted(messages.clone())).unwrap(), case["with_generation_prompt"], "{messages}");
        assert_eq!(falcon.render(&conversation(messages.clone())).unwrap(), case["without"], "{messages}");
    }
}

#[test]
fn an_answer_of_falcon_comes_back_as_it_was_written() {
    let falcon = falcon();
    // What follows `Falcon:` begins with a space.
    let turns = json!([{"role": "user", "content": "A?"}, {"role": "assistant", "content": " B."},
        {"role": "developer", "content": "C."}]);
    assert_eq!(falcon.render(&prompted(turns)).unwrap(), "User: A?\nFalcon: B.\nSystem: C.\nFalcon:");
    let continued = Conversation {
        continue_final_message: true,
        ..conversation(json!([{"role": "user", "content": "A?"}, {"role": "assistant", "content": "B, "}]))
    };
    assert_eq!(falcon.render(&continued).unwrap(), "User: A?\nFalcon: B, ");
}

#[test]
fn content_in_parts_is_joined_where_the_template_takes_strings() {
    let parts =
        prompted(json!([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]));
    assert_eq!(falcon().render(&parts).unwrap(), "User: ab\nFalcon:");
    let lists = template("{% for m in messages %}{% for part in m.content %}[{{ part.text }}]{% endfor %}{% endfor %}");
    assert_eq!(lists.render(&parts).unwrap(), "[a][b]");
    // A string is a part where the template takes nothing else.
    assert_eq!(lists.render(&prompted(json!([{"role": "user", "content": "ab"}]))).unwrap(), "[ab]");
    let both =
        template("{% for m in messages %}{{ m.content if m.content is string else m.content[0].text }}{% endfor %}");
    assert_eq!(both.render(&parts).unwrap(), "a");
    assert_eq!(both.render(&prompted(json!([{"role": "user", "content": "ab"}]))).unwrap(), "ab");
}

#[test]
fn what_is_no_conversation_is_refused_with_its_place() {
    let falcon = falcon();
    for (messages, expected) in [
        (json!([]), "`messages` is empty; expected at least one message"),
        (json!([{"role": "user", "content": "a"}, "b"]), "`messages[1]` must be an object, and is a string"),
        (
            json!([{"role": "user", "content": 1}]),
            "`messages[0].content` must be a string, a list of parts or null, and is a number",
        ),
        (
            json!([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]}]),
            "`messages[0].content[1]` has type `image_url`; this model takes text alone: {\"type\": \"text\", \"text\": …}",
        ),
        (
            json!([{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "input_audio"}]}]),
            "`messages[1].content[0]` has type `input_audio`; this model takes text alone: \
             {\"type\": \"text\", \"text\": …}",
        ),
        (json!([{"role": "user", "content": [{"type": "text"}]}]), "`messages[0].content[0].text` must be a string"),
    ] {
        assert_eq!(error_of(&falcon, &prompted(messages)), expected);
    }
    let both = Conversation { continue_final_message: true, ..prompted(json!([{"role": "user", "content": "a"}])) };
    assert_eq!(error_of(&falcon, &both), "`continue_final_message` and `add_generation_prompt` cannot both be set");
    let nothing =
        Conversation { continue_final_message: true, ..conversation(json!([{"role": "assistant", "content": null}])) };
    assert_eq!(falcon.render(&nothing), Err(ChatError::NothingToContinue));
    let mut reserved = prompted(json!([{"role": "user", "content": "a"}]));
    reserved.kwargs.insert("messages".to_owned(), json!([]));
    assert!(error_of(&falcon, &reserved).starts_with("`messages` cannot be an argument"));
    let named =
        Conversation { template: Some("rag".to_owned()), ..prompted(json!([{"role": "user", "content": "a"}])) };
    assert_eq!(error_of(&falcon, &named), "the model has no chat template named `rag`; it has `default`");
}

#[test]
fn a_template_that_is_not_valid_is_refused_with_its_file_and_line() {
    let open = |files: &[(&str, &str)]| ChatTemplate::open(folder(files).path()).err().unwrap();
    let error = open(&[("chat_template.jinja", "a\nb\n{% if messages %}\n{% endfor %}")]);
    assert!(matches!(&error, ChatTemplateError::Syntax { line: 4, .. }), "{error}");
    let error = error.to_string();
    assert!(error.contains("chat_template.jinja: line 4 of the chat template: syntax error: "), "{error}");
    let config = json!({"chat_template": [{"name": "a", "template": "{{ x"}]}).to_string();
    let error = open(&[("tokenizer_config.json", &config)]).to_string();
    assert!(error.contains("tokenizer_config.json: `chat_template[0].template`: line 1"), "{error}");
    let config = json!({"chat_template": 3}).to_string();
    let error = open(&[("tokenizer_config.json", &config)]).to_string();
    assert!(error.contains("`chat_template`: expected a template, or a list"), "{error}");
    assert!(open(&[("tokenizer_config.json", "[")]).to_string().contains("not a JSON object"));
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    assert!(matches!(open(&[("chat_template.jinja", pointer)]), ChatTemplateError::LfsPointer { .. }));
    let long = "x".repeat(text::chat::SOURCE_BYTES_MAX + 1);
    assert!(matches!(open(&[("chat_template.jinja", &long)]), ChatTemplateError::TooLong { .. }));
}

#[test]
fn a_template_that_fails_says_where_and_why() {
    let user = prompted(json!([{"role": "user", "content": "a"}]));
    let error = error_of(&template("a\n{{ messages[0].content + 1 }}"), &user);
    assert!(error.contains("chat_template.jinja: line 2 of the chat template: invalid operation: "), "{error}");
    let refused =
        template("{% macro m() %}{{ raise_exception('No ' ~ 1) }}{% endmacro %}{% set x %}{{ m() }}{% endset %}");
    assert_eq!(refused.render(&user), Err(ChatError::Refused { message: "No 1".to_owned() }));
    for source in ["{% include 'a' %}", "{% extends 'a' %}", "{% import 'chat_template.jinja' as a %}"] {
        assert!(error_of(&template(source), &user).contains("template not found"), "{source}");
    }
}
