//! Who may call: every route of both listeners, with keys of all kinds.

use crate::scripted::{Answer, Script, Server};
use prost_reflect::DescriptorPool;
use serde_json::{Value, json};
use server::{Keys, Origin, Settings};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::NamedTempFile;
use tonic::codegen::{Service, http};
use tonic::{Code, Status};
use wire::generation as pb;
use wire::generation::generation_client::GenerationClient;

const ALICE: &str = "sk-alice-0123456789";
const BOB: &str = "sk-bob-0123456789";
const CAROL: &str = "sk-carol-0123456789";

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// What anybody may ask for, with GET.
const OPEN: [&str; 10] = [
    "/",
    "/health",
    "/livez",
    "/readyz",
    "/ping",
    "/docs",
    "/docs/",
    "/docs/index.html",
    "/openapi.json",
    "/api-doc/openapi.json",
];

/// A way to show a key: lines of a head.
fn shown(key: &str) -> [String; 3] {
    [
        format!("Authorization: Bearer {key}"),
        format!("X-Api-Key: {key}"),
        // As AWS's clients do, which need the one for their signature.
        format!("Authorization: AWS4-HMAC-SHA256 Credential=id/20260101/r/s/aws4_request\r\nX-Api-Key: {key}"),
    ]
}

/// A server with the keys of a file, set up besides.
async fn with_keys_and(text: &str, set_up: impl FnOnce(&mut Script)) -> (Server, NamedTempFile) {
    let file = NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("it can be written");
    let keys = Some(Keys::open(file.path().to_owned()).expect("keys"));
    let settings = Settings { keys, ..Settings::default() };
    let mut script = Script { settings, ..Script::new(&[" yes"]) };
    set_up(&mut script);
    (script.serve().await, file)
}

async fn with_keys(text: &str) -> (Server, NamedTempFile) {
    with_keys_and(text, |_| {}).await
}

async fn ask(server: &Server, method: &str, path: &str, lines: &str) -> Answer {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: server\r\nConnection: close\r\n");
    server.send(&format!("{head}Content-Type: application/json\r\nContent-Length: 2\r\n{lines}\r\n{{}}")).await
}

/// Every path, as the server itself lists them, and some that are not there.
async fn paths(server: &Server, key: &str) -> BTreeSet<String> {
    let error = ask(server, "GET", "/no/such/route", &format!("X-Api-Key: {key}\r\n")).await.json();
    let list = error["error"].as_str().expect("a text").split("there are ").nth(1).expect("the list");
    let concrete = |path: &str| path.replace("NAME", "falcon").replace("ID", "scripted");
    let mut paths: BTreeSet<_> =
        list.split(", ").map(|route| concrete(route.rsplit(' ').next().expect("a path"))).collect();
    assert!(paths.len() > 15, "{paths:?}");
    paths.extend(OPEN.map(str::to_owned));
    paths.extend(
        ["/no/such/route", "/v1/nothing", "/endpoints/x/async-invocations", "/health/", "//health"].map(str::to_owned),
    );
    paths
}

/// What each dialect says to a call without a key.
fn is_denied(method: &str, path: &str, answer: &Answer) {
    let what = format!("{method} {path}: {answer:?}");
    assert_eq!(answer.status, 401, "{what}");
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{what}");
    assert!(answer.header("x-request-id").is_some(), "{what}");
    if method == "HEAD" {
        return;
    }
    let body = answer.json();
    if path.starts_with("/v1/") {
        assert_eq!(body["error"]["code"], "invalid_api_key", "{what}");
        assert_eq!(body["error"]["type"], "invalid_request_error", "{what}");
    } else if path.starts_with("/endpoints/") {
        assert_eq!(answer.header("x-amzn-errortype"), Some("AccessDeniedException"), "{what}");
        assert!(body["Message"].is_string(), "{what}");
    } else {
        assert_eq!(body["error_type"], "authentication", "{what}");
        assert!(body["error"].is_string(), "{what}");
    }
}

