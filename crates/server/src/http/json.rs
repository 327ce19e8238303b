//! Bodies of requests as JSON.

use crate::incoming::IncomingError;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;

/// A request that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

impl From<JsonRejection> for Rejection {
    fn from(rejection: JsonRejection) -> Self {
        match incoming_error(&rejection) {
            Some(error) => Self::from(error),
            None => Self { status: rejection.status(), message: rejection.body_text() },
        }
    }
}

/// The cause of a rejection, if it is that the body broke a limit.
fn incoming_error(rejection: &JsonRejection) -> Option<&IncomingError> {
    let mut causes =
        std::iter::successors(Some(rejection as &(dyn std::error::Error + 'static)), |error| error.source());
    causes.find_map(|error| error.downcast_ref())
}
