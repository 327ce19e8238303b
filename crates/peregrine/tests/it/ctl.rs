//! `peregrine ctl`.

use crate::lifecycle::{begun, rest};
use crate::support::{Ended, Program, Server, greedy};
use rustix::process::Signal;
use serde_json::Value;
use std::net::SocketAddr;
use tempfile::NamedTempFile;
use tonic::Code;

const KEY: &str = "alice-0123456789abcdef";

async fn ctl(action: &str, server: SocketAddr, more: &[&str]) -> Ended {
    let server = server.to_string();
    Program::new(["ctl", action, "--server", &server].iter().chain(more)).run().await
}

/// What it prints with `--json`.
async fn json(action: &str, server: SocketAddr) -> Value {
    serde_json::from_str(&ctl(action, server, &["--json"]).await.success()).expect("JSON")
}

fn state(status: &Value) -> &str {
    status["state"]["name"].as_str().expect("a name")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_is_drained_and_taken_back_and_stays_up() {
    let mut server = Server::ready(["--tensor-parallel", "2", "--isa", "plain"]).await;
    let (stream, first) = begun(&server.client().await, 800).await;
    let status = json("status", server.grpc).await;
    assert_eq!((state(&status), &status["load"]["running"]), ("ready", &Value::from(1)), "{status}");
    assert_eq!(status["state"]["reason"], Value::Null, "{status}");
    let (ranks, workers) = (status["ranks"].as_array().expect("a list"), server.ranks(2).await);
    assert_eq!(ranks.len(), 2, "{status}");
    for (rank, (shown, worker)) in ranks.iter().zip(&workers).enumerate() {
        assert!(shown["rank"] == rank && shown["pid"] == worker.pid(), "{status}");
        assert!(shown["step_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{status}");
    }
    assert_eq!((&status["build"]["backend"], &status["build"]["tensor_parallel"]), (&"cpu".into(), &2.into()));

    let drained = json("drain", server.grpc).await;
    assert_eq!((state(&drained), &drained["state"]["reason"]), ("draining", &"drained by its operator".into()));
    server.says("drained by its operator: no new requests are taken").await;
    assert_eq!(server.get("/readyz").await.status, 503);
    let health = ctl("health", server.grpc, &[]).await;
    assert_eq!((health.status.code(), &*health.stdout), (Some(1), "NOT_SERVING\n"));
    let refused = server.client().await.try_generate(greedy("Once", 1)).await.expect_err("it takes no more");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let (text, end) = rest(stream).await;
    assert_eq!(end.expect("no error"), Some(first + &text), "what was taken is finished");
    // Nothing is left to do, and it stays.
    let text = ctl("status", server.grpc, &[]).await.success();
    assert!(text.starts_with("draining for ") && text.contains("\nrequests: 0 run, 0 wait, of at most "), "{text}");

    let ready = ctl("undrain", server.grpc, &[]).await.success();
    assert!(ready.starts_with("ready for "), "{ready}");
    assert_eq!(server.get("/readyz").await.status, 200);
    assert_eq!(json("health", server.grpc).await, serde_json::json!({"status": "SERVING"}));
    server.client().await.generate(greedy("Once", 1)).await;
    // Another process takes the place of one that dies.
    workers[1].signal(Signal::KILL);
    server.says("the ranks serve again").await;
    let again = json("status", server.grpc).await;
    assert!(again["ranks"][1]["pid"].is_number() && again["ranks"][1]["pid"] != workers[1].pid(), "{again}");
    assert_eq!(again["ranks"][1]["step_seconds"], Value::Null, "it has done nothing yet: {again}");
    // A drained server ends by a signal as any other.
    json("drain", server.grpc).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_end_is_not_taken_back() {
    let server = Server::ready(["--isa", "plain"]).await;
    let (stream, _) = begun(&server.client().await, 1500).await;
    server.signal(Signal::TERM);
    let mut status = json("status", server.grpc).await;
    while state(&status) != "draining" {
        status = json("status", server.grpc).await;
    }
    let refused = ctl("undrain", server.grpc, &[]).await.failure();
    assert!(refused.contains("the server is shutting down"), "{refused}");
    drop(stream);
    assert_eq!(server.end().await.status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_with_keys_is_drained_with_one() {
    let keys = NamedTempFile::new().expect("a file");
    std::fs::write(keys.path(), KEY).expect("it can be written");
    let path = keys.path().to_str().expect("UTF-8");
    let server = Server::ready(["--api-key-file", path]).await;
    for action in ["status", "drain", "undrain"] {
        let refused = ctl(action, server.grpc, &[]).await.failure();
        assert!(refused.contains("no key was sent"), "{action}: {refused}");
        ctl(action, server.grpc, &["--api-key-file", path]).await.success();
    }
    assert_eq!(server.get("/readyz").await.status, 200);
    assert_eq!(ctl("health", server.grpc, &[]).await.success(), "SERVING\n", "it needs no key");
    let nobody = ctl("status", SocketAddr::from(([127, 0, 0, 1], 1)), &[]).await.failure();
    assert!(nobody.contains("--server 127.0.0.1:1: cannot connect"), "{nobody}");
    server.stop().await;
}
