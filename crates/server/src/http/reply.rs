//! What a dialect answers, for routes that pass it on in their own way.

use super::EventStream;
use axum::response::{IntoResponse, Response};

/// What a dialect answers a request with.
pub(crate) enum Reply {
    /// A whole answer, or an error.
    Whole(Response),
    /// A stream, of which nothing has been sent.
    Stream(EventStream),
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        match self {
            Self::Whole(response) => response,
            Self::Stream(stream) => stream.into_response(),
        }
    }
}
