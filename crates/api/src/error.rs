//! What a client gets instead of an answer.

use serde::{Deserialize, Serialize};

use crate::ValidationError;

/// TGI's kinds of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
        }
    }
}

/// The JSON of an error, as a body or as the one event that ends a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// For people.
    pub error: String,
    /// For programs.
    #[serde(rename = "error_type")]
    pub kind: ErrorKind,
}

impl ErrorBody {
    /// A request that broke a rule of its own protocol, such as JSON that cannot be read.
    #[must_use]
    pub fn rejection(message: impl Into<String>) -> Self {
        Self { error: message.into(), kind: ErrorKind::Validation }
    }

    /// The model, or what runs it, has failed by this `cause`.
    #[must_use]
    pub fn generation(cause: impl std::fmt::Display) -> Self {
        Self { error: format!("Request failed during generation: Server error: {cause}"), kind: ErrorKind::Generation }
    }

    /// Too many requests wait.
    #[must_use]
    pub fn overloaded() -> Self {
        Self { error: "Model is overloaded".into(), kind: ErrorKind::Overloaded }
    }

    /// The generation ended before it was finished.
    #[must_use]
    pub fn incomplete_generation() -> Self {
        Self { error: "Incomplete generation".into(), kind: ErrorKind::IncompleteGeneration }
    }

    /// The server cannot serve.
    #[must_use]
    pub fn unhealthy() -> Self {
        Self { error: "unhealthy".into(), kind: ErrorKind::Healthcheck }
    }
}

impl From<&ValidationError> for ErrorBody {
    fn from(error: &ValidationError) -> Self {
        Self { error: error.full_message(), kind: ErrorKind::Validation }
    }
}
