//! Why a request gets no answer, and how each face says so.

use api::{ErrorBody, ErrorKind, ValidationError};
use coordinator::SubmitError;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// When a caller may try again who was refused because of the others.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a request gets no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request is at fault.
    #[error(transparent)]
    Validation(#[from] ValidationError),
    /// As many requests as may be are under way.
    #[error("Model is overloaded")]
    Overloaded,
    /// The model takes no requests now.
    #[error(transparent)]
    Unavailable(#[from] SubmitError),
    /// The model failed while it worked on the request.
    #[error("{reason}")]
    Generation {
        /// What the ranks said.
        reason: String,
    },
    /// The server ended before the request did.
    #[error("Incomplete generation")]
    Incomplete,
}

impl From<&Error> for ErrorBody {
    fn from(error: &Error) -> Self {
        match error {
            Error::Validation(error) => Self::from(error),
            Error::Overloaded => Self::overloaded(),
            Error::Unavailable(error) => Self { error: error.to_string(), kind: ErrorKind::Healthcheck },
            Error::Generation { reason } => Self::generation(reason),
            Error::Incomplete => Self::incomplete_generation(),
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
            Error::Overloaded => {
                let details = ErrorDetails::with_retry_info(Some(RETRY_AFTER));
                Self::with_error_details(Code::ResourceExhausted, error.to_string(), details)
            }
            Error::Unavailable(_) | Error::Generation { .. } | Error::Incomplete => {
                Self::unavailable(error.to_string())
            }
        }
    }
}
