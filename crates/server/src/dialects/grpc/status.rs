//! How gRPC says that a request gets no answer.

use crate::Error;
use crate::dialects::tgi::{ErrorBody, field_name, message};
use crate::incoming::IncomingError;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// With -1 it tells clients not to try again, by gRPC's proposal A6.
pub(super) const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match &error {
            Error::Validation(violation) => {
                let details =
                    ErrorDetails::with_bad_request_violation(field_name(violation.field()), message(violation));
                Self::with_error_details(Code::InvalidArgument, ErrorBody::from(violation).error, details)
            }
            Error::Overloaded { retry_after } => {
                let details = ErrorDetails::with_retry_info(Some(*retry_after));
                Self::with_error_details(Code::ResourceExhausted, error.to_string(), details)
            }
            Error::Recovering { retry_after } => {
                let details = ErrorDetails::with_retry_info(Some(*retry_after));
                Self::with_error_details(Code::Unavailable, error.to_string(), details)
            }
            Error::Stalled { .. } => Self::deadline_exceeded(error.to_string()),
            // Clients that try again elsewhere must not do so: it would break that, too.
            Error::Generation { .. } => {
                let mut metadata = MetadataMap::new();
                metadata.insert(RETRY_PUSHBACK, AsciiMetadataValue::from_static("-1"));
                Self::with_metadata(Code::Internal, error.to_string(), metadata)
            }
            Error::Unavailable(_) | Error::Lost { .. } | Error::Incomplete => Self::unavailable(error.to_string()),
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
