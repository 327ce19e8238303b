//! Drains: what runs is finished, what is on its way is taken, and clients are told to go elsewhere.

use crate::scripted::{Answer, LIMIT, Script, Server};
use coordinator::RestartLimits;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use server::StateName;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::Channel;
use wire::generation as pb;
use wire::generation::generation_client::GenerationClient;

const TEXT: &str = "one two three four five six seven eight";

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.expect("it hangs")
}

/// A server whose tokens take a while.
async fn slow() -> Server {
    Script { pause: Duration::from_millis(30), ..Script::new(&[TEXT]) }.serve().await
}

fn generate(path: &str, address: SocketAddr) -> Request<Full<Bytes>> {
    let body = json!({ "inputs": "Once", "parameters": { "max_new_tokens": 20 } }).to_string();
    let request = Request::post(format!("http://{address}{path}")).header("host", "server");
    request.header("content-type", "application/json").body(Full::from(body)).expect("a request")
}

/// The answer's head, and all of its body.
async fn whole(response: Response<Incoming>) -> (StatusCode, Option<String>, String) {
    let close = response.headers().get("connection").map(|value| value.to_str().expect("ASCII").to_owned());
    let status = response.status();
    let body = within(response.into_body().collect()).await.expect("all of it").to_bytes();
    (status, close, String::from_utf8(body.to_vec()).expect("UTF-8"))
}

type Http1 = (http1::SendRequest<Full<Bytes>>, JoinHandle<hyper::Result<()>>);

/// A connection of a client that keeps it.
async fn http1(address: SocketAddr) -> Http1 {
    let stream = TokioIo::new(TcpStream::connect(address).await.expect("it listens"));
    let (sender, connection) = within(http1::handshake(stream)).await.expect("HTTP");
    (sender, tokio::spawn(connection))
}

async fn ask((sender, _): &mut Http1, path: &str, address: SocketAddr) -> (StatusCode, Option<String>, String) {
    within(sender.ready()).await.expect("it is open");
    whole(within(sender.send_request(generate(path, address))).await.expect("an answer")).await
}

fn grpc_request() -> pb::GenerateRequest {
    let parameters = pb::Parameters { max_new_tokens: Some(20), ..Default::default() };
    pb::GenerateRequest { inputs: "Once".to_owned(), parameters: Some(parameters), ..Default::default() }
}

/// A stream that has begun.
async fn grpc_stream(channel: &Channel) -> tonic::Streaming<pb::GenerateStreamResponse> {
    let stream = within(GenerationClient::new(channel.clone()).generate_stream(grpc_request())).await;
    let mut stream = stream.expect("a stream").into_inner();
    within(stream.message()).await.expect("a message").expect("not the end");
    stream
}

async fn to_the_end(mut stream: tonic::Streaming<pb::GenerateStreamResponse>) -> String {
    let mut text = None;
    while let Some(message) = within(stream.message()).await.expect("it is not disturbed") {
        text = message.generated_text.or(text);
    }
    text.expect("the last message has it")
}

fn state(answer: &Answer) -> String {
    answer.json()["state"]["name"].as_str().expect("a name").to_owned()
}

