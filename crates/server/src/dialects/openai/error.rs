//! What a client gets instead of an answer.

use crate::Error;
use crate::dialects::tgi;
use crate::http::{Rejection, whole_seconds};
use api::{Field, Violation};
use axum::Json;
use axum::http::StatusCode;
use axum::http::header::{HeaderName, HeaderValue, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::time::Duration;

/// The JSON of an error, as a body or as the event that ends a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorBody {
    /// OpenAI's object.
    pub error: ErrorObject,
    /// Beside it, for clients of Text Generation Inference.
    pub error_type: tgi::ErrorKind,
}

/// OpenAI's description of an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorObject {
    /// For people.
    pub message: String,
    /// For programs: `invalid_request_error`, `rate_limit_error` or `server_error`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The field that is at fault.
    pub param: Option<String>,
    /// Which rule was broken.
    pub code: Option<&'static str>,
}

/// A request that gets an error instead of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    status: StatusCode,
    pub(crate) body: ErrorBody,
    retry_after: Option<Duration>,
}

impl Failure {
    /// The request is at fault.
    pub(crate) fn invalid(param: impl Into<Option<String>>, code: Option<&'static str>, message: String) -> Self {
        Self::refused(StatusCode::BAD_REQUEST, param.into(), code, message)
    }

    /// What the field asks for does not exist here.
    pub(crate) fn unsupported(param: &str, why: &str) -> Self {
        Self::invalid(param.to_owned(), Some("unsupported_parameter"), format!("`{param}` is not supported: {why}"))
    }

    /// There is no such model.
    pub(crate) fn no_model(id: &str, served: &str) -> Self {
        let message = format!("there is no model `{id}`; there is `{served}`");
        Self::refused(StatusCode::NOT_FOUND, Some("model".to_owned()), Some("model_not_found"), message)
    }

    fn refused(status: StatusCode, param: Option<String>, code: Option<&'static str>, message: String) -> Self {
        let error = ErrorObject { message, kind: "invalid_request_error", param, code };
        Self { status, body: ErrorBody { error, error_type: tgi::ErrorKind::Validation }, retry_after: None }
    }

    fn of_violation(violation: &Violation) -> Self {
        let param = field_name(violation.field()).to_owned();
        Self::invalid(param, Some(code_of(violation)), message(violation))
    }

    /// What is said of `error`.
    pub(crate) fn new(error: &Error) -> Self {
        let (status, kind, code) = match error {
            Error::Validation(violation) => return Self::of_violation(violation),
            Error::Overloaded { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Some("rate_limit_exceeded"))
            }
            Error::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("service_unavailable")),
            Error::Generation { .. } | Error::Incomplete | Error::Stalled { .. } => {
                (StatusCode::INTERNAL_SERVER_ERROR, "server_error", None)
            }
        };
        let retry_after = match error {
            Error::Overloaded { retry_after } => Some(*retry_after),
            _ => None,
        };
        let error_type = tgi::ErrorBody::from(error).kind;
        let error = ErrorObject { message: error.to_string(), kind, param: None, code };
        Self { status, body: ErrorBody { error, error_type }, retry_after }
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        let Rejection { status, message } = rejection;
        let code = match status {
            StatusCode::NOT_FOUND => Some("unknown_url"),
            _ => None,
        };
        Self::refused(status, None, code, message)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        if let Some(wait) = self.retry_after {
            let headers = response.headers_mut();
            headers.insert(RETRY_AFTER, whole_seconds(wait));
            let milliseconds = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            headers.insert(HeaderName::from_static("retry-after-ms"), HeaderValue::from(milliseconds));
        }
        response
    }
}

/// How OpenAI spells a field; where it has none, vLLM.
fn field_name(field: Field) -> &'static str {
    match field {
        Field::PromptIds => "prompt",
        Field::Truncate => "truncate_prompt_tokens",
        Field::PromptLogprobs => "echo",
        Field::TopTokens => "logprobs",
        Field::Grammar => "response_format",
        same => same.name(),
    }
}

/// OpenAI's code of the rule.
fn code_of(violation: &Violation) -> &'static str {
    match violation {
        Violation::TooMany { field: Field::Stop, .. } => "array_above_max_length",
        Violation::TooMany { .. } | Violation::TooManyContinuations { .. } => "integer_above_max_value",
        Violation::TooFew { .. } => "integer_below_min_value",
        Violation::StopBytes { .. } => "string_above_max_length",
        Violation::PromptBytes { .. } | Violation::PromptTokens { .. } | Violation::TotalTokens { .. } => {
            "context_length_exceeded"
        }
        Violation::Unsupported { .. } => "unsupported_parameter",
        _ => "invalid_value",
    }
}

/// What is said of a broken rule. Clients know what is too long by the words "maximum context length".
fn message(violation: &Violation) -> String {
    let prompt = field_name(Field::Prompt);
    match *violation {
        Violation::TotalTokens { max, prompt: tokens, new } => format!(
            "the maximum context length of this model is {max} tokens: `{prompt}` has {tokens}, and `max_tokens` asks for \
             {new}, which is {} too many together",
            tokens + new as usize - max
        ),
        Violation::PromptTokens { max, given } => format!(
            "the maximum context length of this model leaves {max} tokens for `{prompt}`, which has {given}: {} too many",
            given - max
        ),
        Violation::PromptBytes { max, tokens, given } => format!(
            "the maximum context length of this model leaves {tokens} tokens for `{prompt}`, which are at most {max} bytes. \
             It has {given}: {} too many",
            given - max
        ),
        ref other => other.message(field_name),
    }
}
