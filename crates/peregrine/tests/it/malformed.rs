//! 100,000 requests over HTTP that are wrong in some way: each is answered by a client's error or taken for what it is, and nothing
//! is left of them.

use crate::support::{Server, greedy, memory, open_files, seen};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

const REQUESTS: usize = 100_000;
const CONNECTIONS: usize = 8;
/// What the server may hold more than after the first tenth of the requests.
const GROWTH_BYTES_MAX: u64 = 24 << 20;

/// Routes with a body that each takes.
const BODIES: [(&str, &str); 9] = [
    ("/", r#"{"inputs":"Once","parameters":{"max_new_tokens":1},"stream":false}"#),
    (
        "/generate",
        r#"{"inputs":"Once","parameters":{"max_new_tokens":1,"top_k":3,"stop":["a"],"seed":1,"details":true}}"#,
    ),
    (
        "/generate_stream",
        r#"{"inputs":"Once","parameters":{"max_new_tokens":1,"grammar":null,"truncate":5,"logit_bias":{}}}"#,
    ),
    ("/invocations", r#"{"inputs":"Once","parameters":{"max_new_tokens":1,"top_p":0.5},"stream":true}"#),
    ("/endpoints/a/invocations", r#"{"inputs":"Once","parameters":{"max_new_tokens":1,"best_of":1}}"#),
    ("/endpoints/a/invocations-response-stream", r#"{"inputs":"Once","parameters":{"max_new_tokens":1}}"#),
    ("/tokenize", r#"{"inputs":"Once","add_special_tokens":true}"#),
    (
        "/v1/completions",
        r#"{"model":"a","prompt":["Once"],"max_tokens":1,"n":1,"logprobs":2,"stream":false,"stop":"b"}"#,
    ),
    (
        "/v1/chat/completions",
        r#"{"model":"a","messages":[{"role":"user","content":"Hi"}],"max_tokens":1,"top_logprobs":1,"logprobs":true}"#,
    ),
];

/// Values that stand where others are expected.
const WILD: [&str; 22] = [
    "null",
    "true",
    "-1",
    "0",
    "1e999",
    "-1e-999",
    "18446744073709551616",
    "4294967295",
    "NaN",
    "\"\"",
    "\"\\ud800\"",
    "\"\\u0000\"",
    "[]",
    "{}",
    "[null]",
    "[[1],[2,3]]",
    "\"🦅\u{2028}\"",
    "[3071,3072]",
    "{\"role\":7}",
    "[\"a\",1]",
    "1.5",
    "\"1\"",
];

struct Wrong {
    bytes: Vec<u8>,
    /// How many of the bytes are sent before the connection is closed.
    sent: usize,
    slowly: bool,
    /// Its end is that of the connection's sending half: nothing else says where it is.
    ends_by_close: bool,
    /// The answer has a head alone.
    is_head: bool,
}

/// A request that is wrong somehow, or by chance right.
fn wrong(rng: &mut fastrand::Rng) -> Wrong {
    let (path, body) = BODIES[rng.usize(..BODIES.len())];
    let (mut path, mut method, mut body) = (path.to_owned(), "POST", body.as_bytes().to_vec());
    let mut headers = "Content-Type: application/json\r\n".to_owned();
    match rng.u32(..9) {
        0..3 => body = with_wild_value(rng, &body),
        3 => body.truncate(rng.usize(..body.len())),
        4 => (0..rng.usize(1..4)).for_each(|_| {
            let at = rng.usize(..body.len());
            body[at] = rng.u8(..);
        }),
        5 => body = [b"[".repeat(rng.usize(1..50_000)), body].concat(),
        6 => method = *rng.choice(&["GET", "PUT", "DELETE", "HEAD", "PATCH", "X-Y"]).unwrap(),
        7 => path += rng.choice(&["/x", "?a=%ff", "/%2F%00", "//", "/..", "/🦅"]).unwrap(),
        _ => {
            headers = rng
                .choice(&["", "Content-Type: text/plain\r\n", "Content-Type: \r\n", "X: \u{1}\r\n"])
                .unwrap()
                .to_string();
        }
    }
    let length = match rng.u32(..40) {
        0 => "Content-Length: many\r\n".to_owned(),
        1 => "Transfer-Encoding: odd\r\n".to_owned(),
        2 => "Transfer-Encoding: chunked\r\n".to_owned(),
        _ => format!("Content-Length: {}\r\n", body.len()),
    };
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{headers}{length}\r\n").into_bytes();
    bytes.extend_from_slice(&body);
    let sent = if rng.u32(..20) == 0 { rng.usize(..bytes.len()) } else { bytes.len() };
    let ends_by_close = !length.starts_with("Content-Length");
    Wrong { sent, bytes, slowly: rng.u32(..2000) == 0, ends_by_close, is_head: method == "HEAD" }
}

/// The body with one of its values replaced, or named twice.
fn with_wild_value(rng: &mut fastrand::Rng, body: &[u8]) -> Vec<u8> {
    let colons: Vec<usize> = (0..body.len()).filter(|&at| body[at] == b':').collect();
    let at = *rng.choice(&colons).unwrap() + 1;
    let rest = &body[at..];
    let end = rest.iter().position(|byte| b",}".contains(byte)).unwrap_or(rest.len());
    [&body[..at], rng.choice(WILD).unwrap().as_bytes(), &rest[end..]].concat()
}

/// Sends requests one after another over connections that are kept as long as the server keeps them.
async fn send(address: SocketAddr, seed: u64, requests: usize) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut connection = None;
    for number in 0..requests {
        let wrong = wrong(&mut rng);
        let mut stream = match connection.take() {
            Some(stream) => stream,
            None => TcpStream::connect(address).await.expect("it listens"),
        };
        let what = || {
            format!(
                "seed {seed}, request {number}: {}",
                String::from_utf8_lossy(&wrong.bytes[..wrong.bytes.len().min(600)])
            )
        };
        let written = write(&mut stream, &wrong).await;
        if wrong.sent < wrong.bytes.len() {
            continue;
        }
        let answer = timeout(Duration::from_secs(20), read_answer(&mut stream, wrong.is_head)).await;
        let (status, keep) = answer.unwrap_or_else(|_| panic!("no answer: {}", what()));
        let keep = keep && !wrong.ends_by_close && !wrong.slowly;
        // A server may close a connection that it could not make sense of, and what it says may be lost with it.
        assert!(status.is_some() || written.is_err() || !keep, "{}", what());
        assert!(status.is_none_or(|status| (100..500).contains(&status)), "{status:?}: {}", what());
        connection = keep.then_some(stream);
    }
}

async fn write(stream: &mut TcpStream, wrong: &Wrong) -> std::io::Result<()> {
    let bytes = &wrong.bytes[..wrong.sent];
    if !wrong.slowly {
        stream.write_all(bytes).await?;
        return if wrong.ends_by_close { stream.shutdown().await } else { Ok(()) };
    }
    for part in bytes.chunks(bytes.len() / 4 + 1) {
        stream.write_all(part).await?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stream.shutdown().await
}

/// The status of an answer, and whether another request may follow. There is none if the connection ends.
async fn read_answer(stream: &mut TcpStream, is_head: bool) -> (Option<u16>, bool) {
    let mut received = Vec::new();
    loop {
        if let Some((status, complete)) = parse(&received)
            && let Some(keep) = complete.or(is_head.then_some(true))
        {
            return (Some(status), keep);
        }
        if !matches!(stream.read_buf(&mut received).await, Ok(1..)) {
            return (parse(&received).map(|(status, _)| status), false);
        }
    }
}

/// The status of an answer whose head is there, and, if all of it is there, whether the connection is kept.
fn parse(received: &[u8]) -> Option<(u16, Option<bool>)> {
    let text = String::from_utf8_lossy(received);
    let (head, _) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let head = head.to_ascii_lowercase();
    let body = &received[received.windows(4).position(|four| four == b"\r\n\r\n")? + 4..];
    let value =
        |name: &str| head.split("\r\n").find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned));
    let complete = match value("content-length") {
        Some(length) => body.len() >= length.parse::<usize>().ok()?,
        None if value("transfer-encoding").is_some() => body.ends_with(b"0\r\n\r\n"),
        None => true,
    };
    Some((status, complete.then(|| value("connection").as_deref() != Some("close"))))
}

async fn send_all(address: SocketAddr, seed: u64, requests: usize) {
    let mut senders = JoinSet::new();
    for index in 0..CONNECTIONS as u64 {
        senders.spawn(send(address, seed + index, requests / CONNECTIONS));
    }
    while let Some(sender) = senders.join_next().await {
        sender.expect("every request was answered as it should be");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_hundred_thousand_malformed_requests_leave_nothing() {
    let seed = fastrand::u64(..1 << 40);
    println!("seed {seed}");
    let server = Server::ready(["--backend", "instant", "--tensor-parallel", "1"]).await;
    let (pid, files) = (server.pid(), open_files(server.pid()));
    send_all(server.http, seed, REQUESTS / 10).await;
    let before = memory(pid, "VmRSS");
    send_all(server.http, seed + 100, REQUESTS * 9 / 10).await;
    let after = memory(pid, "VmRSS");
    println!("{} MiB after a tenth, {} MiB after all", before >> 20, after >> 20);
    assert!(after <= before + GROWTH_BYTES_MAX, "{before} bytes became {after}");
    seen("no descriptor is lost", || (open_files(pid) <= files).then_some(())).await;
    assert_eq!(server.get("/health").await.status, 200);
    server.client().await.generate(greedy("Once", 2)).await;
    server.stop().await;
}
