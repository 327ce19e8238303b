//! Continuing the last message, as transformers does: its end is marked, and the prompt is cut at the mark.

use serde_json::{Map, Value};

use super::{ChatError, python};

/// As in transformers: with a space at its end, by which one can see whether the template trims the message.
const MARK: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// The content of the last message before it was marked.
pub(super) struct Continuation(String);

impl Continuation {
    /// Marks the end of the last message.
    pub(super) fn mark(messages: &mut [Map<String, Value>]) -> Result<Self, ChatError> {
        let content = messages.last_mut().and_then(|message| message.get_mut("content"));
        let content = content.ok_or(ChatError::NothingToContinue)?;
        let text = match content {
            Value::Array(parts) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
            content => Some(content),
        };
        let Some(Value::String(text)) = text else { return Err(ChatError::NothingToContinue) };
        let before = text.clone();
        *text += MARK;
        Ok(Self(before))
    }

    /// The prompt up to the end of the last message.
    pub(super) fn cut(&self, mut prompt: String) -> Result<String, ChatError> {
        let strip = |text: &str| text.trim_matches(python::is_space).to_owned();
        if !prompt.contains(&strip(&self.0)) {
            return Err(ChatError::ContinuationLost);
        }
        let at = prompt.rfind(MARK.trim_end()).ok_or(ChatError::ContinuationLost)?;
        let is_trimmed = !prompt[at..].starts_with(MARK);
        prompt.truncate(at);
        if is_trimmed {
            prompt.truncate(prompt.trim_end_matches(python::is_space).len());
        }
        Ok(prompt)
    }
}