/// Asks for every route over HTTP and every method of gRPC, with keys that fit and such that do not.
async fn every_route(server: &Server, right: &[&str], wrong: &[&str]) {
    let refused: Vec<String> = wrong.iter().flat_map(|key| shown(key)).chain([String::new()]).collect();
    let let_in: Vec<String> = right.iter().flat_map(|key| shown(key)).collect();
    for path in paths(server, right[0]).await {
        for method in METHODS {
            let is_open = ["GET", "HEAD"].contains(&method) && OPEN.contains(&&*path);
            for lines in &refused {
                let lines = if lines.is_empty() { String::new() } else { format!("{lines}\r\n") };
                let answer = ask(server, method, &path, &lines).await;
                match is_open {
                    true => assert!(answer.status < 400, "{method} {path}: {answer:?}"),
                    false => is_denied(method, &path, &answer),
                }
            }
            for lines in &let_in {
                let answer = ask(server, method, &path, &format!("{lines}\r\n")).await;
                assert_ne!(answer.status, 401, "{method} {path} {lines}: {answer:?}");
            }
        }
    }
    for path in grpc_paths() {
        for lines in &refused {
            let status = call(server, &path, lines).await.unwrap_or_else(|| Status::ok(""));
            let is_open = path.starts_with("/grpc.health.v1.Health/");
            assert_eq!(status.code() == Code::Unauthenticated, !is_open, "{path}: {status}");
        }
        for lines in &let_in {
            let code = call(server, &path, lines).await.map(|status| status.code());
            assert_ne!(code, Some(Code::Unauthenticated), "{path} {lines}");
        }
    }
}

/// Every method of every service whose description is built in, also those that are not served here.
fn grpc_paths() -> Vec<String> {
    let mut pool = DescriptorPool::new();
    for set in [wire::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET, tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET]
    {
        pool.decode_file_descriptor_set(set).expect("descriptors");
    }
    let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    let mut paths: Vec<String> =
        methods.map(|method| format!("/{}/{}", method.parent_service().full_name(), method.name())).collect();
    for some in ["/peregrine.v1.Generation/ChatStream", "/grpc.health.v1.Health/Watch"] {
        assert!(paths.iter().any(|path| path == some), "{some} is not in {paths:?}");
    }
    paths.push("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo".to_owned());
    paths.extend(["/nothing", "/", "/grpc.health.v1.HealthX/Check"].map(str::to_owned));
    paths
}

/// The status with which a call without a message ends at once, if it does.
async fn call(server: &Server, path: &str, lines: &str) -> Option<Status> {
    let mut request = http::Request::post(path).header("content-type", "application/grpc");
    for line in lines.split_terminator("\r\n") {
        let (name, value) = line.split_once(": ").expect("a header");
        request = request.header(name.to_lowercase(), value);
    }
    let mut channel = server.channel().await;
    std::future::poll_fn(|cx| channel.poll_ready(cx)).await.expect("a connection");
    let response = channel.call(request.body(tonic::body::Body::empty()).expect("a request")).await.expect("an answer");
    Status::from_header_map(response.headers())
}

