//! Pages that may call the server from a browser (CORS).

use axum::http::{HeaderValue, Method, Uri};
use std::str::FromStr;
use std::time::Duration;
use tower_http::cors::{AllowHeaders, AllowOrigin, Any, CorsLayer};

/// How long a browser need not ask again.
const MAX_AGE: Duration = Duration::from_secs(3600);

/// Whose pages may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Everybody's.
    Any,
    /// Those of one, as browsers send it.
    One(HeaderValue),
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let uri: Option<Uri> = text.parse().ok();
        let is_origin = uri.is_some_and(|uri| match (uri.scheme_str(), uri.authority()) {
            (Some(scheme), Some(host)) => format!("{scheme}://{host}") == text && text == text.to_lowercase(),
            _ => false,
        });
        let value = HeaderValue::from_str(text).ok().filter(|_| is_origin);
        value.map(Self::One).ok_or_else(|| {
            format!(
                "{text:?} is no origin: expected * or, in lower case, SCHEME://HOST or SCHEME://HOST:PORT and no more"
            )
        })
    }
}

/// Answers browsers that ask whether a page of these may call, and says so with every answer. None for no origins.
pub(crate) fn layer(origins: &[Origin]) -> Option<CorsLayer> {
    let listed: Option<Vec<_>> = origins
        .iter()
        .map(|origin| match origin {
            Origin::Any => None,
            Origin::One(value) => Some(value.clone()),
        })
        .collect();
    let allowed = match listed {
        Some(listed) if listed.is_empty() => return None,
        Some(listed) => AllowOrigin::list(listed),
        None => AllowOrigin::any(),
    };
    // The key stands in a header of the page's own making; cookies mean nothing here.
    let layer = CorsLayer::new().allow_origin(allowed).allow_methods([Method::GET, Method::POST]);
    Some(layer.allow_headers(AllowHeaders::mirror_request()).expose_headers(Any).max_age(MAX_AGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_what_browsers_send() {
        assert_eq!("*".parse(), Ok(Origin::Any));
        for text in ["https://example.org", "http://localhost:3000", "chrome-extension://abcdef"] {
            assert_eq!(text.parse(), Ok(Origin::One(HeaderValue::from_static(text))));
        }
        for text in [
            "",
            "example.org",
            "https://",
            "https://example.org/",
            "https://example.org/x",
            "https://Example.org",
            "*.org",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text:?}");
        }
    }
}
