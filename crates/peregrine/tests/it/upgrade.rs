//! A process takes over from another, under load: no call fails.

use crate::lifecycle::{begun, rest};
use crate::support::{Client, Program, Running, Server, greedy, seen, within};
use rustix::process::Signal;
use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tonic::Code;

const PROMPT: &str = "Once upon a time";
const TOKENS: u32 = 24;
/// Of streams that last for some part of a change.
const LONG: u32 = 600;

/// Where both processes listen.
#[derive(Clone, Copy, Debug)]
struct Place {
    grpc: SocketAddr,
    http: SocketAddr,
}

/// Callers of all kinds, who call until they are told to end, and none of whose calls may fail.
struct Callers {
    end: Arc<AtomicBool>,
    tasks: Vec<(&'static str, JoinHandle<usize>)>,
}

impl Callers {
    fn start(place: Place, text: &str, long: &str) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for _ in 0..2 {
            let goes_on = || {
                let end = end.clone();
                move || !end.load(Ordering::Relaxed)
            };
            let text = text.to_owned();
            tasks.push(("long streams", tokio::spawn(streams(place.grpc, LONG, long.to_owned(), goes_on()))));
            tasks.push(("streams", tokio::spawn(streams(place.grpc, TOKENS, text.clone(), goes_on()))));
            tasks.push(("kept gRPC", tokio::spawn(kept_grpc(place.grpc, text.clone(), goes_on()))));
            tasks.push(("kept HTTP/1.1", tokio::spawn(http(place.http, true, text.clone(), goes_on()))));
            tasks.push(("new HTTP/1.1", tokio::spawn(http(place.http, false, text, goes_on()))));
        }
        Self { end, tasks }
    }

    async fn end(self) {
        self.end.store(true, Ordering::Relaxed);
        for (kind, task) in self.tasks {
            let calls = within("the end of a caller", task).await.unwrap_or_else(|error| panic!("{kind}: {error}"));
            assert!(calls > 0, "{kind} were never begun");
        }
    }
}

/// A connection for each stream.
async fn streams(grpc: SocketAddr, tokens: u32, text: String, goes_on: impl Fn() -> bool) -> usize {
    let mut calls = 0;
    while goes_on() {
        let (stream, first) = begun(&Client::connect(grpc).await, tokens).await;
        let (more, end) = rest(stream).await;
        assert_eq!((first + &more, end.expect("no error")), (text.clone(), Some(text.clone())), "stream {calls}");
        calls += 1;
    }
    calls
}

/// A channel that is kept. What it has not sent, as it had read GOAWAY, it sends again, as other libraries do by themselves.
async fn kept_grpc(grpc: SocketAddr, text: String, goes_on: impl Fn() -> bool) -> usize {
    let (client, mut calls) = (Client::connect(grpc).await, 0);
    while goes_on() {
        match client.try_generate(greedy(PROMPT, TOKENS)).await {
            Ok(answer) => assert_eq!(answer.generated_text, text, "call {calls}"),
            Err(status) => assert_eq!(
                (status.code(), status.message()),
                (Code::Cancelled, "operation was canceled"),
                "call {calls}: {status:?}"
            ),
        }
        calls += 1;
    }
    calls
}