/// Waits until a key is known, or no longer.
async fn until(server: &Server, key: &str, is_known: bool) {
    for _ in 0..600 {
        let answer = ask(server, "GET", "/info", &format!("X-Api-Key: {key}\r\n")).await;
        if (answer.status == 200) == is_known {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the file was not read again within 30 s");
}

#[tokio::test]
async fn every_route_of_both_listeners_needs_a_key_that_is_valid_now() {
    let (server, file) = with_keys(&format!("# all\nalice {ALICE}\n{BOB}\n")).await;
    let (longer, shorter) = (format!("{ALICE}x"), &ALICE[..ALICE.len() - 1]);
    every_route(&server, &[ALICE, BOB], &[CAROL, "alice", "", &longer, shorter]).await;
    std::fs::write(file.path(), format!("{BOB}\ncarol {CAROL}\n")).expect("it can be written");
    until(&server, ALICE, false).await;
    every_route(&server, &[BOB, CAROL], &[ALICE]).await;
}

#[tokio::test]
async fn without_a_file_of_keys_none_is_asked_for() {
    let server = Script::new(&[" yes"]).serve().await;
    for lines in [String::new(), format!("X-Api-Key: {ALICE}\r\n")] {
        assert_eq!(ask(&server, "GET", "/metrics", &lines).await.status, 200);
    }
    assert_ne!(
        call(&server, "/peregrine.v1.Generation/GetInfo", "").await.map(|s| s.code()),
        Some(Code::Unauthenticated)
    );
}

/// What was sent is read, so that no client breaks off before it sees why.
#[tokio::test]
async fn a_large_body_without_a_key_gets_its_answer() {
    let (server, _file) = with_keys(ALICE).await;
    let body = json!({"inputs": "a".repeat(1_500_000)}).to_string();
    for _ in 0..5 {
        is_denied("POST", "/generate", &server.post_json("/generate", &[], &body).await);
    }
    let line = format!("X-Api-Key: {ALICE}");
    assert_eq!(server.post_json("/generate", &[&line], &body).await.status, 422, "it is too long");
}

/// Writes a file as an editor might that does not replace it at once.
fn write_slowly(path: &Path, text: &str) {
    let mut file = std::fs::File::create(path).expect("it can be written");
    for part in text.as_bytes().chunks(7) {
        file.write_all(part).expect("it can be written");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_change_under_load_without_a_failed_call() {
    let (server, file) = with_keys(&format!("{ALICE}\n{BOB}\n")).await;
    let (server, ended) = (Arc::new(server), Arc::new(AtomicBool::new(false)));
    let http = tokio::spawn({
        let (server, ended) = (server.clone(), ended.clone());
        async move {
            let (line, mut calls) = (format!("Authorization: Bearer {BOB}"), 0);
            while !ended.load(Ordering::Relaxed) {
                let body = json!({"inputs": "Once", "parameters": {"max_new_tokens": 1}}).to_string();
                let answer = server.post_json("/generate", &[&line], &body).await;
                assert_eq!(answer.status, 200, "call {calls}: {answer:?}");
                calls += 1;
            }
            calls
        }
    });
    let grpc = tokio::spawn({
        let (mut client, ended) = (GenerationClient::new(server.channel().await), ended.clone());
        async move {
            let mut calls = 0;
            while !ended.load(Ordering::Relaxed) {
                let mut request = tonic::Request::new(pb::GetInfoRequest {});
                request.metadata_mut().insert("x-api-key", BOB.parse().expect("ASCII"));
                client.get_info(request).await.unwrap_or_else(|status| panic!("call {calls}: {status}"));
                calls += 1;
                tokio::task::yield_now().await;
            }
            calls
        }
    });
    write_slowly(file.path(), &format!("{BOB}\ncarol {CAROL}\n"));
    until(&server, CAROL, true).await;
    until(&server, ALICE, false).await;
    // Both leave the keys as they were.
    std::fs::write(file.path(), "").expect("it can be written");
    tokio::time::sleep(Duration::from_millis(2500)).await;
    until(&server, CAROL, true).await;
    std::fs::remove_file(file.path()).expect("it is there");
    tokio::time::sleep(Duration::from_millis(2500)).await;
    until(&server, CAROL, true).await;
    std::fs::write(file.path(), format!("{ALICE}\n{BOB}")).expect("it can be written");
    until(&server, ALICE, true).await;
    until(&server, CAROL, false).await;
    ended.store(true, Ordering::Relaxed);
    let calls: (u32, u32) = (http.await.expect("no call failed"), grpc.await.expect("no call failed"));
    assert!(calls.0 > 20 && calls.1 > 20, "{calls:?}");
}

#[tokio::test]
async fn the_document_says_how_a_key_is_sent() {
    let (server, _file) = with_keys(ALICE).await;
    let document: Value = server.get("/openapi.json").await.json();
    assert_eq!(document["components"]["securitySchemes"]["key"]["scheme"], "bearer", "{document}");
    assert!(document["security"][0]["key"].is_array(), "{document}");
}

#[tokio::test]
async fn metrics_may_have_an_address_of_their_own() {
    let (server, _file) = with_keys_and(ALICE, |script| script.has_metrics_port = true).await;
    let key = format!("X-Api-Key: {ALICE}\r\n");
    is_denied("GET", "/metrics", &ask(&server, "GET", "/metrics", "").await);
    let elsewhere = ask(&server, "GET", "/metrics", &key).await;
    let metrics = server.metrics.expect("an address");
    assert!(elsewhere.status == 404 && elsewhere.body.contains(&metrics.to_string()), "{elsewhere:?}");
    assert_eq!(ask(&server, "GET", "/health", "").await.status, 200);
    let ask_there = async |method: &str, path: &str| {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: server\r\nConnection: close\r\nContent-Length: 2");
        Server::send_to(metrics, &format!("{head}\r\n\r\n{{}}")).await
    };
    let answer = ask_there("GET", "/metrics").await;
    assert!(answer.status == 200 && answer.body.contains("tgi_request_count"), "{answer:?}");
    for path in paths(&server, ALICE).await {
        for method in METHODS {
            let has_it = ["/metrics", "/health", "/livez", "/readyz"].contains(&&*path);
            let status = ask_there(method, &path).await.status;
            let expected = match method {
                _ if !has_it => 404,
                "GET" | "HEAD" => 200,
                _ => 405,
            };
            assert_eq!(status, expected, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn pages_of_the_origins_that_were_named_may_call() {
    const OURS: &str = "https://ours.example";
    let preflight = |origin: &str| {
        format!(
            "Origin: {origin}\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization, x-own\r\n"
        )
    };
    let allowed = |answer: &Answer| answer.header("access-control-allow-origin").map(str::to_owned);
    for (origins, theirs, ours_is) in [(&[OURS, "http://localhost:3000"][..], None, OURS), (&["*"], Some("*"), "*")] {
        let origins: Vec<Origin> = origins.iter().map(|origin| origin.parse().expect("an origin")).collect();
        let (server, _file) = with_keys_and(ALICE, |script| script.settings.cors = origins).await;
        let answer = ask(&server, "OPTIONS", "/v1/chat/completions", &preflight(OURS)).await;
        assert_eq!((answer.status, allowed(&answer).as_deref()), (200, Some(ours_is)), "{answer:?}");
        assert_eq!(answer.header("access-control-allow-headers"), Some("authorization, x-own"), "{answer:?}");
        // A page sees why it is refused, too.
        for lines in [format!("Origin: {OURS}\r\n"), format!("Origin: {OURS}\r\nX-Api-Key: {ALICE}\r\n")] {
            let answer = ask(&server, "GET", "/info", &lines).await;
            assert_eq!(allowed(&answer).as_deref(), Some(ours_is), "{answer:?}");
            assert_eq!(answer.status == 200, lines.contains(ALICE), "{answer:?}");
        }
        for other in ["https://theirs.example", "http://ours.example", "https://ours.example.theirs.example"] {
            let answer = ask(&server, "OPTIONS", "/v1/chat/completions", &preflight(other)).await;
            assert_eq!(allowed(&answer).as_deref(), theirs, "{other}: {answer:?}");
        }
    }
    let (server, _file) = with_keys(ALICE).await;
    is_denied("OPTIONS", "/info", &ask(&server, "OPTIONS", "/info", &preflight(OURS)).await);
    let answer = ask(&server, "GET", "/health", &format!("Origin: {OURS}\r\n")).await;
    assert!(answer.status == 200 && !answer.head.to_lowercase().contains("access-control"), "{answer:?}");
}
