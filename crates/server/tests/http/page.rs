//! The page for browsers.

use crate::scripted::{Answer, Script, Server};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest, Sha256};

/// What Chromium and Firefox send.
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8";

async fn root(server: &Server, accept: Option<&str>) -> Answer {
    let accept = accept.map(|accept| format!("Accept: {accept}\r\n")).unwrap_or_default();
    server.send(&format!("GET / HTTP/1.1\r\nHost: server\r\n{accept}Connection: close\r\n\r\n")).await
}

#[tokio::test]
async fn browsers_get_a_page_and_others_the_health() {
    let server = Script::new(&["x"]).serve().await;
    for accept in [BROWSER, "text/html", "application/json, TEXT/HTML;q=0.9"] {
        let page = root(&server, Some(accept)).await;
        assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")), "{accept}");
        assert!(page.body.starts_with("<!doctype html>") && page.body.ends_with("</html>\n"), "{accept}");
        assert_eq!(page.header("vary"), Some("accept"));
    }
    for accept in [None, Some("*/*"), Some("application/json"), Some("text/plain, text/htmlx"), Some("")] {
        let health = root(&server, accept).await;
        assert_eq!((health.status, &*health.body, health.header("content-type")), (200, "", None), "{accept:?}");
    }
}

#[tokio::test]
async fn the_page_stays_when_the_model_has_failed() {
    let script = Script { fails_at: Some(0), ..Script::new(&["x"]) };
    let server = script.serve().await;
    server.post_json("/generate", &[], r#"{"inputs": "a"}"#).await;
    assert_eq!(root(&server, None).await.status, 503);
    assert_eq!(root(&server, Some(BROWSER)).await.status, 200);
}

/// The contents of the page's elements of this name.
fn elements<'a>(page: &'a str, tag: &str) -> Vec<&'a str> {
    let (begin, end) = (format!("<{tag}"), format!("</{tag}>"));
    let inside = page.split(&begin).skip(1).map(|part| part.split_once(&end).expect("an end").0);
    inside.map(|part| part.split_once('>').expect("the end of the tag").1).collect()
}

/// The browser check of scripts/page-check holds that browsers run the page under this policy.
#[tokio::test]
async fn the_policy_allows_the_pages_own_script_and_style_alone() {
    let server = Script::new(&["x"]).serve().await;
    let page = root(&server, Some(BROWSER)).await;
    let policy = page.header("content-security-policy").expect("a policy");
    let allowed = |kind: &str| policy.split("; ").find_map(|rule| rule.strip_prefix(kind)).expect("a rule").trim();
    for (tag, kind) in [("script", "script-src"), ("style", "style-src")] {
        let [content] = elements(&page.body, tag)[..] else { panic!("one {tag}") };
        assert_eq!(allowed(kind), format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(content))), "{tag}");
    }
    assert_eq!((allowed("default-src"), allowed("connect-src")), ("'none'", "'self'"));
    for weak in ["unsafe", "*", "http:"] {
        assert!(!policy.contains(weak), "{policy}");
    }
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
}

#[tokio::test]
async fn the_page_is_small_and_needs_nothing_from_elsewhere() {
    let server = Script::new(&["x"]).serve().await;
    let page = root(&server, Some(BROWSER)).await.body;
    assert!(page.len() < 100_000, "{} bytes", page.len());
    // The policy would stop the last ones.
    for outside in ["http://", "https://", "src=", "@import", "url(", "import(", " style=", " onclick=\""] {
        assert!(!page.contains(outside), "{outside}");
    }
}
