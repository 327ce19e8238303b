//! Who may call a server: its flags, and a log that never has a key.

use crate::authority::{Authority, Files, TlsClient};
use crate::support::{Program, Server, demo_model, within};
use rustix::process::Signal;
use std::path::Path;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const KEY: &str = "sk-right-0123456789abcdef";
const OTHER: &str = "sk-wrong-0123456789abcdef";

const LOOPBACK: &str = "127.0.0.1:0";
const ANYWHERE: &str = "0.0.0.0:0";

fn write(folder: &TempDir, name: &str, text: &str) -> String {
    let path = folder.path().join(name);
    std::fs::write(&path, text).expect("it can be written");
    path.to_str().expect("UTF-8").to_owned()
}

/// What `serve --check` says where HTTP and gRPC are to listen there; `Err` if it fails.
async fn check([http, grpc]: [&str; 2], flags: &[&str]) -> Result<String, String> {
    let model = demo_model();
    let fixed =
        ["serve", "--check", "--model", model.to_str().expect("UTF-8"), "--http-addr", http, "--grpc-addr", grpc];
    let ended = Program::new(fixed.iter().chain(flags)).run().await;
    if ended.status.success() { Ok(ended.stderr) } else { Err(ended.failure()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn other_machines_reach_no_server_by_accident() {
    let folder = TempDir::new().expect("a folder");
    let keys = write(&folder, "keys", KEY);
    for (addresses, named) in [
        ([ANYWHERE, LOOPBACK], "--http-addr 0.0.0.0:0"),
        ([LOOPBACK, ANYWHERE], "--grpc-addr 0.0.0.0:0"),
        (["[::]:0", LOOPBACK], "--http-addr [::]:0"),
    ] {
        let said = check(addresses, &[]).await.expect_err("all could use it");
        assert!(said.contains(&format!("{named}: other machines reach this address")), "{said}");
        assert!(said.contains("--api-key-file") && said.contains("--insecure"), "{said}");
    }
    for way_out in [&["--insecure"][..], &["--api-key-file", &keys], &["--sagemaker"]] {
        check([ANYWHERE; 2], way_out).await.expect("somebody decides who may call");
    }
    check(["127.1.2.3:0", "localhost:0"], &[]).await.expect("no other machine reaches it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_file_without_keys_is_an_error_that_tells_none() {
    let folder = TempDir::new().expect("a folder");
    let missing = folder.path().join("missing").to_str().expect("UTF-8").to_owned();
    for (file, message) in [
        (missing, "it cannot be read: No such file or directory"),
        (write(&folder, "empty", "# none\n\n"), "it has no key"),
        (write(&folder, "reversed", &format!("{KEY} me")), "the key on line 1 has 2 characters; expected at least 16"),
        (write(&folder, "words", &format!("\n{KEY} # mine")), "line 2 has 3 words"),
    ] {
        let said = check([LOOPBACK; 2], &["--api-key-file", &file]).await.expect_err("nobody could call");
        assert!(said.contains(&format!("--api-key-file {file}: {message}")), "{said}");
        assert!(!said.contains(KEY), "{said}");
    }
}

fn generate(server: &Server, key_file: Option<&Path>) -> Program {
    let mut arguments = vec!["generate".to_owned(), "Once upon a time".to_owned(), "--max-new-tokens".to_owned()];
    arguments.extend(["3".to_owned(), "--server".to_owned(), server.grpc.to_string()]);
    if let Some(file) = key_file {
        arguments.extend(["--api-key-file".to_owned(), file.to_str().expect("UTF-8").to_owned()]);
    }
    Program::new(arguments)
}

/// The most that can be logged has no key: neither one that is valid nor one that was tried, nor one of a file that is broken.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_key_is_ever_logged() {
    let folder = TempDir::new().expect("a folder");
    let file = write(&folder, "keys", &format!("me {KEY}\n"));
    let (right, wrong) = (folder.path().join("keys"), write(&folder, "wrong", OTHER));
    let flags = ["--backend", "instant", "--tensor-parallel", "1", "--api-key-file", &file];
    let mut server = Server::start_with(&[("PEREGRINE_LOG", "trace")], flags).await;
    server.says("loaded ").await;

    let ended = generate(&server, Some(&right)).run().await;
    ended.success();
    for key_file in [None, Some(Path::new(&wrong))] {
        let said = generate(&server, key_file).run().await.failure();
        assert!(said.contains("key") && !said.contains(OTHER), "{said}");
    }
    for (line, status) in [
        (format!("Authorization: Bearer {KEY}"), 200),
        (format!("x-api-key: {KEY}"), 200),
        (format!("Authorization: Bearer {OTHER}"), 401),
        (format!("Authorization: Basic {OTHER}"), 401),
        (format!("x-api-key: {OTHER}"), 401),
    ] {
        let head = format!("GET /info HTTP/1.1\r\nHost: peregrine\r\nConnection: close\r\n{line}\r\n\r\n");
        assert_eq!(server.http(&head).await.status, status, "{line}");
    }
    // A request that is no HTTP is not shown either.
    server.http(&format!("GET /info HTTP/1.1\r\nx-api-key: {OTHER}\r\nno header\r\n\r\n")).await;

    std::fs::write(&right, format!("{KEY} behind\n{OTHER}\n")).expect("it can be written");
    server.says("What was read before stays in use").await;
    std::fs::write(&right, format!("other {OTHER}\n")).expect("it can be written");
    server.says("has changed, and was read again").await;
    server.signal(Signal::TERM);
    let log = server.end().await.stderr;
    assert!(log.contains("a call is refused: no key was sent") && log.contains("TRACE"), "{log}");
    for secret in [KEY, OTHER] {
        let line = log.lines().find(|line| line.contains(secret) || line.contains(&secret[9..]));
        assert_eq!(line, None);
    }
}

/// A server by https, the files by which it is asked, and who vouches for it.
async fn secured(flags: &[&str]) -> (Server, Files, Authority) {
    let authority = Authority::new("ours");
    let files = Files::new(&authority.identity());
    files.write("ca.pem", &authority.pem());
    files.write("keys", &format!("me {KEY}\n"));
    let paths = ["cert.pem", "key.pem", "keys"].map(|name| files.path(name).into_os_string());
    let named = ["--tls-cert", "--tls-key", "--api-key-file"].map(std::ffi::OsString::from);
    let secured = named.into_iter().zip(paths).flat_map(|(flag, path)| [flag, path]);
    let server = Server::ready(secured.chain(flags.iter().map(std::ffi::OsString::from))).await;
    (server, files, authority)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_programs_own_clients_speak_tls_and_show_a_key() {
    let (server, files, _) = secured(&["--backend", "instant", "--tensor-parallel", "1"]).await;
    let path = |name| files.path(name).to_str().expect("UTF-8").to_owned();
    let (grpc, http) = (format!("https://{}", server.grpc), format!("https://{}", server.http));
    let (ca, keys) = (path("ca.pem"), path("keys"));
    let generate = ["generate", "Once", "--max-new-tokens", "3", "--server", &grpc];
    let told = ["--ca", &ca, "--api-key-file", &keys];
    Program::new(generate.iter().chain(&told)).run().await.success();
    let said = Program::new(generate.iter().chain(&told[2..])).run().await.failure();
    assert!(said.contains("cannot connect"), "nobody vouches for it: {said}");
    let said = Program::new(generate.iter().chain(&["--ca", &keys])).run().await.failure();
    assert!(said.contains("--server"), "{said}");
    for (dialect, address) in [("grpc", &grpc), ("openai", &http), ("tgi", &http)] {
        let bench = ["bench", "serve", "--num-prompts", "2", "--num-warmups", "0", "--dataset", "4/4"];
        let of_dialect = ["--dialect", dialect, "--server", address, "--ca", &ca, "--api-key"];
        let words = bench.iter().chain(&of_dialect);
        Program::new(words.clone().chain(&[KEY])).run().await.success();
        let refused = Program::new(words.chain(&[OTHER])).run().await;
        assert!(!refused.status.success() && refused.stderr.contains("key"), "{refused:?}");
    }
    server.stop().await;
}

/// What runs when a server is told to end is answered to its last byte, and TLS is ended in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_drains_over_tls() {
    let (server, _files, authority) = secured(&["--tensor-parallel", "1"]).await;
    let client = TlsClient::new(&[&authority], None, &["http/1.1"]);
    let idle = within("TLS", client.connect(server.http)).await.expect("it listens");
    let mut stream = within("TLS", client.connect(server.http)).await.expect("it listens");
    let body = r#"{"inputs": "Once", "parameters": {"max_new_tokens": 1500, "ignore_eos": true}}"#;
    let length = body.len();
    let head = format!("POST /generate_stream HTTP/1.1\r\nHost: s\r\nX-Api-Key: {KEY}\r\nContent-Length: {length}");
    let request = format!("{head}\r\nContent-Type: application/json\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    stream.flush().await.expect("it reads");
    let mut answer = vec![0; 1000];
    within("a beginning", stream.read_exact(&mut answer)).await.expect("it streams");
    server.signal(Signal::TERM);
    within("the end", stream.read_to_end(&mut answer)).await.expect("TLS is ended in order");
    let answer = String::from_utf8_lossy(&answer);
    let is_whole = answer.contains(r#"{"index":1500,"#) && answer.ends_with("\r\n0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200") && is_whole, "{answer}");
    let ended = server.end().await;
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    drop(idle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn flags_set_metrics_origins_and_connections() {
    let folder = TempDir::new().expect("a folder");
    let keys = write(&folder, "keys", KEY);
    let model = ["--backend", "instant", "--tensor-parallel", "1", "--api-key-file", &keys];
    let flags = ["--metrics-addr", LOOPBACK, "--cors-allow-origin", "http://ours.example", "--max-connections", "2"];
    let mut server = Server::ready(model.iter().chain(&flags)).await;
    let log = server.says("metrics on ").await;
    let address = log.split("metrics on ").nth(1).and_then(|rest| rest.lines().next()).expect("an address").trim();
    let head = "GET /metrics HTTP/1.1\r\nHost: s\r\nConnection: close\r\n";
    let metrics = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("{head}\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map(|_| answer)
    };
    let metrics = within("the metrics", metrics).await.expect("an answer");
    assert!(metrics.starts_with("HTTP/1.1 200") && metrics.contains("tgi_request_count"), "{metrics}");
    let answer = server.http(&format!("{head}Origin: http://ours.example\r\nX-Api-Key: {KEY}\r\n\r\n")).await;
    assert!(answer.status == 404 && answer.body.contains(address), "{answer:?}");
    assert!(answer.head.contains("access-control-allow-origin: http://ours.example"), "{answer:?}");

    let mut idle = Vec::new();
    for _ in 0..3 {
        idle.push(within("a connection", TcpStream::connect(server.http)).await.expect("the backlog has room"));
    }
    server.says("HTTP: 2 connections are open, the most there may be").await;
    drop(idle);
    server.stop().await;

    let said = check([LOOPBACK; 2], &["--cors-allow-origin", "ours.example"]).await.expect_err("no origin");
    assert!(said.contains("is no origin: expected *"), "{said}");
}
