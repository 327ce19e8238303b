//! Who may call: a gate before the routes of each listener. docs/security.md has what is open.

pub(crate) mod cors;
mod keys;

pub use cors::Origin;
pub(crate) use keys::KeyError;
pub use keys::{CallerName, Keys, first_key};

use crate::connection::Peer;
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

/// What changes what a server does. Without keys, only the machine itself may ask for that.
const OPERATORS_SERVICE: &str = "/peregrine.v1.Admin/";
/// But not this.
const STATUS_METHOD: &str = "/peregrine.v1.Admin/Status";

/// What proxies add to a call: then it comes from elsewhere, although the proxy may be on this machine.
const FORWARDED: [HeaderName; 2] = [HeaderName::from_static("forwarded"), HeaderName::from_static("x-forwarded-for")];

/// Why a call is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    #[error("no key was sent; this server needs one, as `Authorization: Bearer KEY` or as `x-api-key: KEY`")]
    NoKey,
    #[error("the key that was sent is not one of this server's")]
    UnknownKey,
    #[error("without keys (--api-key-file), this server takes that from callers of its own machine alone")]
    Elsewhere,
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::NoKey | Denied::UnknownKey => Self::unauthenticated(denied.to_string()),
            Denied::Elsewhere => Self::permission_denied(denied.to_string()),
        }
    }
}

/// Lets calls in, or not.
#[derive(Clone)]
pub(crate) struct Gate {
    /// None: every call is let in.
    keys: Option<Keys>,
    is_open: fn(&Request) -> bool,
    /// Whether, without keys, a call must come from this machine.
    is_local: fn(&Request) -> bool,
    log: Arc<Seldom>,
}

impl Gate {
    pub(crate) fn http(keys: Option<Keys>) -> Self {
        Self { keys, is_open: is_open_http, is_local: |_| false, log: Arc::default() }
    }

    pub(crate) fn grpc(keys: Option<Keys>) -> Self {
        let is_open = |request: &Request| request.uri().path().starts_with(OPEN_SERVICE);
        Self { keys, is_open, is_local: is_for_operators, log: Arc::default() }
    }

    /// Lets a call in, if it has a key or needs none. The extensions of the request say from then on who calls ([`CallerName`]).
    pub(crate) fn admit(&self, request: &mut Request) -> Result<Caller, Denied> {
        let Some(keys) = &self.keys else {
            return if (self.is_local)(request) && !comes_from_here(request) {
                Err(self.refuse(Denied::Elsewhere))
            } else {
                Ok(Caller(None))
            };
        };
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
            Err(denied) => Err(self.refuse(denied)),
        }
    }

    fn refuse(&self, denied: Denied) -> Denied {
        self.log.warn(format_args!("a call is refused: {denied}"));
        denied
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

fn is_for_operators(request: &Request) -> bool {
    let path = request.uri().path();
    path.starts_with(OPERATORS_SERVICE) && path != STATUS_METHOD
}

/// Whether the caller is on this machine, as far as can be told.
fn comes_from_here(request: &Request) -> bool {
    let peer = request.extensions().get::<Peer>();
    let is_forwarded = FORWARDED.iter().any(|header| request.headers().contains_key(header));
    peer.is_some_and(|peer| peer.0.to_canonical().is_loopback()) && !is_forwarded
}

fn is_open_http(request: &Request) -> bool {
    let path = request.extensions().get::<MatchedPath>();
    matches!(*request.method(), Method::GET | Method::HEAD) && path.is_some_and(|path| OPEN.contains(&path.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn call(method: &str, peer: &str, header: Option<&str>) -> Result<(), Denied> {
        let mut request = Request::post(format!("/peregrine.v1.{method}"));
        if let Some(header) = header {
            request = request.header(header, "192.0.2.1");
        }
        let mut request = request.body(axum::body::Body::empty()).expect("a request");
        request.extensions_mut().insert(Peer(peer.parse::<IpAddr>().expect("an address")));
        Gate::grpc(None).admit(&mut request).map(|_| ())
    }

    #[test]
    fn without_keys_only_this_machine_drains_its_server() {
        for peer in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            for method in ["Admin/Drain", "Admin/Undrain", "Admin/Status", "Generation/Generate"] {
                assert_eq!(call(method, peer, None), Ok(()), "{method} from {peer}");
            }
            for header in ["forwarded", "x-forwarded-for"] {
                assert_eq!(call("Admin/Drain", peer, Some(header)), Err(Denied::Elsewhere), "{header} from {peer}");
            }
        }
        for peer in ["192.0.2.1", "10.0.0.1", "2001:db8::1", "::ffff:192.0.2.1"] {
            for method in ["Admin/Drain", "Admin/Undrain", "Admin/SomethingNew"] {
                assert_eq!(call(method, peer, None), Err(Denied::Elsewhere), "{method} from {peer}");
            }
            for method in ["Admin/Status", "Generation/Generate"] {
                assert_eq!(call(method, peer, None), Ok(()), "{method} from {peer}");
            }
        }
        assert_eq!(Status::from(Denied::Elsewhere).code(), tonic::Code::PermissionDenied);
    }
}