#[tokio::test]
async fn running_streams_end_well_and_new_requests_are_refused_until_the_drain_is_undone() {
    let server = slow().await;
    let channel = server.channel().await;
    let stream = grpc_stream(&channel).await;
    let mut kept = http1(server.address).await;
    let over_http1 = ask(&mut kept, "/generate", server.address).await;
    assert_eq!((over_http1.0, over_http1.1), (StatusCode::OK, None), "nothing is said before a drain");
    let (status, mut info) = (server.service.state(), server.get("/info").await);
    assert_eq!((status.name.as_str(), &*state(&info)), ("ready", "ready"));

    server.service.drain();
    for path in ["/readyz", "/health", "/ping"] {
        let answer = server.get(path).await;
        assert!(answer.status == 503 && answer.body.contains("unhealthy: drained"), "{answer:?}");
    }
    assert_eq!(server.get("/livez").await.status, 200);
    info = server.get("/info").await;
    assert_eq!((&*state(&info), info.header("connection")), ("draining", Some("close")), "{info:?}");
    let metrics = server.get("/metrics").await.body;
    for line in ["peregrine_state{state=\"draining\"} 1", "peregrine_state{state=\"ready\"} 0", "peregrine_up 0"] {
        assert!(metrics.contains(&format!("\n{line}\n")), "{line} is not in {metrics}");
    }
    let refused = server.post_json("/generate", &[], r#"{"inputs": "Once"}"#).await;
    assert_eq!((refused.status, refused.header("connection")), (503, Some("close")), "{refused:?}");
    let status = server.grpc(grpc_request()).await.expect_err("a new connection");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    // What a client sends that has not seen it yet.
    let last = ask(&mut kept, "/generate", server.address).await;
    assert_eq!((last.0, last.1.as_deref()), (StatusCode::OK, Some("close")));
    assert_eq!(last.2, over_http1.2);
    within(kept.1).await.expect("no panic").expect("the connection ends well");
    assert_eq!(to_the_end(stream).await, TEXT);

    assert!(server.service.undrain());
    assert_eq!(server.get("/readyz").await.status, 200);
    assert_eq!(server.post_json("/generate", &[], r#"{"inputs": "Once"}"#).await.status, 200);
    server.grpc(grpc_request()).await.expect("it serves again");
    assert!(!server.ended.is_finished());
}

/// A server whose ranks fail, and are not ready again.
#[tokio::test]
async fn a_recovery_is_told_and_is_no_reason_to_restart_the_process() {
    let restarts = RestartLimits { failures_max: None, window: Duration::from_secs(600) };
    let server = Script { fails_at: Some(0), restarts, ..Script::new(&[TEXT]) }.serve().await;
    let asked = tokio::spawn({
        let channel = server.channel().await;
        async move { GenerationClient::new(channel).generate(grpc_request()).await }
    });
    let mut states = server.service.state_changes();
    let recovering = states.wait_for(|state| state.name == StateName::Recovering);
    let since = within(recovering).await.expect("it goes on").since_unix_s();
    let (ready, info) = (server.get("/readyz").await, server.get("/info").await);
    assert!(ready.status == 503 && ready.body.contains("unhealthy: recovering from a failure: rank 0"), "{ready:?}");
    assert_eq!(server.get("/livez").await.status, 200);
    assert_eq!((&*state(&info), &info.json()["state"]["since"]), ("recovering", &json!(since)), "{info:?}");
    let metrics = server.get("/metrics").await.body;
    assert!(metrics.contains("\nperegrine_state{state=\"recovering\"} 1\n"), "{metrics}");
    asked.abort();
}

/// By GOAWAY: the same channel goes elsewhere by itself, which here leads to a connection that is new to the drain.
#[tokio::test]
async fn grpc_clients_are_told_to_go_elsewhere() {
    let server = slow().await;
    let channel = server.channel().await;
    let streams = [grpc_stream(&channel).await, grpc_stream(&channel).await];
    server.service.drain();
    let refused = async {
        // Calls that are sent before GOAWAY is read are answered.
        loop {
            let call = GenerationClient::new(channel.clone()).generate(grpc_request()).await;
            if let Err(status) = call {
                return status;
            }
        }
    };
    let status = within(refused).await;
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "the server is shutting down"));
    for stream in streams {
        assert_eq!(to_the_end(stream).await, TEXT);
    }
}

#[tokio::test]
async fn http2_connections_end_with_their_last_stream() {
    let server = slow().await;
    for address in [server.address, server.grpc] {
        let stream = TokioIo::new(TcpStream::connect(address).await.expect("it listens"));
        let (mut sender, connection) = within(http2::handshake(TokioExecutor::new(), stream)).await.expect("HTTP/2");
        let ended = tokio::spawn(connection);
        let answer = within(sender.send_request(generate("/generate_stream", address))).await.expect("an answer");
        server.service.drain();
        let (status, close, body) = whole(answer).await;
        assert_eq!((status, close), (StatusCode::OK, None), "HTTP/2 has no such header");
        // gRPC has an error, as this is none of its messages.
        assert_eq!(body.contains(TEXT), address == server.address, "{body}");
        within(ended).await.expect("no panic").expect("it ends well");
        assert!(server.service.undrain());
    }
}

#[tokio::test]
async fn a_stream_over_http1_is_finished_and_its_connection_takes_one_more_request() {
    let server = slow().await;
    let mut kept = http1(server.address).await;
    within(kept.0.ready()).await.expect("it is open");
    let stream = within(kept.0.send_request(generate("/generate_stream", server.address))).await.expect("an answer");
    assert!(stream.headers().get("connection").is_none());
    server.service.drain();
    let (status, _, body) = whole(stream).await;
    assert!(status == StatusCode::OK && body.contains(TEXT), "{body}");
    let last = ask(&mut kept, "/generate", server.address).await;
    assert_eq!((last.0, last.1.as_deref()), (StatusCode::OK, Some("close")));
    within(kept.1).await.expect("no panic").expect("it ends well");
    // One that asks for nothing more is closed, and does not hold up the end.
    assert!(server.service.undrain());
    let mut idle = http1(server.address).await;
    assert_eq!(ask(&mut idle, "/generate", server.address).await.1, None);
    server.service.end();
    within(idle.1).await.expect("no panic").expect("it ends well");
    within(server.ended).await.expect("no panic");
    assert!(!server.service.undrain(), "it has ended");
}

/// Calls without a pause, over connections that are kept, while the server comes to its end: none fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_on_a_connection_of_before_fails() {
    for _ in 0..5 {
        let server = Script::new(&[TEXT]).serve().await;
        let (address, grpc) = (server.address, server.grpc);
        let callers = (0..6).map(|_| {
            tokio::spawn(async move {
                let (mut kept, mut calls) = (http1(address).await, 0);
                loop {
                    let (status, close, body) = ask(&mut kept, "/generate", address).await;
                    assert_eq!(status, StatusCode::OK, "call {calls}: {body}");
                    calls += 1;
                    if close.is_some() {
                        return calls;
                    }
                }
            })
        });
        let callers: Vec<_> = callers.collect();
        let over_http2 = tokio::spawn(async move {
            let stream = TokioIo::new(TcpStream::connect(grpc).await.expect("it listens"));
            let handshake = http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), stream);
            let (mut sender, connection) = handshake.await.expect("HTTP/2");
            tokio::spawn(connection);
            let mut calls = 0;
            loop {
                let request = Request::post(format!("http://{grpc}/peregrine.v1.Generation/Generate"));
                let message = prost::Message::encode_to_vec(&grpc_request());
                let length = u32::try_from(message.len()).expect("short").to_be_bytes();
                let body = [&[0], &length[..], &message].concat();
                let request = request.header("content-type", "application/grpc").header("te", "trailers");
                // Once GOAWAY has been read, the client sends nothing more.
                if sender.ready().await.is_err() {
                    return calls;
                }
                let answer = sender.send_request(request.body(Full::from(body)).expect("a request"));
                let answer = match within(answer).await {
                    Ok(answer) => answer,
                    // It was read in between.
                    Err(error) if error.is_canceled() => return calls,
                    Err(error) => panic!("call {calls}: {error:?}"),
                };
                let body = within(answer.into_body().collect()).await.expect("all of it");
                let code = body.trailers().and_then(|trailers| trailers.get("grpc-status"));
                assert_eq!(code.map(|code| code.as_bytes()), Some(&b"0"[..]), "call {calls}");
                calls += 1;
            }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.service.end();
        for caller in callers {
            assert!(within(caller).await.expect("no call failed") > 0);
        }
        assert!(within(over_http2).await.expect("no call failed") > 0);
        within(server.ended).await.expect("no panic");
    }
}

