//! Signs of life while nothing comes, in the time of a clock that nobody waits for.

use crate::scripted::{LIMIT, Script, Server};
use coordinator::RestartLimits;
use serde_json::{Value, json};
use server::StateName;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Between two tokens, and before the first.
const PAUSE: Duration = Duration::from_secs(50);

/// Ids, which nobody needs to tokenize: that is another thread's work, for which a clock that stands still would not wait.
fn request() -> Value {
    json!({ "inputs": [5, 6], "prompt": [5, 6], "max_tokens": 2, "parameters": { "max_new_tokens": 2 }, "stream": true })
}

async fn slow() -> Server {
    Script { pause: PAUSE, ..Script::new(&[" yes no maybe"]) }.serve().await
}

/// Asks.
async fn ask(address: SocketAddr, path: &str, body: &Value) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let body = body.to_string();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: server\r\nConnection: close\r\nContent-Type: application/json\r\n");
    let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes()).await.expect("it reads");
    stream
}

/// Says when which bytes came, in seconds.
async fn pieces(mut stream: TcpStream, begin: Instant) -> Vec<(u64, Vec<u8>)> {
    let (mut pieces, mut piece) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        match stream.read(&mut piece).await.expect("it answers") {
            0 => return pieces,
            count => pieces.push((begin.elapsed().as_secs(), piece[..count].to_vec())),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_says_that_it_is_alive_also_before_its_first_token() {
    let server = slow().await;
    for (path, is_framed) in [
        ("/generate_stream", false),
        ("/v1/completions", false),
        ("/invocations", false),
        ("/endpoints/falcon/invocations-response-stream", true),
    ] {
        let mut body = request();
        body.as_object_mut().expect("an object").remove(if path.starts_with("/v1") { "inputs" } else { "prompt" });
        let begin = Instant::now();
        let pieces = pieces(ask(server.address, path, &body).await, begin).await;
        let times: Vec<u64> = pieces.iter().map(|(at, _)| *at).collect();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let all: String = pieces.iter().map(|(_, bytes)| text(bytes)).collect();
        assert!(all.starts_with("HTTP/1.1 200 OK"), "{path}: {all}");
        // The head and a sign after 15 s, two more, a token; three more, and the rest.
        let mut expected: Vec<u64> = vec![15, 30, 45, 50, 65, 80, 95, 100];
        let mut seen = times.clone();
        seen.dedup();
        assert_eq!(seen, expected, "{path}: {all}");
        expected.retain(|at| at % 50 != 0);
        for (at, bytes) in &pieces {
            if expected.contains(at) {
                let bytes = text(bytes);
                let sign = if is_framed { "PayloadPart" } else { "\r\n:\n\n\r\n" };
                assert!(bytes.contains(sign) && !bytes.contains("data:"), "{path} at {at}: {bytes:?}");
            }
        }
    }
}

/// Whose model fails before the first token, but after the head, learns it by an event.
#[tokio::test(start_paused = true)]
async fn an_error_after_the_first_sign_of_life_is_an_event() {
    let server = Script { pause: PAUSE, fails_at: Some(0), ..Script::new(&[" yes"]) }.serve().await;
    let stream = ask(server.address, "/generate_stream", &request()).await;
    let pieces = pieces(stream, Instant::now()).await;
    let all: Vec<u8> = pieces.into_iter().flat_map(|(_, bytes)| bytes).collect();
    let all = String::from_utf8(all).expect("UTF-8");
    assert!(all.starts_with("HTTP/1.1 200 OK") && all.contains("event: error\ndata: {\"error\":"), "{all}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_says_that_it_is_alive_while_the_ranks_recover() {
    let restarts = RestartLimits { failures_max: None, window: LIMIT };
    let script = Script { fails_at: Some(1), restarts, ..Script::new(&[" yes no maybe"]) };
    let server = script.serve().await;
    let begin = Instant::now();
    let mut stream = ask(server.address, "/generate_stream", &request()).await;
    let (mut signs, mut text) = (Vec::new(), String::new());
    while signs.len() < 4 {
        let mut piece = vec![0; 1 << 12];
        let count = stream.read(&mut piece).await.expect("the stream goes on");
        text += &String::from_utf8_lossy(&piece[..count]);
        if piece[..count].windows(5).any(|bytes| bytes == b"\r\n:\n\n") {
            signs.push(begin.elapsed().as_secs());
        }
    }
    assert_eq!(signs, [15, 30, 45, 60], "{text}");
    assert_eq!((server.service.state().name, text.matches("data:").count()), (StateName::Recovering, 1), "{text}");
}

/// A gRPC stream has no such words; its connection is asked every 30 s, whatever is on it.
#[tokio::test(start_paused = true)]
async fn connections_over_http2_are_pinged() {
    let server = slow().await;
    let mut stream = TcpStream::connect(server.grpc).await.expect("it listens");
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    stream.write_all(&[&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &settings].concat()).await.expect("it reads");
    let (begin, mut pings) = (Instant::now(), Vec::new());
    while pings.len() < 3 {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.expect("the connection lives");
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).await.expect("a whole frame");
        if let [_, _, _, 6, 0, ..] = head {
            pings.push(begin.elapsed().as_secs());
            stream.write_all(&[&[0, 0, 8, 6, 1, 0, 0, 0, 0][..], &payload].concat()).await.expect("it reads");
        }
    }
    assert_eq!(pings, [30, 60, 90]);
    // One that does not answer is gone.
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("it is closed");
    assert_eq!(begin.elapsed().as_secs(), 140);
}
