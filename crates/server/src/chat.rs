//! From conversations to the tokens of prompts.

use crate::tokenizing::PromptEncoder;
use api::{Conversation, Violation};
use serde_json::Value;
use std::time::{SystemTime, UNIX_EPOCH};
use text::ChatTemplate;

/// How conversations become prompts.
#[derive(Clone)]
pub struct Chat {
    /// The model's templates.
    pub template: ChatTemplate,
    /// What is done with a conversation that is too long.
    pub overflow: ChatOverflow,
}

/// What is done with a conversation that is too long, unless the request says where to truncate its prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChatOverflow {
    /// It is refused.
    #[default]
    Error,
    /// Its oldest turns are left out, as many as it takes. A turn is a message of the user with all that follows up to the
    /// next one. System messages and the last turn stay.
    Cut,
}

impl Chat {
    /// The prompt of a conversation, in text.
    pub(crate) fn render(&self, conversation: &Conversation) -> Result<String, Violation> {
        self.template.render(conversation).map_err(Violation::Conversation)
    }

    /// The tokens of a conversation's prompt, of which there should be at most `room`.
    pub(crate) fn encode(
        &self,
        encoder: &PromptEncoder<'_>,
        conversation: &Conversation,
        room: usize,
    ) -> Result<Vec<u32>, Violation> {
        let encode = |conversation: &Conversation| encoder.text(&self.render(conversation)?, false);
        let whole = encode(conversation);
        if self.overflow == ChatOverflow::Error || encoder.truncate.is_some() || fits(&whole, room) {
            return whole;
        }
        let starts = starts_of_turns(&conversation.messages);
        // Every turn less makes it shorter. The last that was tried and did not fit says why.
        let (mut begin, mut end, mut shortest) = (0, starts.len(), whole);
        let mut found = None;
        while begin < end {
            // The shortest first: most often nothing else is asked where nothing fits.
            let middle = if found.is_none() { end - 1 } else { (begin + end) / 2 };
            let attempt = encode(&from_turn(conversation, starts[middle]));
            if fits(&attempt, room) {
                found = Some(attempt);
                end = middle;
            } else if found.is_none() {
                shortest = attempt;
                break;
            } else {
                begin = middle + 1;
            }
        }
        found.unwrap_or(shortest)
    }
}

/// Whether a prompt is not too long. What cannot be rendered is not longer for having more turns.
fn fits(prompt: &Result<Vec<u32>, Violation>, room: usize) -> bool {
    match prompt {
        Ok(ids) => ids.len() <= room,
        Err(Violation::PromptBytes { .. }) => false,
        Err(_) => true,
    }
}

/// Where the turns but the first begin.
fn starts_of_turns(messages: &[Value]) -> Vec<usize> {
    let users = messages.iter().enumerate().filter(|(_, message)| message["role"] == "user");
    let first = messages.iter().position(|message| !is_system(message)).unwrap_or(0);
    users.map(|(index, _)| index).filter(|&index| index > first).collect()
}

/// The conversation without the turns that begin before message `start`.
fn from_turn(conversation: &Conversation, start: usize) -> Conversation {
    let messages = conversation.messages.iter().enumerate();
    let kept = messages.filter(|&(index, message)| index >= start || is_system(message));
    Conversation { messages: kept.map(|(_, message)| message.clone()).collect(), ..conversation.clone() }
}

fn is_system(message: &Value) -> bool {
    message["role"] == "system" || message["role"] == "developer"
}

/// Seconds since 1970, for templates that print the date.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
