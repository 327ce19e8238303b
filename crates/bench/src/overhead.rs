//! `peregrine bench engine`: what all but the model costs.

mod steps;
mod streams;

use crate::engine::{self, NotReady};
use crate::memory;
use crate::metrics::Distribution;
use runtime::{BackendChoice, Engine, EngineError, EngineOptions, WorkerCommand};
use serde_json::{Value, json};
use server::{Listeners, Settings};
use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::time::Duration;
use streams::Streams;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// Tokens of each prompt.
const PROMPT_TOKENS: u32 = 16;

/// Tokens of each answer while memory is watched: many requests matter then, not many tokens.
const SHORT_ANSWER_TOKENS: u32 = 16;

const WARM_UP: Duration = Duration::from_secs(1);

/// What is measured, and how much of it.
#[derive(Clone, Debug)]
pub struct OverheadOptions {
    /// Starts the worker.
    pub worker: WorkerCommand,
    /// Requests at once.
    pub concurrency: u32,
    /// Seconds for which tokens are counted.
    pub seconds: u32,
    /// Tokens of each answer while tokens are counted.
    pub output_len: u32,
    /// Requests over which memory is watched.
    pub requests: u32,
}

impl OverheadOptions {
    fn engine(&self) -> EngineOptions {
        // Whole blocks.
        let longest = PROMPT_TOKENS + self.output_len.max(SHORT_ANSWER_TOKENS) + 16;
        EngineOptions {
            backend: BackendChoice::Instant,
            kv_tokens: Some(self.concurrency * longest),
            max_batch_tokens: Some(self.concurrency + 512),
            // A stream that has ended for its reader gives its place back a moment later.
            max_concurrent_requests: Some(2 * self.concurrency),
            ..EngineOptions::new(self.worker.clone())
        }
    }
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct OverheadFigures {
    /// Tokens per second over all streams.
    pub tokens_per_s: f64,
    /// Tokens in one message, on average: more than one where the reader lags.
    pub tokens_per_message: f64,
    /// Microseconds of one plan and one commit, by running sequences.
    pub plan_commit_us: BTreeMap<usize, Distribution>,
    /// Requests over which memory was watched.
    pub requests: u32,
    /// Bytes that the process grew by, for each of them.
    pub bytes_per_request: f64,
    /// Resident bytes when a fifth of the requests was answered, and after all.
    pub resident_bytes: [u64; 2],
}

/// Why the engine could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OverheadError {
    /// The engine cannot be started.
    #[error(transparent)]
    Start(#[from] EngineError),
    /// Its worker cannot.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// Its server cannot listen.
    #[error("the server: {0}")]
    Server(String),
    /// The engine did not answer as it should.
    #[error("the engine's gRPC API: {0}")]
    Status(#[from] tonic::Status),
    /// It cannot be reached.
    #[error("the engine's gRPC API")]
    Connect(#[from] tonic::transport::Error),
    /// The process cannot tell its memory.
    #[error("reading the process's memory")]
    Memory(#[from] std::io::Error),
}

/// Starts an engine whose worker answers at once, with a server over it, and measures both.
///
/// # Errors
///
/// [`OverheadError`].
pub async fn run(options: &OverheadOptions) -> Result<OverheadFigures, OverheadError> {
    let Engine { coordinator, service } = Engine::start(&options.engine(), 1)?;
    engine::ready(&coordinator).await?;
    let failed = |error: &dyn Display| OverheadError::Server(error.to_string());
    let bind = async || TcpListener::bind("127.0.0.1:0").await.map_err(|error| failed(&error));
    let listeners = Listeners { grpc: bind().await?, http: bind().await? };
    let address = listeners.grpc.local_addr().map_err(|error| failed(&error))?.to_string();
    let (end, ended) = oneshot::channel::<()>();
    let serving = tokio::spawn(server::serve(service, listeners, Settings::default(), async {
        // The sender is dropped or used, which says the same.
        let _ = ended.await;
    }));
    let figures = measure(options, &address).await;
    drop(end);
    serving.await.expect("the server does not panic");
    coordinator.drain();
    coordinator.ended().await;
    figures
}

/// Measures the engine whose gRPC API is at `address`, in this process, and whose workers answer at once.
async fn measure(options: &OverheadOptions, address: &str) -> Result<OverheadFigures, OverheadError> {
    let streams = Streams::connect(address, options.concurrency).await?;
    let window = Duration::from_secs(options.seconds.into());
    let counted = streams.run_for(options.output_len, WARM_UP, window).await?;
    // What is built up by use is there after a fifth.
    let first = options.requests / 5;
    streams.run_requests(SHORT_ANSWER_TOKENS, first).await?;
    let before = memory::resident_bytes()?;
    streams.run_requests(SHORT_ANSWER_TOKENS, options.requests - first).await?;
    let after = memory::resident_bytes()?;
    let measured = tokio::task::spawn_blocking(steps::plan_commit_us).await;
    let growth = after as f64 - before as f64;
    Ok(OverheadFigures {
        tokens_per_s: counted.tokens as f64 / window.as_secs_f64(),
        tokens_per_message: counted.tokens as f64 / counted.messages.max(1) as f64,
        plan_commit_us: measured.expect("the measurement does not panic"),
        requests: options.requests,
        bytes_per_request: growth / f64::from((options.requests - first).max(1)),
        resident_bytes: [before, after],
    })
}

impl OverheadFigures {
    /// As one object.
    #[must_use]
    pub fn json(&self) -> Value {
        let medians = self.plan_commit_us.iter().map(|(running, us)| (running.to_string(), json!(us.median())));
        json!({
            "tokens_per_s": self.tokens_per_s,
            "tokens_per_message": self.tokens_per_message,
            "plan_commit_us": medians.collect::<serde_json::Map<_, _>>(),
            "requests": self.requests,
            "bytes_per_request": self.bytes_per_request,
            "resident_bytes": self.resident_bytes,
        })
    }

    /// As tables.
    #[must_use]
    pub fn markdown(&self) -> String {
        let [before, after] = self.resident_bytes.map(|bytes| bytes as f64 / f64::from(1 << 20));
        let mut text = format!(
            "{:.0} tokens/s over gRPC, {:.2} tokens in a message.\n{} requests: resident memory from {before:.1} to \
             {after:.1} MiB, {:.1} bytes a request.\n\n| running sequences | plan + commit p50 / p90 / p99, µs | ns a \
             sequence |\n|---|---|---|\n",
            self.tokens_per_s, self.tokens_per_message, self.requests, self.bytes_per_request,
        );
        for (running, us) in &self.plan_commit_us {
            let [p50, p90, p99] = [50.0, 90.0, 99.0].map(|percent| us.percentile(percent));
            let _ =
                writeln!(text, "| {running} | {p50:.1} / {p90:.1} / {p99:.1} | {:.0} |", p50 * 1e3 / *running as f64);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_their_keys() {
        let figures = OverheadFigures {
            tokens_per_s: 1e5,
            tokens_per_message: 2.0,
            plan_commit_us: [(1, Distribution::of(vec![1.0])), (256, Distribution::of(vec![30.0, 10.0, 20.0]))].into(),
            requests: 10,
            bytes_per_request: -0.5,
            resident_bytes: [1 << 20, 1 << 20],
        };
        let object = figures.json();
        assert_eq!(object["tokens_per_s"], 1e5);
        assert_eq!(object["plan_commit_us"], json!({"1": 1.0, "256": 20.0}));
        assert_eq!(object["bytes_per_request"], -0.5);
        assert!(figures.markdown().contains("| 256 | 20.0 / 28.0 / 29.8 | 78 |"), "{}", figures.markdown());
    }
}
