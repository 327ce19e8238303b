//! What a server tells of itself: metrics, a line of the log for each request, and traces.

mod layer;
mod metrics;
mod outcome;
mod record;
mod token_histogram;
mod traces;

pub(crate) use layer::observed;
pub(crate) use outcome::Outcome;
pub(crate) use record::{Generated, GenerationGuard, RequestRecord};
pub use traces::{OtlpProtocol, Sampling, Traces, TracesError};

use crate::{Info, StateName};
use coordinator::{Activity, Observer, RankTimes, Recovery, StepRecord};
pub(crate) use metrics::Exposition;
use metrics::Metrics;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// What a server tells of itself. Clones tell of the same one.
#[derive(Clone, Default)]
pub struct Telemetry(Arc<Shared>);

/// What is told beside metrics and lines without texts.
#[derive(Clone, Debug, Default)]
pub struct TelemetryOptions {
    /// Where traces go; `None`: nowhere.
    pub traces: Option<Traces>,
    /// The log has the beginnings of prompts and of what was generated.
    pub log_prompts: bool,
}

#[derive(Default)]
struct Shared {
    metrics: Metrics,
    options: TelemetryOptions,
    /// The model's name, once that is known.
    model: OnceLock<String>,
    ranks: Mutex<Ranks>,
}

/// What is known of the ranks, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranks {
    /// The ids of their processes; empty before they are started.
    pub(crate) pids: Arc<[Option<u32>]>,
    /// What each took for the last step; empty before the first.
    pub(crate) last_step: Arc<[RankTimes]>,
}

impl Telemetry {
    /// What tells of these things, too.
    #[must_use]
    pub fn new(options: TelemetryOptions) -> Self {
        Self(Arc::new(Shared { options, ..Shared::default() }))
    }

    /// Waits until what is left of traces has been exported, for a while. It blocks.
    pub fn flush(&self) {
        if let Some(traces) = self.traces() {
            traces.flush();
        }
    }

    /// What is known of the ranks.
    pub(crate) fn ranks(&self) -> MutexGuard<'_, Ranks> {
        self.0.ranks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn traces(&self) -> Option<&Traces> {
        self.0.options.traces.as_ref()
    }

    /// What runs.
    pub(crate) fn describe(&self, info: &Info) {
        self.0.metrics.describe(info);
        let _ = self.0.model.set(info.model_id.clone());
    }

    fn model(&self) -> &str {
        self.0.model.get().map_or("", String::as_str)
    }

    fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// All metrics; `activity` and `state` are those of this moment, and the KV cache has `kv_blocks` blocks.
    pub(crate) fn exposition(
        &self,
        format: Exposition,
        activity: &Activity,
        kv_blocks: usize,
        state: StateName,
    ) -> String {
        self.0.metrics.text(format, activity, kv_blocks, state)
    }
}

impl Observer for Telemetry {
    fn started(&self, pids: &[Option<u32>]) {
        *self.ranks() = Ranks { pids: pids.into(), ..Ranks::default() };
    }

    fn step(&self, step: &StepRecord, delivering: Duration) {
        self.0.metrics.step(step, delivering);
        self.ranks().last_step = step.ranks.clone();
    }

    fn failed(&self) {
        self.0.metrics.failed();
    }

    fn recovered(&self, recovery: &Recovery) {
        self.0.metrics.recovered(recovery);
    }
}