/// Requests over a connection that is kept until an answer says that it is closed, or over a new one for each.
async fn http(http: SocketAddr, is_kept: bool, text: String, goes_on: impl Fn() -> bool) -> usize {
    let parameters = format!(r#""parameters": {{"max_new_tokens": {TOKENS}, "ignore_eos": true}}"#);
    let body = format!(r#"{{"inputs": "{PROMPT}", {parameters}}}"#);
    let length = body.len();
    let close = if is_kept { "" } else { "Connection: close\r\n" };
    let head = format!("POST /generate HTTP/1.1\r\nHost: peregrine\r\n{close}Content-Type: application/json\r\n");
    let request = format!("{head}Content-Length: {length}\r\n\r\n{body}");
    let (mut kept, mut calls) = (None, 0);
    while goes_on() {
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => within("a connection", TcpStream::connect(http)).await.expect("somebody listens"),
        };
        let answer = within("an answer", exchange(&mut stream, &request)).await;
        let (head, body) = answer.unwrap_or_else(|error| panic!("call {calls}: {error}"));
        assert!(head.starts_with("http/1.1 200 ") && body.contains(&text), "call {calls}: {head}{body}");
        kept = (!head.contains("connection: close")).then_some(stream);
        calls += 1;
    }
    calls
}

/// The head of an answer, in lower case, and its body.
async fn exchange(stream: &mut TcpStream, request: &str) -> std::io::Result<(String, String)> {
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
    let mut body = vec![0; length.unwrap_or_else(|| panic!("no length: {head}"))];
    stream.read_exact(&mut body).await?;
    Ok((head, String::from_utf8_lossy(&body).into_owned()))
}

async fn get(http: SocketAddr, path: &str) -> Option<(String, String)> {
    let mut stream = TcpStream::connect(http).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: peregrine\r\nConnection: close\r\n\r\n");
    exchange(&mut stream, &request).await.ok()
}

/// Waits until somebody serves there.
async fn served(http: SocketAddr) {
    within("a server that is ready", async {
        while !get(http, "/readyz").await.is_some_and(|(head, _)| head.starts_with("http/1.1 200 ")) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// `old` serves; `next` starts its successor, and waits until that serves, too.
async fn replaced(place: Place, old: Running, next: impl AsyncFnOnce() -> Running) {
    served(place.http).await;
    let client = Client::connect(place.grpc).await;
    let text = async |tokens| client.generate(greedy(PROMPT, tokens)).await.generated_text;
    let callers = Callers::start(place, &text(TOKENS).await, &text(LONG).await);
    let new = next().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    old.signal(Signal::TERM);
    let ended = old.end().await;
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.stderr.contains("finishing ") && !ended.stderr.contains("cut off"), "{ended:?}");
    tokio::time::sleep(Duration::from_millis(200)).await;
    callers.end().await;
    let (_, metrics) = get(place.http, "/metrics").await.expect("the new one answers");
    let answered = metrics.lines().find_map(|line| line.strip_prefix("tgi_request_success ")?.parse::<u64>().ok());
    assert!(answered.is_some_and(|answered| answered > 0), "{metrics}");
    new.signal(Signal::TERM);
    let ended = new.end().await;
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
}

fn sharing(place: Place) -> Running {
    let Place { grpc, http } = place;
    let place = ["--grpc-addr", &grpc.to_string(), "--http-addr", &http.to_string()].map(str::to_owned);
    Program::new(["serve", "--reuse-port"].map(str::to_owned).into_iter().chain(place)).start()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_shares_the_ports_takes_over_under_load() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut old = sharing(Place { grpc: any, http: any });
    let log = old.says_line("HTTP on ").await;
    let address = |after: &str| -> SocketAddr {
        let rest = log.split(after).nth(1).expect("both addresses");
        rest.split([',', '\n']).next().and_then(|word| word.trim().parse().ok()).expect("an address")
    };
    let place = Place { grpc: address("gRPC on "), http: address("HTTP on ") };
    replaced(place, old, async || {
        let new = sharing(place);
        // It listens once it is ready, and not before.
        assert_eq!(new.ports(2).await, [place.grpc.port(), place.http.port()]);
        new
    })
    .await;
    let alone = Program::new(["serve", "--grpc-addr", "127.0.0.1:0", "--http-addr", &place.http.to_string()]);
    let (first, other) = (sharing(place), alone);
    seen("a listener", || std::net::TcpStream::connect(place.http).ok()).await;
    let refused = other.run().await.failure();
    assert!(refused.contains(&format!("--http-addr {}: cannot listen there", place.http)), "{refused}");
    drop(first);
}

/// A server to which both sockets are handed over, as by systemd: it finds them at descriptors 3 and 4.
fn handed([grpc, http]: &[TcpListener; 2]) -> Running {
    let script = r#"exec 3<&0 4<&1 0</dev/null 1>/dev/null; LISTEN_PID=$$ exec "$0" "$@""#;
    let shell = ["-c", script, env!("CARGO_BIN_EXE_peregrine")].map(OsString::from);
    let socket = |socket: &TcpListener| OwnedFd::from(socket.try_clone().expect("a descriptor"));
    Program::of("sh", shell.into_iter().chain(Server::arguments([""; 0])))
        .stdin(socket(grpc))
        .stdout(socket(http))
        .envs([("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "grpc:http")])
        .start()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_handed_the_sockets_takes_over_under_load() {
    let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    let [grpc, http] = [0, 1].map(|index| sockets[index].local_addr().expect("an address"));
    let mut old = handed(&sockets);
    // Whoever comes while the model loads waits.
    let early = tokio::spawn(async move { get(http, "/readyz").await });
    let log = old.says_line("HTTP on ").await;
    assert!(log.contains(&format!("gRPC on {grpc}, HTTP on {http}")), "{log}");
    let (head, _) = within("an answer", early).await.expect("no panic").expect("it is answered");
    assert!(head.starts_with("http/1.1 200 "), "{head}");
    replaced(Place { grpc, http }, old, async || {
        let mut new = handed(&sockets);
        new.says("loaded ").await;
        new
    })
    .await;
}