/// The system has accepted them, and the server had no time to.
#[tokio::test]
async fn what_waits_in_the_queue_of_a_port_is_answered_before_the_port_is_closed() {
    for round in 0..10 {
        let server = Script { shares_ports: true, ..Script::new(&[TEXT]) }.serve().await;
        let address = server.address;
        within(async {
            while TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
        let body = json!({ "inputs": "Once", "parameters": { "max_new_tokens": 20 } }).to_string();
        let head = "POST /generate HTTP/1.1\r\nHost: server\r\nContent-Type: application/json\r\n";
        let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
        // Nothing here waits, so that nobody accepts meanwhile.
        let queued = [(); 5].map(|()| {
            let mut stream = std::net::TcpStream::connect(address).expect("it listens");
            std::io::Write::write_all(&mut stream, request.as_bytes()).expect("there is room");
            stream.set_nonblocking(true).expect("a socket");
            stream
        });
        server.service.end();
        for stream in queued {
            let (mut stream, mut answer) = (TcpStream::from_std(stream).expect("a socket"), String::new());
            let read = within(tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer)).await;
            assert!(read.is_ok() && answer.starts_with("HTTP/1.1 200 "), "round {round}: {read:?} {answer}");
        }
        within(server.ended).await.expect("no panic");
        assert!(TcpStream::connect(address).await.is_err(), "the port is closed");
    }
}

/// Who counts tokens does not hold up the end, as he begins nothing.
#[tokio::test]
async fn tokenizing_does_not_hold_up_the_end() {
    let server = slow().await;
    let (address, _idle) = (server.address, http1(server.address).await);
    server.service.end();
    let counting = tokio::spawn(async move {
        let body = r#"{"inputs":"one two"}"#;
        let head = format!("content-type: application/json\r\ncontent-length: {}\r\nconnection: close", body.len());
        // The port is closed in the end.
        while let Ok(mut stream) = TcpStream::connect(address).await {
            let request = format!("POST /tokenize HTTP/1.1\r\nhost: server\r\n{head}\r\n\r\n{body}");
            let _ = stream.write_all(request.as_bytes()).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    });
    within(server.ended).await.expect("no panic");
    within(counting).await.expect("no panic");
}

/// It came over a connection of before, and has begun before.
#[tokio::test]
async fn a_request_whose_body_takes_long_is_taken() {
    let server = slow().await;
    let body = json!({ "inputs": "Once", "parameters": { "max_new_tokens": 20 } }).to_string();
    let mut stream = TcpStream::connect(server.address).await.expect("it listens");
    let head = format!("content-type: application/json\r\ncontent-length: {}\r\nexpect: 100-continue", body.len());
    let head = format!("POST /generate HTTP/1.1\r\nhost: server\r\n{head}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("the server reads");
    let mut said = [0; 12];
    within(stream.read_exact(&mut said)).await.expect("the server waits for the body");
    assert_eq!(&said, b"HTTP/1.1 100");
    server.service.end();
    // Longer than an end waits for what is on its way.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    stream.write_all(body.as_bytes()).await.expect("the server reads");
    let mut answer = String::new();
    within(stream.read_to_string(&mut answer)).await.expect("an answer");
    assert!(answer.contains("HTTP/1.1 200"), "{answer}");
    within(server.ended).await.expect("no panic");
}
