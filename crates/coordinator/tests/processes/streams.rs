//! A worker whose stream of steps ends, or brings what is no result, is an event at once, and no case for the watchdog.

use crate::worker::{STEP_LIMIT, ended, start, submission};
use coordinator::{CoordinatorConfig, RestartLimits};
use std::time::Duration;

/// Why the model fails when such a worker gets its first step, or none.
async fn failure(mode: &str, step_limit: Duration, asks: bool) -> String {
    let config = CoordinatorConfig { step_limit, ..crate::worker::config(1, RestartLimits::NEVER) };
    let coordinator = start(config, mode, None).await;
    let _generation = asks.then(|| coordinator.submit(submission(2)).expect("it is ready"));
    ended(&coordinator).await
}

#[tokio::test]
async fn a_stream_that_ends_is_an_event() {
    let reason = failure("ends", STEP_LIMIT, true).await;
    assert!(reason.contains("rank 0: connection lost: it ended its stream of steps without a word"), "{reason}");
}

#[tokio::test]
async fn a_result_that_is_none_is_an_event() {
    let reason = failure("unreadable", STEP_LIMIT, true).await;
    assert!(reason.contains("rank 0: Sample without `token`"), "{reason}");
}

#[tokio::test]
async fn a_worker_that_has_nothing_to_do_is_asked_whether_it_is_there() {
    let reason = failure("deaf", Duration::from_secs(1), false).await;
    assert!(
        reason.starts_with("a rank with nothing to do: no answer within 1.") && reason.contains("rank 0 (process "),
        "{reason}"
    );
}

#[tokio::test]
async fn a_result_that_nobody_asked_for_is_an_event() {
    let reason = failure("too early", STEP_LIMIT, false).await;
    assert!(reason.starts_with("rank 0 has answered step 0, which it was not sent"), "{reason}");
}
