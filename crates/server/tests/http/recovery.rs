//! What is answered while the ranks are started again.

use crate::scripted::{LIMIT, PERMITS, Script, Server};
use coordinator::RestartLimits;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tonic::Code;
use tonic_types::StatusExt;
use wire::generation as pb;

const GENERATE: &str = r#"{"inputs": "a", "parameters": {"max_new_tokens": 4}}"#;

/// A server whose rank has failed and does not come back, and as many requests as may wait for it.
async fn full() -> Arc<Server> {
    let restarts = RestartLimits { failures_max: None, window: Duration::from_secs(600) };
    let server = Arc::new(Script { fails_at: Some(0), restarts, ..Script::new(&["x"]) }.serve().await);
    for _ in 0..PERMITS {
        let server = Arc::clone(&server);
        tokio::spawn(async move { server.post_json("/generate", &[], GENERATE).await });
    }
    let waiting = async {
        while !server.get("/metrics").await.body.contains(&format!("\ntgi_queue_size {PERMITS}\n")) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LIMIT, waiting).await.expect("they wait");
    server
}

#[tokio::test]
async fn requests_beyond_those_that_may_wait_are_told_when_to_come_back() {
    let server = full().await;
    let asked = [
        ("/generate", GENERATE),
        ("/generate_stream", GENERATE),
        ("/v1/completions", r#"{"model": "m", "prompt": "a", "max_tokens": 4}"#),
        ("/v1/chat/completions", r#"{"model": "m", "messages": [{"role": "user", "content": "a"}], "max_tokens": 4}"#),
        ("/invocations", GENERATE),
    ];
    for (path, body) in asked {
        let answer = server.post_json(path, &[], body).await;
        assert_eq!(answer.status, 503, "{path}: {answer:?}");
        assert!(
            answer.body.contains("the model recovers from a failure, and as many requests wait as may"),
            "{answer:?}"
        );
        let seconds = answer.header("retry-after").and_then(|seconds| seconds.parse::<u32>().ok());
        assert!(seconds.is_some_and(|seconds| seconds > 0), "{path}: {answer:?}");
    }
    let parameters = pb::Parameters { max_new_tokens: Some(4), ..Default::default() };
    let request = pb::GenerateRequest { inputs: "a".to_owned(), parameters: Some(parameters), ..Default::default() };
    let status = server.grpc(request).await.expect_err("there is no room");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.get_details_retry_info().is_some_and(|info| info.retry_delay.is_some()), "{status:?}");
}

#[tokio::test]
async fn the_server_is_not_ready_and_says_why() {
    let server = full().await;
    let health = server.get("/health").await;
    assert_eq!(health.status, 503, "{health:?}");
    assert!(health.body.contains("recovering from a failure: rank 0: the device is on fire"), "{health:?}");
    let metrics = server.get("/metrics").await.body;
    for series in ["peregrine_up 0", "peregrine_rank_failures_total 1", "peregrine_recoveries_total 0"] {
        assert!(metrics.contains(&format!("\n{series}\n")), "{series}: {metrics}");
    }
}
