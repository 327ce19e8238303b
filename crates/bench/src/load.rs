//! Sends requests as a load says, and records what comes.

use crate::arrivals::Arrivals;
use crate::dataset::Request;
use crate::target::{Arrival, Counts, Target};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// When requests are sent, and how many at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// When requests are sent.
    pub arrivals: Arrivals,
    /// The most requests at once; later ones wait here.
    pub concurrency_max: Option<usize>,
    /// Seed of the arrivals.
    pub seed: u64,
}

/// One request and what it brought.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Seconds from the start of the run until it was sent.
    pub start: f64,
    /// Seconds from its sending to its end.
    pub latency: f64,
    /// Every message with tokens.
    pub arrivals: Vec<Arrival>,
    /// The tokens of the answer, where the dialect tells their ids.
    pub ids: Vec<u32>,
    /// What the server counted itself.
    pub counts: Counts,
    /// Tokens of the answer: as the server counted them, else as they came.
    pub output_tokens: u32,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// A run that is over.
#[derive(Clone, Debug, PartialEq)]
pub struct Ran {
    /// In the order in which they were sent.
    pub outcomes: Vec<Outcome>,
    /// Seconds from the first request to the last answer's end.
    pub duration: f64,
}

/// How far a run is, for a progress bar.
#[derive(Debug, Default)]
pub struct Progress {
    /// Requests that were sent.
    pub sent: AtomicU64,
    /// Requests that have ended.
    pub done: AtomicU64,
    /// Of these, failed ones.
    pub failed: AtomicU64,
    /// Tokens of those that have ended.
    pub tokens: AtomicU64,
}

/// Sends `requests` to `target` and waits for all answers. Dropping the future cancels those under way.
///
/// # Panics
///
/// If a request's task does, which is a bug.
pub async fn run(target: &Target, requests: Vec<Request>, load: &Load, progress: &Arc<Progress>) -> Ran {
    let permits = Arc::new(Semaphore::new(load.concurrency_max.unwrap_or(Semaphore::MAX_PERMITS)));
    let mut tasks = JoinSet::new();
    let run_start = Instant::now();
    for (index, (request, due)) in requests.into_iter().zip(load.arrivals.times(load.seed)).enumerate() {
        tokio::time::sleep_until((run_start + due).into()).await;
        let permit = permits.clone().acquire_owned().await.expect("never closed");
        let (target, progress) = (target.clone(), progress.clone());
        progress.sent.fetch_add(1, Ordering::Relaxed);
        tasks.spawn(async move {
            let outcome = ask(&target, index, &request, run_start).await;
            drop(permit);
            progress.tokens.fetch_add(outcome.output_tokens.into(), Ordering::Relaxed);
            progress.failed.fetch_add(u64::from(outcome.error.is_some()), Ordering::Relaxed);
            progress.done.fetch_add(1, Ordering::Relaxed);
            (index, outcome)
        });
    }
    let mut outcomes = tasks.join_all().await;
    outcomes.sort_unstable_by_key(|(index, _)| *index);
    let outcomes: Vec<_> = outcomes.into_iter().map(|(_, outcome)| outcome).collect();
    let duration = outcomes.iter().map(|outcome| outcome.start + outcome.latency).fold(0.0, f64::max);
    Ran { outcomes, duration }
}

async fn ask(target: &Target, index: usize, request: &Request, run_start: Instant) -> Outcome {
    let seconds = |duration: Duration| duration.as_secs_f64();
    let sent = Instant::now();
    let (record, result) = target.ask(index, request).await;
    Outcome {
        start: seconds(sent - run_start),
        latency: seconds(sent.elapsed()),
        output_tokens: record.generated(),
        counts: record.counts,
        arrivals: record.arrivals,
        ids: record.ids,
        error: result.err().map(|error| error.to_string()),
    }
}
