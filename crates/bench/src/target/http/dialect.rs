//! What sets the dialects apart: where and how each asks, and what its answers mean.

mod chat;
mod completions;
mod openai;
mod sagemaker;
mod sagemaker_runtime;
mod tgi;

use super::super::error::shortened;
use super::super::{Dialect, Record, ServerInfo, TargetError};
use crate::dataset::Request;
use serde::Deserialize;
use serde_json::Value;

/// How a dialect asks.
pub(super) trait HttpDialect: Send + Sync {
    /// The model that requests name, unless the caller names one.
    fn model(&self, info: &ServerInfo) -> String {
        info.model_id.clone()
    }
    /// Where it asks for a stream, or for a whole answer.
    fn route(&self, model: &str, stream: bool) -> String;
    /// The request's body.
    fn body(&self, request: &Request, model: &str, stream: bool) -> Result<Value, TargetError>;
    /// How the events of a stream come.
    fn framing(&self) -> Framing {
        Framing::Events
    }
    /// What the answers mean.
    fn answers(&self) -> &'static dyn Answers;
}

/// What answers mean, which dialects have in common.
pub(super) trait Answers: Send + Sync {
    /// Where the server tells of itself.
    fn info_route(&self) -> &'static str;
    /// What it tells there.
    fn info(&self, told: &Value) -> ServerInfo;
    /// The key that is set in the last event with tokens, and in a whole answer.
    fn last_key(&self) -> &'static str;
    /// Whether a stream ends with the event `[DONE]`.
    fn has_done(&self) -> bool;
    /// Takes the data of an event of a stream.
    fn event(&self, data: &str, record: &mut Record) -> Result<Progress, TargetError>;
    /// Takes an answer that came in one piece.
    fn whole(&self, body: &str, record: &mut Record) -> Result<Progress, TargetError>;
}

/// What an event means for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing that the dialect knows.
    Unknown,
    /// There is more to come.
    Going,
    /// It had the key of the last event with tokens.
    Finished,
}

/// How the events of a stream come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// As server-sent events.
    Events,
    /// As server-sent events, whose bytes are the payload of AWS's event-stream frames.
    AwsFrames,
}

impl Framing {
    /// The content type of such a stream.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Events => "text/event-stream",
            Self::AwsFrames => "application/vnd.amazon.eventstream",
        }
    }
}

/// The dialect's HTTP, if it is one over HTTP.
pub(super) fn over_http(dialect: Dialect) -> Option<&'static dyn HttpDialect> {
    Some(match dialect {
        Dialect::Grpc => return None,
        Dialect::Tgi => &tgi::Tgi,
        Dialect::OpenAi => &completions::Completions,
        Dialect::OpenAiChat => &chat::Chat,
        Dialect::SageMaker => &sagemaker::SageMaker,
        Dialect::SageMakerRuntime => &sagemaker_runtime::SageMakerRuntime,
    })
}

/// JSON of a known shape.
pub(super) fn parsed<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, TargetError> {
    let parsed = serde_json::from_str(text);
    parsed.map_err(|error| TargetError::Unexpected(format!("{error} in {:?}", shortened(text))))
}

/// The error that a body or an event holds: `{"error": "…"}`, `{"error": {"message": "…"}}`, AWS's `{"Message": "…"}`, or
/// vLLM's `{"object": "error", "message": "…"}`.
pub(super) fn error_in(said: &Value) -> Option<String> {
    match &said["error"] {
        Value::Null if said["object"] == "error" => Some(text_of(said)),
        Value::Null => said["Message"].as_str().map(str::to_owned),
        error => Some(text_of(error)),
    }
}

/// An `error` that an event holds.
fn reported(error: &Value) -> TargetError {
    TargetError::Reported(shortened(&text_of(error)))
}

fn text_of(error: &Value) -> String {
    let message = error.as_str().or_else(|| error["message"].as_str());
    message.map_or_else(|| error.to_string(), str::to_owned)
}
