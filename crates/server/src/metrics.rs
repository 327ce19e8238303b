//! What is counted, in the text that Prometheus reads. Names are Text Generation Inference's where it has one for it.

use crate::Error;
use coordinator::Activity;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How a request can end; the label of TGI's counter of failures.
const OUTCOMES: [&str; 7] =
    ["success", "validation", "overloaded", "incomplete", "generation", "healthcheck", "dropped"];

/// Requests, and how they ended: by [`Outcome`].
#[derive(Default)]
pub(crate) struct Metrics {
    requests: AtomicU64,
    outcomes: [AtomicU64; OUTCOMES.len()],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    Validation,
    Overloaded,
    Incomplete,
    Generation,
    /// The model takes no requests: it loads, has failed, or the server ends.
    Healthcheck,
    /// Its caller went away, or stopped reading.
    Dropped,
}

/// A request that is under way. When it is dropped, its outcome is counted.
pub(crate) struct OutcomeGuard {
    metrics: Arc<Metrics>,
    pub(crate) outcome: Outcome,
}

impl OutcomeGuard {
    pub(crate) fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.requests.fetch_add(1, Ordering::Relaxed);
        Self { metrics: metrics.clone(), outcome: Outcome::Dropped }
    }
}

impl Drop for OutcomeGuard {
    fn drop(&mut self) {
        self.metrics.outcomes[self.outcome as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl From<&Error> for Outcome {
    fn from(error: &Error) -> Self {
        match error {
            Error::Validation(_) => Self::Validation,
            Error::Overloaded { .. } => Self::Overloaded,
            Error::Incomplete => Self::Incomplete,
            Error::Generation { .. } => Self::Generation,
            Error::Unavailable(_) => Self::Healthcheck,
            Error::Stalled { .. } => Self::Dropped,
        }
    }
}

impl Metrics {
    /// All metrics of a server whose KV cache has `kv_blocks` blocks.
    pub(crate) fn text(&self, activity: &Activity, kv_blocks: usize) -> String {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Activity { load, totals } = activity;
        let mut text = String::new();
        for (name, kind, help, value) in [
            ("tgi_request_count", "counter", "Requests.", count(&self.requests)),
            ("tgi_request_success", "counter", "Requests that were answered.", count(&self.outcomes[0])),
            ("tgi_queue_size", "gauge", "Sequences that wait for room.", load.waiting as u64),
            ("tgi_batch_current_size", "gauge", "Sequences that run.", load.running as u64),
            ("peregrine_kv_blocks", "gauge", "Blocks of the KV cache.", kv_blocks as u64),
            ("peregrine_kv_blocks_available", "gauge", "KV blocks not used or promised.", load.blocks_available as u64),
            ("peregrine_steps_total", "counter", "Steps.", totals.steps),
            ("peregrine_step_rows_total", "counter", "Tokens that steps have computed.", totals.rows),
            ("peregrine_prompt_tokens_total", "counter", "Tokens of prompts that have started.", totals.prompt_tokens),
            ("peregrine_cached_tokens_total", "counter", "Of these: found in the prefix cache.", totals.cached_tokens),
            ("peregrine_generated_tokens_total", "counter", "Generated tokens.", totals.generated_tokens),
        ] {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
        }
        text += "# HELP tgi_request_failure Requests that were not answered.\n# TYPE tgi_request_failure counter\n";
        for (err, counter) in OUTCOMES.iter().zip(&self.outcomes).skip(1) {
            let _ = writeln!(text, "tgi_request_failure{{err=\"{err}\"}} {}", count(counter));
        }
        text
    }
}
