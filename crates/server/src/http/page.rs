//! The page for browsers, which shows what the model says and how the server is. It is one file, within this program.

use axum::http::HeaderMap;
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};
use std::sync::LazyLock;

const PAGE: &str = include_str!("page.html");
const HTML: &str = "text/html";

/// Whether a client asks for a page: it names HTML among what it accepts, as browsers do and programs do not.
pub(crate) fn is_wanted(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(ACCEPT).iter().filter_map(|list| list.to_str().ok());
    let mut kinds = lists.flat_map(|list| list.split(',')).filter_map(|range| range.split(';').next());
    kinds.any(|kind| kind.trim().eq_ignore_ascii_case(HTML))
}

/// The page, which may run its own script, speak to this server, and nothing else.
pub(crate) fn page() -> Response {
    static POLICY: LazyLock<String> = LazyLock::new(policy);
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY.as_str()),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-cache"),
        (VARY, "accept"),
    ];
    (headers, PAGE).into_response()
}

/// The Content-Security-Policy, which names the page's script and style by their SHA-256.
fn policy() -> String {
    let hash = |tag| BASE64_STANDARD.encode(Sha256::digest(content(tag)));
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        hash("script"),
        hash("style"),
    )
}

/// What the page's only element of this name holds.
fn content(tag: &str) -> &'static str {
    let inside = PAGE.split_once(&format!("<{tag}>")).and_then(|(_, rest)| rest.split_once(&format!("</{tag}>")));
    inside.expect("the page has it").0
}
