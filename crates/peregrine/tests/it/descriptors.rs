//! File descriptors: as many as there may be, and none left.

use crate::support::{Server, greedy, next_message, open_files, seen, within};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::net::TcpStream;

/// The soft and the hard limit of a process.
fn limits(pid: i32) -> (Option<u64>, Option<u64>) {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line of open files");
    let mut numbers = line.split_whitespace().skip(3).map(|number| number.parse().ok());
    (numbers.next().expect("a soft limit"), numbers.next().expect("a hard limit"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_soft_limit_is_raised_to_the_hard_one() {
    let server = Server::start_after("ulimit -S -n 100", ["--tensor-parallel", "1"]).await;
    let (soft, hard) = limits(server.pid());
    assert!(soft == hard && soft.is_none_or(|soft| soft > 100), "{soft:?}, {hard:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn without_descriptors_accepting_pauses_and_the_log_says_so_once() {
    let mut server = Server::ready(["--tensor-parallel", "1"]).await;
    let client = server.client().await;
    let mut long = client.stream(greedy("Once", 1500)).await;
    let mut count = next_message(&mut long).await.tokens.len();
    let pid = Pid::from_raw(server.pid());
    let (_, maximum) = limits(server.pid());
    let current = Some(open_files(server.pid()) as u64 + 2);
    prlimit(pid, Resource::Nofile, Rlimit { current, maximum }).expect("our child");
    for address in [server.grpc, server.http] {
        let mut idle = Vec::new();
        for _ in 0..10 {
            idle.push(within("a connection", TcpStream::connect(address)).await.expect("the backlog has room"));
        }
        server.says("cannot accept connections, and tries again: Too many open files").await;
        drop(idle);
        let answer = server.get("/health").await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let log = server.says("accepting connections again").await;
    assert!(log.matches("cannot accept connections").count() <= 2, "once for each listener: {log}");
    while let Some(message) = within("a message", long.message()).await.expect("streams that run go on") {
        count += message.tokens.len();
    }
    assert_eq!(count, 1500);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn connections_beyond_the_limit_wait_and_the_other_listener_serves() {
    let mut server = Server::start_after("ulimit -n 64", ["--tensor-parallel", "1"]).await;
    server.says("loaded ").await;
    let mut idle = Vec::new();
    for _ in 0..80 {
        idle.push(within("a connection", TcpStream::connect(server.grpc)).await.expect("the backlog has room"));
    }
    server.says("gRPC: 8 connections are open, the most there may be").await;
    let before = open_files(server.pid());
    let answer = server.get("/health").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(before < 64, "{before} descriptors");
    drop(idle);
    let client = within("a connection", server.client()).await;
    client.generate(greedy("Once", 2)).await;
    seen("the idle connections are gone", || (open_files(server.pid()) <= before).then_some(())).await;
    server.stop().await;
}
