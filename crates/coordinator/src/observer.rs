//! What a coordinator tells of its steps, as it goes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};
use step::{SeqId, StepId, StepPlan, StepResult};

/// Hears of every step that all ranks have answered. It is called by the loop, and must not hold it up.
pub trait Observer: Send + Sync {
    /// The ranks of an epoch have been started. Those that are processes of their own have these ids, in rank order.
    fn started(&self, _pids: &[Option<u32>]) {}

    /// A step is done, and its tokens were handed to their callers in the time `delivering`.
    fn step(&self, step: &StepRecord, delivering: Duration);

    /// The ranks have failed.
    fn failed(&self);

    /// Others have taken the place of ranks that failed, and serve.
    fn recovered(&self, recovery: &Recovery);
}

/// Nobody listens.
impl Observer for () {
    fn step(&self, _: &StepRecord, _: Duration) {}

    fn failed(&self) {}

    fn recovered(&self, _: &Recovery) {}
}

/// How long it took from a failure until the ranks served again, by phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// How often the ranks failed until they served again.
    pub failures: u32,
    /// Until the workers had ended, behind each of these failures.
    pub ending: Duration,
    /// How long nothing was done, so that failures do not follow each other too fast.
    pub waiting: Duration,
    /// From the start of the workers until all were ready.
    pub loading: Duration,
    /// From then until the next token; nothing if nobody waited for one.
    pub computing: Duration,
    /// Bytes that ranks read of files, also of loads that failed.
    pub read_bytes: u64,
    /// Ranks that serve again with the weights that they had.
    pub kept: usize,
}

/// What was measured of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepRecord {
    /// Which one.
    pub step: StepId,
    /// Tokens that it computed.
    pub rows: usize,
    /// Of these, those that are no sequence's next token.
    pub prompt_rows: usize,
    /// Sequences of which it had rows.
    pub sequences: usize,
    /// Of these, those that it had for the first time.
    pub new_sequences: usize,
    /// How long it took to plan it, and to send it to all ranks.
    pub planning: Duration,
    /// When the ranks could begin with it.
    pub begun: SystemTime,
    /// From then until the last rank had answered it.
    pub taken: Duration,
    /// How long the scheduler took for the results.
    pub committing: Duration,
    /// How long each rank worked on it.
    pub ranks: Arc<[RankTimes]>,
}

/// What a rank says of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RankTimes {
    /// How long its device worked.
    pub device: Duration,
    /// How long of that it was in all-reduces, where its backend measures that.
    pub all_reduce: Option<Duration>,
}

/// A step that has been sent, as it is told of when it is done.
pub(crate) struct Planned {
    step: StepId,
    rows: usize,
    prompt_rows: usize,
    sequences: usize,
    new_sequences: usize,
    planning: Duration,
    /// Sequences whose callers hear of it.
    pub(crate) traced: Vec<SeqId>,
}

impl Planned {
    pub(crate) fn new(plan: &StepPlan, planning: Duration, traced: Vec<SeqId>) -> Self {
        let (step, rows, prompt_rows) = (plan.step, plan.rows(), plan.rows() - plan.decode_rows());
        let (sequences, new_sequences) = (plan.runs.len(), plan.new.len());
        Self { step, rows, prompt_rows, sequences, new_sequences, planning, traced }
    }

    /// It took the time `taken`, until now.
    pub(crate) fn done(&self, taken: Duration, committing: Duration, ranks: Arc<[RankTimes]>) -> StepRecord {
        let &Self { step, rows, prompt_rows, sequences, new_sequences, planning, .. } = self;
        let begun = SystemTime::now() - taken;
        StepRecord { step, rows, prompt_rows, sequences, new_sequences, planning, begun, taken, committing, ranks }
    }
}

impl From<&StepResult> for RankTimes {
    fn from(result: &StepResult) -> Self {
        Self {
            device: Duration::from_micros(result.device_time_us),
            all_reduce: result.all_reduce_time_us.map(Duration::from_micros),
        }
    }
}
