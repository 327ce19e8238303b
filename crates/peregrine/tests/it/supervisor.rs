//! What a supervisor such as systemd is told over its socket.

use crate::lifecycle::begun;
use crate::support::{Server, within};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::net::UnixDatagram;

/// The supervisor's end.
struct Supervisor {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Supervisor {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        Self { socket: UnixDatagram::bind(folder.path().join("notify")).expect("a socket"), folder }
    }

    /// A server that tells it how it is, and ten times a second that it is alive.
    async fn server(&self, flags: &[&str]) -> Server {
        let path = self.folder.path().join("notify");
        let path = path.to_str().expect("UTF-8");
        Server::start_with(&[("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "200000")], flags).await
    }

    /// The next message, as lines.
    async fn next(&self) -> Vec<String> {
        let mut message = vec![0; 1 << 16];
        let count = within("a message", self.socket.recv(&mut message)).await.expect("a message");
        String::from_utf8(message[..count].to_vec()).expect("UTF-8").lines().map(str::to_owned).collect()
    }

    /// The first message with this line, and whether others said before that the server is alive.
    async fn until(&self, line: &str) -> (Vec<String>, bool) {
        let mut alive = false;
        loop {
            let message = self.next().await;
            if message.iter().any(|said| said == line) {
                return (message, alive);
            }
            alive |= message == ["WATCHDOG=1"];
            assert!(!message.iter().any(|said| said == "STOPPING=1"), "it ends without {line}: {message:?}");
        }
    }
}

fn has(message: &[String], beginning: &str) -> bool {
    message.iter().any(|line| line.starts_with(beginning))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_supervisor_hears_of_each_state_and_that_the_server_is_alive() {
    let supervisor = Supervisor::new();
    let server = supervisor.server(&["--tensor-parallel", "2", "--isa", "plain"]).await;
    let mut first = supervisor.next().await;
    while first == ["WATCHDOG=1"] {
        first = supervisor.next().await;
    }
    assert!(has(&first, "STATUS=loading: loading, "), "{first:?}");
    assert!(has(&first, "EXTEND_TIMEOUT_USEC=60000000"), "a load has a limit of its own: {first:?}");
    let (ready, _) = supervisor.until("READY=1").await;
    assert_eq!(ready, ["READY=1", "STATUS=ready: serving"]);

    server.ranks(2).await[1].signal(Signal::KILL);
    let (recovering, _) = supervisor.until("RELOADING=1").await;
    assert!(has(&recovering, "MONOTONIC_USEC=") && has(&recovering, "STATUS=recovering: "), "{recovering:?}");
    assert!(!has(&recovering, "EXTEND_TIMEOUT_USEC="), "{recovering:?}");
    supervisor.until("READY=1").await;
    for _ in 0..3 {
        assert_eq!(supervisor.next().await, ["WATCHDOG=1"], "nothing else is to be said of a server that serves");
    }

    let (stream, _) = begun(&server.client().await, 1500).await;
    server.signal(Signal::TERM);
    let (stopping, _) = supervisor.until("STOPPING=1").await;
    assert!(has(&stopping, "STATUS=draining: shutting down"), "{stopping:?}");
    assert!(has(&stopping, "EXTEND_TIMEOUT_USEC="), "a drain has a limit of its own: {stopping:?}");
    drop(stream);
    assert_eq!(server.end().await.status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_supervisor_that_is_gone_disturbs_nobody() {
    let supervisor = Supervisor::new();
    let mut server = supervisor.server(&[]).await;
    drop(supervisor);
    server.says("the supervisor cannot be told (NOTIFY_SOCKET): ").await;
    server.says("loaded ").await;
    server.stop().await;
}
