//! What OpenAI's answers mean, of completions and of chats.

use super::{Answers, Progress, parsed, reported};
use crate::target::record::{Counts, Seen};
use crate::target::{Record, ServerInfo, TargetError};
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;

pub(super) struct OpenAiAnswers;

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    choices: Option<Vec<Choice<'a>>>,
    usage: Option<Usage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    /// Of a completion.
    #[serde(borrow)]
    text: Option<Text<'a>>,
    /// Of a chat.
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    #[serde(borrow)]
    finish_reason: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<Text<'a>>,
}

/// A string, in place where it can be.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: Option<u32>,
    completion_tokens: Option<u32>,
    prompt_tokens_details: Option<PromptTokens>,
}

#[derive(Deserialize)]
struct PromptTokens {
    cached_tokens: Option<u32>,
}

impl Answers for OpenAiAnswers {
    fn info_route(&self) -> &'static str {
        "/v1/models"
    }

    /// The first model is the one that requests name.
    fn info(&self, told: &Value) -> ServerInfo {
        let model = &told["data"][0];
        ServerInfo::told(&model["id"], &[&model["owned_by"]])
    }

    fn last_key(&self) -> &'static str {
        "finish_reason"
    }

    fn has_done(&self) -> bool {
        true
    }

    fn event(&self, data: &str, record: &mut Record) -> Result<Progress, TargetError> {
        let answer: Answer<'_> = parsed(data)?;
        let first = answer.choices.as_ref().and_then(|choices| choices.first());
        if let Some(text) = first.and_then(Choice::text) {
            // Some servers put several tokens into an event, and may tell in each how many there are so far.
            let counted = answer.usage.as_ref().and_then(|usage| usage.completion_tokens);
            let tokens = counted.map_or(1, |counted| counted.saturating_sub(record.came()));
            if tokens > 0 {
                record.arrived(tokens as usize, Seen::Text(text));
            }
        }
        take(&answer, record)
    }

    fn whole(&self, body: &str, record: &mut Record) -> Result<Progress, TargetError> {
        take(&parsed(body)?, record)
    }
}

impl Choice<'_> {
    /// The first chunk of a chat has none, and neither has the one with the `finish_reason`, mostly.
    fn text(&self) -> Option<&str> {
        let content = self.delta.as_ref().and_then(|delta| delta.content.as_ref());
        self.text.as_ref().or(content).map(|text| &*text.0).filter(|text| !text.is_empty())
    }
}

fn take(answer: &Answer<'_>, record: &mut Record) -> Result<Progress, TargetError> {
    if let Some(error) = &answer.error {
        return Err(reported(error));
    }
    if let Some(usage) = &answer.usage {
        record.note(Counts {
            input_tokens: usage.prompt_tokens,
            cached_tokens: usage.prompt_tokens_details.as_ref().and_then(|details| details.cached_tokens),
            output_tokens: usage.completion_tokens,
        });
    }
    let Some(choices) = &answer.choices else { return Ok(Progress::Unknown) };
    match choices.first().and_then(|choice| choice.finish_reason.as_ref()).map(|reason| &*reason.0) {
        // vLLM's words for an answer that it gave up.
        Some(reason @ ("abort" | "error")) => Err(TargetError::Reported(format!("finish_reason is {reason:?}"))),
        Some(_) => Ok(Progress::Finished),
        None => Ok(Progress::Going),
    }
}
