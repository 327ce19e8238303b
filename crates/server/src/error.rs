//! Why a request gets no answer, and how each API says so.

use crate::incoming::IncomingError;
use api::{ErrorBody, ErrorKind, ValidationError};
use coordinator::SubmitError;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Why a request gets no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum Error {
    /// The request is at fault.
    #[error(transparent)]
    Validation(#[from] ValidationError),
    /// As many requests as may be are under way.
    #[error("Model is overloaded")]
    Overloaded {
        /// When one of them may have ended.
        retry_after: Duration,
    },
    /// The model takes no requests now.
    #[error(transparent)]
    Unavailable(#[from] SubmitError),
    /// The model failed while it worked on the request.
    #[error("{reason}")]
    Generation { reason: String },
    /// The server ended before the request did.
    #[error("Incomplete generation")]
    Incomplete,
    /// The reader of a stream stood still for too long.
    #[error("nothing of the stream was read for {} s, so it was ended (--stalled-stream-timeout)", limit.as_secs())]
    Stalled { limit: Duration },
}

impl From<&Error> for ErrorBody {
    fn from(error: &Error) -> Self {
        match error {
            Error::Validation(error) => Self::from(error),
            Error::Overloaded { .. } => Self::overloaded(),
            Error::Unavailable(error) => Self { error: error.to_string(), kind: ErrorKind::Healthcheck },
            Error::Generation { reason } => Self::generation(reason),
            Error::Incomplete => Self::incomplete_generation(),
            Error::Stalled { .. } => Self { error: error.to_string(), kind: ErrorKind::IncompleteGeneration },
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match &error {
            Error::Validation(violation) => {
                let details = ErrorDetails::with_bad_request_violation(violation.field(), violation.to_string());
                Self::with_error_details(Code::InvalidArgument, violation.full_message(), details)
            }
            Error::Overloaded { retry_after } => {
                let details = ErrorDetails::with_retry_info(Some(*retry_after));
                Self::with_error_details(Code::ResourceExhausted, error.to_string(), details)
            }
            Error::Stalled { .. } => Self::deadline_exceeded(error.to_string()),
            Error::Unavailable(_) | Error::Generation { .. } | Error::Incomplete => {
                Self::unavailable(error.to_string())
            }
        }
    }
}

impl From<IncomingError> for Status {
    fn from(error: IncomingError) -> Self {
        match error {
            IncomingError::HeadersTooLarge { .. } | IncomingError::BodyTooLarge { .. } | IncomingError::Busy => {
                Self::resource_exhausted(error.to_string())
            }
            IncomingError::TooSlow => Self::deadline_exceeded(error.to_string()),
            IncomingError::Broken(cause) => Self::from_error(cause.into()),
        }
    }
}
