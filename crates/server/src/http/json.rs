//! Bodies of requests as JSON.

use crate::incoming::IncomingError;
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, JsonRejection};
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use std::error::Error;

/// A request that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
}

/// The body of a request, whatever type it says it has.
pub(crate) async fn read_body(request: Request) -> Result<Bytes, Rejection> {
    let body = Bytes::from_request(request, &()).await;
    body.map_err(|rejection| Rejection::new(&rejection, BytesRejection::status, BytesRejection::body_text))
}

/// JSON as `T`; the error says where it is none.
pub(crate) fn parse_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Rejection> {
    Ok(Json::from_bytes(body)?.0)
}

impl Rejection {
    fn new<R: Error + 'static>(rejection: &R, status: fn(&R) -> StatusCode, text: fn(&R) -> String) -> Self {
        match incoming_error(rejection) {
            Some(error) => Self::from(error),
            None => Self { status: status(rejection), message: text(rejection) },
        }
    }
}

impl From<JsonRejection> for Rejection {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(&rejection, JsonRejection::status, JsonRejection::body_text)
    }
}

/// The cause of a rejection, if it is that the body broke a limit.
fn incoming_error<'error>(rejection: &'error (dyn Error + 'static)) -> Option<&'error IncomingError> {
    match rejection.downcast_ref() {
        Some(found) => Some(found),
        None => incoming_error(rejection.source()?),
    }
}
