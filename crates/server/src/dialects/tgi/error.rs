//! What a client gets instead of an answer.

use crate::Error;
use api::{Field, Violation};
use serde::{Deserialize, Serialize};

/// TGI's kinds of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request is at fault.
    Validation,
    /// The model, or what runs it, has failed.
    Generation,
    /// Too many requests wait.
    Overloaded,
    /// The generation ended before it was finished.
    IncompleteGeneration,
    /// The server cannot serve.
    Healthcheck,
    /// There is no such route.
    NotFound,
    /// A key is needed.
    Authentication,
}

impl ErrorKind {
    /// The HTTP status code.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Validation => 422,
            Self::Generation => 424,
            Self::Overloaded => 429,
            Self::IncompleteGeneration => 500,
            Self::Healthcheck => 503,
            Self::NotFound => 404,
            Self::Authentication => 401,
        }
    }
}

/// The JSON of an error, as a body or as the event that ends a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ErrorBody {
    /// For people.
    pub error: String,
    /// For programs.
    #[serde(rename = "error_type")]
    pub kind: ErrorKind,
}

impl ErrorBody {
    /// The server cannot serve.
    #[must_use]
    pub fn unhealthy() -> Self {
        Self { error: "unhealthy".into(), kind: ErrorKind::Healthcheck }
    }
}

impl From<&Violation> for ErrorBody {
    fn from(violation: &Violation) -> Self {
        Self { error: format!("Input validation error: {}", message(violation)), kind: ErrorKind::Validation }
    }
}

impl From<&Error> for ErrorBody {
    fn from(error: &Error) -> Self {
        let (error, kind) = match error {
            Error::Validation(violation) => return Self::from(violation),
            Error::Overloaded { .. } => ("Model is overloaded".to_owned(), ErrorKind::Overloaded),
            Error::Unavailable(_) | Error::Recovering { .. } => (error.to_string(), ErrorKind::Healthcheck),
            Error::Generation { reason } | Error::Lost { reason } => {
                (format!("Request failed during generation: Server error: {reason}"), ErrorKind::Generation)
            }
            Error::Incomplete => ("Incomplete generation".to_owned(), ErrorKind::IncompleteGeneration),
            Error::Stalled { .. } => (error.to_string(), ErrorKind::IncompleteGeneration),
        };
        Self { error, kind }
    }
}

/// How TGI spells a field.
#[must_use]
pub fn field_name(field: Field) -> &'static str {
    match field {
        Field::Prompt => "inputs",
        Field::PromptIds => "input_ids",
        Field::MaxTokens => "max_new_tokens",
        Field::N => "best_of",
        Field::RelativeFrequencyPenalty => "frequency_penalty",
        Field::FrequencyPenalty => "count_frequency_penalty",
        Field::PromptLogprobs => "decoder_input_details",
        Field::TopTokens => "top_n_tokens",
        same => same.name(),
    }
}

/// What TGI says of it, where TGI has the rule. Some of its limits are inclusive although it says "less than".
#[must_use]
pub fn message(violation: &Violation) -> String {
    use Violation as V;
    match *violation {
        V::Sampling(ref error) => {
            error.to_string().replace(&format!("`{}`", error.field()), &format!("`{}`", field_name(violation.field())))
        }
        V::TooMany { field: Field::BestOf | Field::N, max: 1, .. } => {
            "`best_of` != 1 is not allowed for this endpoint".to_owned()
        }
        V::TooMany { field: Field::BestOf | Field::N, max, given } => {
            format!("`best_of` must be > 0 and <= {max}. Given: {given}")
        }
        V::TooMany { field: Field::Stop, max, given } => {
            format!("`stop` supports up to {max} stop sequences. Given: {given}")
        }
        V::TooMany { field: Field::TopTokens, max, given } => {
            format!("`top_n_tokens` must be >= 0 and <= {max}. Given: {given}")
        }
        V::TooFew { field: Field::MaxTokens, .. } => "`max_new_tokens` must be strictly positive".to_owned(),
        V::NotDrawn { .. } => "you must use sampling when `best_of` is > 1".to_owned(),
        V::Conflict { field: Field::Seed, with: Field::BestOf } => {
            "`seed` must not be set when `best_of` > 1".to_owned()
        }
        V::Conflict { field: Field::BestOf, with: Field::Stream } => {
            "`best_of` != 1 is not supported when streaming tokens".to_owned()
        }
        V::Conflict { field: Field::PromptLogprobs, with: Field::Stream } => {
            "`decoder_input_details` == true is not supported when streaming tokens".to_owned()
        }
        V::Conflict { field: Field::PromptIds, with: Field::Prompt } => {
            "`inputs` and `input_ids` must not both be set".to_owned()
        }
        V::TruncateLength { max, given } => {
            format!("`truncate` must be strictly positive and less than {max}. Given: {given}")
        }
        V::TotalTokens { max, prompt, new } => format!(
            "`inputs` tokens + `max_new_tokens` must be <= {max}. Given: {prompt} `inputs` tokens and {new} `max_new_tokens`"
        ),
        V::PromptTokens { max, given } => format!("`inputs` must have less than {max} tokens. Given: {given}"),
        ref other => other.message(field_name),
    }
}
