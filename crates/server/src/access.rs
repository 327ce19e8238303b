//! Who may call: a gate before the routes of each listener. docs/security.md has what is open.

pub(crate) mod cors;
mod keys;

pub use cors::Origin;
pub(crate) use keys::KeyError;
pub use keys::{CallerName, Keys, first_key};

use crate::seldom::Seldom;
use axum::extract::{MatchedPath, Request};
use axum::http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use axum::http::{HeaderMap, Method};
use std::sync::Arc;
use tonic::Status;

/// Where a key may stand beside `Authorization`, which AWS's clients need for their signature.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// What is asked for with `GET` and without a key: whether the model serves, and pages that say nothing about it.
const OPEN: &[&str] = &[
    "/",
    "/health",
    "/livez",
    "/readyz",
    "/ping",
    "/docs",
    "/docs/",
    "/docs/{file}",
    "/openapi.json",
    "/api-doc/openapi.json",
];

/// The same for gRPC.
const OPEN_SERVICE: &str = "/grpc.health.v1.Health/";

/// Why a call is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    #[error("no key was sent; this server needs one, as `Authorization: Bearer KEY` or as `x-api-key: KEY`")]
    NoKey,
    #[error("the key that was sent is not one of this server's")]
    UnknownKey,
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        Self::unauthenticated(denied.to_string())
    }
}

/// Lets calls in, or not.
#[derive(Clone)]
pub(crate) struct Gate {
    /// None: every call is let in.
    keys: Option<Keys>,
    is_open: fn(&Request) -> bool,
    log: Arc<Seldom>,
}

impl Gate {
    pub(crate) fn http(keys: Option<Keys>) -> Self {
        Self { keys, is_open: is_open_http, log: Arc::default() }
    }

    pub(crate) fn grpc(keys: Option<Keys>) -> Self {
        Self { keys, is_open: |request| request.uri().path().starts_with(OPEN_SERVICE), log: Arc::default() }
    }

    /// Lets a call in, if it has a key or needs none. The extensions of the request say from then on who calls ([`CallerName`]).
    pub(crate) fn admit(&self, request: &mut Request) -> Result<Caller, Denied> {
        let Some(keys) = &self.keys else { return Ok(Caller(None)) };
        let caller = match keys_shown(request.headers()) {
            [None, None] => Err(Denied::NoKey),
            shown => shown.into_iter().flatten().find_map(|key| keys.caller(key)).ok_or(Denied::UnknownKey),
        };
        match caller {
            Ok(name) => {
                request.extensions_mut().insert(name.clone());
                Ok(Caller(Some(name)))
            }
            Err(_) if (self.is_open)(request) => Ok(Caller(None)),
            Err(denied) => {
                self.log.warn(format_args!("a call is refused: {denied}"));
                Err(denied)
            }
        }
    }
}

/// Who was let in, if that is known.
pub(crate) struct Caller(Option<CallerName>);

impl Caller {
    /// The answer, whose extensions say who has asked ([`CallerName`]), for what is around the gate.
    pub(crate) fn tell<B>(self, mut response: axum::http::Response<B>) -> axum::http::Response<B> {
        if let Some(name) = self.0 {
            response.extensions_mut().insert(name);
        }
        response
    }
}

/// What a call shows as a key, in either place.
fn keys_shown(headers: &HeaderMap) -> [Option<&[u8]>; 2] {
    [headers.get(AUTHORIZATION).and_then(bearer), headers.get(API_KEY).map(HeaderValue::as_bytes)]
}

/// The token of `Bearer TOKEN`. The scheme's case does not matter (RFC 9110, 11.1). Other schemes, such as a signature of AWS's, are
/// no key.
fn bearer(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = value.as_bytes().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

fn is_open_http(request: &Request) -> bool {
    let path = request.extensions().get::<MatchedPath>();
    matches!(*request.method(), Method::GET | Method::HEAD) && path.is_some_and(|path| OPEN.contains(&path.as_str()))
}
