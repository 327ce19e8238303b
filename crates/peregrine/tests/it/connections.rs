//! Limits of connections: whoever breaks one is told so, and nobody else notices.

use crate::support::{Client, Http2, Server, greedy, next_message, request, within};
use prost::Message;
use std::convert::Infallible;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::codegen::{Service, http};
use tonic::{Code, Request, Status};
use wire::generation as pb;

const STREAM_PATH: &str = "/peregrine.v1.Generation/GenerateStream";
const GENERATE_PATH: &str = "/peregrine.v1.Generation/Generate";

/// Tokens of the stream that others must not disturb.
const LONG: u32 = 1500;

/// Reads a stream to its end, which must come after all tokens.
async fn read_all(mut stream: tonic::Streaming<pb::GenerateStreamResponse>, seen: usize) {
    let mut count = seen;
    while let Some(message) = within("a message", stream.message()).await.expect("the stream is not disturbed") {
        count += message.tokens.len();
    }
    assert_eq!(count, LONG as usize);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn ten_thousand_cancels_at_once_end_no_other_stream() {
    let server = Server::ready(["--tensor-parallel", "1"]).await;
    let mut connection = Http2::connect(server.grpc).await;
    let (call, long) = connection.call(STREAM_PATH, &greedy("Once", LONG).encode_to_vec());
    connection.send(&call).await;
    let mut received = connection.data(long).await.expect("a first message");
    let mut burst = Vec::new();
    for _ in 0..10_000 {
        let (call, id) = connection.call(STREAM_PATH, &greedy("The wolf", 500).encode_to_vec());
        burst.extend(call);
        burst.extend(Http2::cancel(id));
    }
    connection.send(&burst).await;
    while let Some(data) = connection.data(long).await {
        received.extend(data);
    }
    let (mut count, mut rest) = (0, &received[..]);
    while let [_, a, b, c, d, after @ ..] = rest {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        count += pb::GenerateStreamResponse::decode(&after[..length]).expect("a message").tokens.len();
        rest = &after[length..];
    }
    assert_eq!(count, LONG as usize);
    server.stop().await;
}

fn with_metadata(bytes: usize) -> Request<pb::GenerateRequest> {
    let mut request = Request::new(greedy("Once", 1));
    request.metadata_mut().insert("x-trace", "a".repeat(bytes).parse().expect("ASCII"));
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn metadata_that_is_too_large_ends_its_call_alone() {
    let server = Server::ready(["--tensor-parallel", "1"]).await;
    let client = server.client().await;
    let mut long = client.stream(greedy("Once", LONG)).await;
    let seen = next_message(&mut long).await.tokens.len();
    for kib in [8, 32, 60] {
        let answer = within("an answer", client.generation().generate(with_metadata(kib << 10))).await;
        answer.unwrap_or_else(|status| panic!("{kib} KiB: {status}"));
    }
    for kib in [64, 100, 500, 900] {
        let status =
            within("an answer", client.generation().generate(with_metadata(kib << 10))).await.expect_err("large");
        assert_eq!(status.code(), Code::ResourceExhausted, "{kib} KiB: {status}");
        assert!(status.message().contains("and may have 65536"), "{status}");
    }
    read_all(long, seen).await;
    let head = format!(
        "GET /health HTTP/1.1\r\nHost: peregrine\r\nConnection: close\r\nX-Trace: {}\r\n\r\n",
        "a".repeat(70 << 10)
    );
    let answer = server.http(&head).await;
    assert!(answer.status == 431 && answer.body.contains("and may have 65536"), "{answer:?}");
    server.stop().await;
}

/// Sends these bytes as a gRPC message, and returns the status that comes instead of an answer.
async fn status_of(client: &Client, body: axum::body::Body) -> Status {
    let request = http::Request::post(GENERATE_PATH).header("content-type", "application/grpc");
    let request = request.body(tonic::body::Body::new(body)).expect("a request");
    let mut channel = client.channel.clone();
    std::future::poll_fn(|cx| channel.poll_ready(cx)).await.expect("a connection");
    let response = within("an answer", channel.call(request)).await.expect("an answer");
    Status::from_header_map(response.headers()).expect("a status")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn messages_that_are_too_large_or_none_have_the_right_codes() {
    let server = Server::ready(["--tensor-parallel", "1"]).await;
    let client = server.client().await;
    for bytes in ["\0\0\0\0\u{3}\u{f}\u{f}\u{f}", "\0\0\0\0\u{1}", "\u{7}\0\0\0\0", ""] {
        let status = status_of(&client, bytes.into()).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{bytes:?}: {status}");
    }
    let mut long = client.stream(greedy("Once", LONG)).await;
    let seen = next_message(&mut long).await.tokens.len();
    // More than a connection forgives by default, if each leaves data that nobody waits for.
    let large = request(&"a".repeat(5 << 20), pb::Parameters::default());
    let calls = (0..40).map(|_| {
        let (client, large) = (client.clone(), large.clone());
        tokio::spawn(async move { client.try_generate(large).await.expect_err("too large") })
    });
    for call in calls.collect::<Vec<_>>() {
        let status = call.await.expect("no panic");
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(status.message().contains("4194304 bytes"), "{status}");
    }
    read_all(long, seen).await;

    let huge = format!(r#"{{"inputs": "{}"}}"#, "a".repeat(3 << 20));
    let answer = server.post("/generate", &huge).await;
    assert!(answer.status == 413 && answer.body.contains("2097152 bytes"), "{answer:?}");
    server.stop().await;
}

/// Sends `bytes`, and returns what came until the server closed the connection.
async fn until_closed(address: SocketAddr, bytes: Vec<u8>) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&bytes).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer).into_owned())
    };
    within("the server closes the connection", exchange).await.expect("it is closed in order")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn half_sent_requests_and_idle_connections_end() {
    let server = Server::ready(["--tensor-parallel", "1"]).await;
    let post =
        "POST /generate HTTP/1.1\r\nHost: peregrine\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
    let (http, grpc) = (server.http, server.grpc);
    let cases = [
        (http, ""),
        (http, "P"),
        (http, "PRI * HTTP/2.0\r\n\r\n"),
        (http, "GET /health HTTP/1.1\r\nHost: "),
        (http, "GET /health HTTP/1.1\r\nHost: peregrine\r\n\r\n"),
        (http, post),
        (grpc, ""),
        (grpc, "PRI * HTT"),
    ];
    let exchanges = cases.map(|(address, bytes)| tokio::spawn(until_closed(address, bytes.into())));
    let client = server.client().await;
    let endless = axum::body::Body::from_stream(tokio_stream::pending::<Result<String, Infallible>>());
    let half = tokio::spawn(async move { status_of(&client, endless).await });
    let mut answers = Vec::new();
    for exchange in exchanges {
        answers.push(exchange.await.expect("no panic"));
    }
    assert!(answers[4].starts_with("HTTP/1.1 200 OK"), "{answers:?}");
    assert!(answers[5].starts_with("HTTP/1.1 408") && answers[5].contains("within 30 s"), "{answers:?}");
    assert_eq!(answers[..4].concat(), "", "{answers:?}");
    let status = half.await.expect("no panic");
    assert!(status.code() == Code::DeadlineExceeded && status.message().contains("within 30 s"), "{status}");
    server.stop().await;
}
