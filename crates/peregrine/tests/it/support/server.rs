//! `peregrine serve`.

use super::{Client, Ended, Process, Program, Running, within};
use rustix::process::Signal;
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A server on ports that the system chose.
pub struct Server {
    running: Running,
    /// Where gRPC is.
    pub grpc: SocketAddr,
    /// Where HTTP is.
    pub http: SocketAddr,
    /// The listening sockets.
    sockets: Vec<String>,
}

impl Server {
    /// A server that listens, with these arguments besides; its model may still be loading.
    pub async fn start<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Self {
        Self::start_with(&[], arguments).await
    }

    /// The same, with variables in its environment, which its workers inherit.
    pub async fn start_with<S: AsRef<OsStr>>(
        variables: &[(&str, &str)],
        arguments: impl IntoIterator<Item = S>,
    ) -> Self {
        Self::of(Program::new(Self::arguments(arguments)).envs(variables.iter().copied())).await
    }

    /// The same, started by a shell that has done `setup`.
    pub async fn start_after<S: AsRef<OsStr>>(setup: &str, arguments: impl IntoIterator<Item = S>) -> Self {
        let script = format!(r#"{setup}; exec "$0" "$@""#);
        let shell = ["-c", &script, env!("CARGO_BIN_EXE_peregrine")].map(OsString::from);
        Self::of(Program::of("sh", shell.into_iter().chain(Self::arguments(arguments)))).await
    }

    async fn of(program: Program) -> Self {
        let mut running = program.start();
        let log = running.says_line("HTTP on ").await;
        let address = |after: &str| -> SocketAddr {
            let rest = log.split(after).nth(1).expect("the line has both addresses");
            let word = rest.split([',', '\n']).next().expect("a first part");
            word.trim().parse().unwrap_or_else(|error| panic!("{word:?}: {error}"))
        };
        let (grpc, http) = (address("gRPC on "), address("HTTP on "));
        Self::listening(running, grpc, http).await
    }

    /// A server that is ready, whose log nobody needs.
    pub async fn unheard(program: Program) -> Self {
        let running = program.start();
        let ports = running.ports(2).await;
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let server = Self::listening(running, at(ports[0]), at(ports[1])).await;
        within("a model that is ready", async {
            while server.get("/health").await.status != 200 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        server
    }

    /// The arguments of a server on ports that the system chooses.
    pub fn arguments<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> impl Iterator<Item = OsString> {
        let fixed = ["serve", "--check-invariants", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"];
        let given: Vec<_> = arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect();
        fixed.into_iter().map(OsString::from).chain(given)
    }

    async fn listening(running: Running, grpc: SocketAddr, http: SocketAddr) -> Self {
        let sockets = within("two listeners", async {
            loop {
                let of_ours = |(port, socket)| [grpc.port(), http.port()].contains(&port).then_some(socket);
                let sockets: Vec<String> = listening().into_iter().filter_map(of_ours).collect();
                if sockets.len() == 2 {
                    return sockets;
                }
                // The table is read in parts, and lines are missed where other tests open and close sockets in between.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        Self { running, grpc, http, sockets }
    }

    /// A server that is ready.
    pub async fn ready<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Self {
        let mut server = Self::start(arguments).await;
        server.running.says("loaded ").await;
        server
    }

    /// A connection to its gRPC API.
    pub async fn client(&self) -> Client {
        Client::connect(self.grpc).await
    }

    /// The coordinator's process.
    pub fn pid(&self) -> i32 {
        self.running.pid().as_raw_nonzero().get()
    }

    /// Sends a signal to the coordinator alone.
    pub fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// Sends a signal to its process group, as a terminal does.
    pub fn signal_group(&self, signal: Signal) {
        self.running.signal_group(signal);
    }

    /// Waits until its log contains `text`.
    pub async fn says(&mut self, text: &str) -> String {
        self.running.says(text).await
    }

    /// The workers, in rank order.
    pub async fn ranks(&self, world: usize) -> Vec<Process> {
        self.running.ranks(world).await
    }

    /// Waits for its end, and that nothing is left of it.
    pub async fn end(self) -> Ended {
        let ended = self.running.end().await;
        let left = listening().into_iter().find(|(_, socket)| self.sockets.contains(socket));
        assert_eq!(left, None, "a socket still listens");
        ended
    }

    /// Asks it to end, and expects that it does so in peace.
    pub async fn stop(self) -> Ended {
        self.signal(Signal::TERM);
        let ended = self.end().await;
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        ended
    }

    /// `GET path`.
    pub async fn get(&self, path: &str) -> HttpAnswer {
        self.http(&format!("GET {path} HTTP/1.1\r\nHost: peregrine\r\nConnection: close\r\n\r\n")).await
    }

    /// `POST path` with a JSON body.
    pub async fn post(&self, path: &str, body: &str) -> HttpAnswer {
        self.ask("POST", path, body).await
    }

    /// `method path` with a JSON body.
    pub async fn ask(&self, method: &str, path: &str, body: &str) -> HttpAnswer {
        self.http(&post_text(path, body).replacen("POST", method, 1)).await
    }

    /// `POST path` with a body that does not say what it is.
    pub async fn post_untyped(&self, path: &str) -> HttpAnswer {
        self.http(&post_text(path, "{}").replace("application/json", "text/plain")).await
    }

    /// Sends `POST path` and leaves the answer to the caller.
    pub async fn post_only(&self, path: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.http).await.expect("HTTP listens");
        stream.write_all(post_text(path, body).as_bytes()).await.expect("the server reads");
        stream
    }

    /// Sends a whole request.
    pub async fn http(&self, request: &str) -> HttpAnswer {
        let exchange = async {
            let mut stream = TcpStream::connect(self.http).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = within("an HTTP answer", exchange).await.expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        HttpAnswer { status, head: head.to_lowercase(), body: body.to_owned() }
    }
}

fn post_text(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: peregrine\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

/// An HTTP answer.
#[derive(Debug)]
pub struct HttpAnswer {
    /// Its status.
    pub status: u16,
    /// Its head, in lower case.
    pub head: String,
    /// Its body.
    pub body: String,
}

/// Ports on which somebody listens over TCP on IPv4, with the socket's number.
pub fn listening() -> Vec<(u16, String)> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("/proc/net/tcp");
    let listener = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        // The fields: number, local address, remote address, state (0A: listening), ..., socket.
        let (address, state, socket) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let port = u16::from_str_radix(address.split(':').nth(1)?, 16).ok()?;
        (*state == "0A").then(|| (port, (*socket).to_owned()))
    };
    table.lines().filter_map(listener).collect()
}
