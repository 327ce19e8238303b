//! What a client gets instead of an answer.

use crate::Error;
use crate::dialects::tgi;
use crate::http::{self, Rejection};
use api::{ChatError, Field, Violation};
use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::time::Duration;

/// The JSON of an error, as a body or as the event that ends a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = openai::ErrorBody)]
pub struct ErrorBody {
    /// OpenAI's object.
    pub error: ErrorObject,
    /// Beside it, for clients of Text Generation Inference.
    pub error_type: tgi::ErrorKind,
}

/// OpenAI's description of an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
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

/// Which of the two kinds of requests it is. They spell some fields differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Completion,
    Chat,
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

    fn of_violation(violation: &Violation, form: Form) -> Self {
        let param = match violation {
            Violation::Conversation(error) => param_of(error),
            other => field_name(other.field(), form).to_owned(),
        };
        Self::invalid(param, Some(code_of(violation)), message(violation, form))
    }

    /// What is said of `error` to a request of this form.
    pub(crate) fn new(error: &Error, form: Form) -> Self {
        let (status, kind, code) = match error {
            Error::Validation(violation) => return Self::of_violation(violation, form),
            Error::Overloaded { .. } => {
                (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Some("rate_limit_exceeded"))
            }
            Error::Unavailable(_) | Error::Recovering { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("service_unavailable"))
            }
            Error::Generation { .. } | Error::Lost { .. } | Error::Incomplete | Error::Stalled { .. } => {
                (StatusCode::INTERNAL_SERVER_ERROR, "server_error", None)
            }
        };
        let (retry_after, error_type) = (error.retry_after(), tgi::ErrorBody::from(error).kind);
        let error = ErrorObject { message: error.to_string(), kind, param: None, code };
        Self { status, body: ErrorBody { error, error_type }, retry_after }
    }
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        let Rejection { status, message } = rejection;
        let (code, error_type) = match status {
            StatusCode::NOT_FOUND => (Some("unknown_url"), tgi::ErrorKind::Validation),
            StatusCode::UNAUTHORIZED => (Some("invalid_api_key"), tgi::ErrorKind::Authentication),
            _ => (None, tgi::ErrorKind::Validation),
        };
        let mut failure = Self::refused(status, None, code, message);
        failure.body.error_type = error_type;
        failure
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        if let Some(wait) = self.retry_after {
            http::retry_after(response.headers_mut(), wait);
        }
        response
    }
}

/// How OpenAI spells a field; where it has none, vLLM.
fn field_name(field: Field, form: Form) -> &'static str {
    match (field, form) {
        (Field::Prompt | Field::PromptIds, Form::Chat) => "messages",
        (Field::PromptIds, Form::Completion) => "prompt",
        (Field::Truncate, _) => "truncate_prompt_tokens",
        (Field::PromptLogprobs, _) => "echo",
        (Field::TopTokens, Form::Completion) => "logprobs",
        (Field::TopTokens, Form::Chat) => "top_logprobs",
        (Field::Grammar, _) => "response_format",
        (same, _) => same.name(),
    }
}

/// Where in the request a conversation is at fault.
fn param_of(error: &ChatError) -> String {
    match error {
        ChatError::NotAnObject { index, .. } => format!("messages[{index}]"),
        ChatError::Content { index, .. } => format!("messages[{index}].content"),
        ChatError::PartType { index, part, .. } => format!("messages[{index}].content[{part}].type"),
        ChatError::PartText { index, part } => format!("messages[{index}].content[{part}].text"),
        ChatError::UnknownTemplate { .. } | ChatError::NoDefault { .. } => "chat_template".to_owned(),
        ChatError::ContinueAndPrompt | ChatError::NothingToContinue | ChatError::ContinuationLost => {
            "continue_final_message".to_owned()
        }
        ChatError::Reserved { name } => format!("chat_template_kwargs.{name}"),
        _ => "messages".to_owned(),
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

/// What is said of a broken rule. litellm knows what is too long by the words with which each begins.
fn message(violation: &Violation, form: Form) -> String {
    let name = |field| field_name(field, form);
    let prompt = name(Field::Prompt);
    match *violation {
        Violation::TotalTokens { max, prompt: tokens, new } => format!(
            "This model's maximum context length is {max} tokens: `{prompt}` has {tokens}, and `max_tokens` asks for \
             {new}, which is {} too many together",
            tokens + new as usize - max
        ),
        Violation::PromptTokens { max, given } => format!(
            "This model's maximum context length is exceeded: `{prompt}` may have {max} tokens, and has {given}: {} too many",
            given - max
        ),
        Violation::PromptBytes { max, tokens, given } => format!(
            "This model's maximum context length is exceeded: `{prompt}` may have {tokens} tokens, which are at most {max} bytes. \
             It has {given}: {} too many",
            given - max
        ),
        ref other => other.message(name),
    }
}
