//! Messages as a template takes them.

use serde_json::{Map, Value};

use super::ChatError;

/// How a template takes the content of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContentForm {
    /// As a string alone.
    String,
    /// As a string or a list of parts.
    Either,
    /// As a list of parts alone.
    Parts,
}

/// Names of a message's reasoning, the usual one first.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// What a template takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    pub(super) content: ContentForm,
    /// Whether it prints the arguments of a tool call that are a string as they are. Else they must be an object.
    pub(super) argument_text: bool,
}

/// The messages as transformers passes them on, without keys that are null and with the reasoning under each of its usual
/// names; their content and the arguments of tool calls in a form that the template takes.
pub(super) fn prepare(messages: &[Value], form: Form) -> Result<Vec<Map<String, Value>>, ChatError> {
    if messages.is_empty() {
        return Err(ChatError::Empty);
    }
    messages.iter().enumerate().map(|(index, message)| prepare_one(index, message, form)).collect()
}

fn prepare_one(index: usize, message: &Value, form: Form) -> Result<Map<String, Value>, ChatError> {
    let Value::Object(message) = message else {
        return Err(ChatError::NotAnObject { index, found: kind(message) });
    };
    let set = message.iter().filter(|(_, value)| !value.is_null());
    let mut message: Map<String, Value> = set.map(|(key, value)| (key.clone(), value.clone())).collect();
    if let Some(content) = message.get_mut("content") {
        *content = prepare_content(index, content.take(), form.content)?;
    }
    if let Some(Value::Array(calls)) = message.get_mut("tool_calls").filter(|_| !form.argument_text) {
        calls.iter_mut().for_each(parse_arguments);
    }
    Ok(alias_reasoning(message))
}

fn prepare_content(index: usize, content: Value, form: ContentForm) -> Result<Value, ChatError> {
    match content {
        Value::Array(parts) => {
            let texts = parts.iter().enumerate().map(|(part, value)| text_of_part(index, part, value));
            let texts: Vec<&str> = texts.collect::<Result<_, _>>()?;
            Ok(if form == ContentForm::String { Value::from(texts.concat()) } else { Value::Array(parts) })
        }
        Value::String(text) if form == ContentForm::Parts => Ok(serde_json::json!([{"type": "text", "text": text}])),
        Value::String(_) | Value::Object(_) => Ok(content),
        other => Err(ChatError::Content { index, found: kind(&other) }),
    }
}

/// The text of a part `{"type": "text", "text": …}`.
fn text_of_part(index: usize, part: usize, value: &Value) -> Result<&str, ChatError> {
    let kind_of_part = value.get("type").and_then(Value::as_str);
    let text = value.get("text").and_then(Value::as_str);
    match (kind_of_part, text) {
        (Some("text"), Some(text)) => Ok(text),
        (Some("text"), None) => Err(ChatError::PartText { index, part }),
        (Some(found), _) => Err(ChatError::PartType { index, part, found: found.to_owned() }),
        (None, _) => Err(ChatError::PartType { index, part, found: kind(value).to_owned() }),
    }
}

/// OpenAI's clients send the arguments of a call as a string of JSON; most templates take the object.
fn parse_arguments(call: &mut Value) {
    let Some(arguments) = call.get_mut("function").and_then(|function| function.get_mut("arguments")) else { return };
    let parsed = match arguments.as_str() {
        Some("") => Value::Object(Map::new()),
        Some(text) => serde_json::from_str(text).unwrap_or_default(),
        None => return,
    };
    // What is no object is the template's to print.
    if parsed.is_object() {
        *arguments = parsed;
    }
}

fn alias_reasoning(message: Map<String, Value>) -> Map<String, Value> {
    let Some(reasoning) = REASONING.iter().find_map(|key| message.get(*key)).cloned() else { return message };
    let mut aliased = Map::new();
    aliased.insert("thinking".to_owned(), reasoning.clone());
    aliased.extend(message);
    aliased.insert("reasoning_content".to_owned(), reasoning);
    aliased
}

pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
