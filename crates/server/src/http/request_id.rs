//! Ids of requests, by which callers and logs know them.

use axum::extract::Request;
use axum::http::header::{HeaderName, HeaderValue};
use axum::response::Response;
use std::fmt;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of an id that is taken over. It is in every event of a stream.
const BYTES_MAX: usize = 128;

/// The id of a request: its client's, or one of ours.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(HeaderValue);

impl RequestId {
    /// The id that the client gave, if it is printable and not too long; else a new one. The request keeps it.
    pub(crate) fn assign(request: &mut Request) -> Self {
        let given = request.headers().get(HEADER).filter(|id| (1..=BYTES_MAX).contains(&id.len()));
        let given = given.filter(|id| id.to_str().is_ok()).cloned();
        let id = Self(given.unwrap_or_else(Self::random));
        request.extensions_mut().insert(id.clone());
        id
    }

    /// The id that a request was given.
    pub(crate) fn of(request: &Request) -> Self {
        request.extensions().get().cloned().unwrap_or_else(|| Self(Self::random()))
    }

    /// Tells it with the answer.
    pub(crate) fn tell(self, mut response: Response) -> Response {
        response.headers_mut().insert(HEADER, self.0);
        response
    }

    fn random() -> HeaderValue {
        HeaderValue::try_from(format!("{:032x}", fastrand::u128(..))).expect("hexadecimal digits")
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_str().unwrap_or_default())
    }
}
