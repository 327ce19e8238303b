//! What goes into the scheduler and what comes out of it, but for the plans.

use step::{FinishReason, Sample, SeqId};

/// Limits under which a scheduler plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// KV blocks of every rank.
    pub blocks: u32,
    /// The most rows of one step; at least 1.
    pub step_rows_max: usize,
    /// The most sequences that run at once; at least 1. With more than `step_rows_max`, the youngest wait for a row.
    pub sequences_max: usize,
    /// The most steps that are planned and not committed: 1, or 2 to run one step ahead.
    pub steps_in_flight_max: usize,
    /// Full blocks are shared between sequences that begin alike, and kept until their room is needed.
    pub prefix_cache: bool,
}
/// Something that a commit made known, in the order in which it happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A sequence has run for the first time.
    Started {
        /// Which sequence.
        seq: SeqId,
        /// Tokens of its prompt that were known, and not computed anew.
        cached_tokens: usize,
    },
    /// The model's log-probabilities of the next prompt tokens, from the second token of the prompt on.
    PromptLogprobs {
        /// Whose prompt.
        seq: SeqId,
        /// One for each token, as many as the step scored.
        logprobs: Vec<f32>,
    },
    /// A sequence gained a token.
    Token {
        /// Which sequence.
        seq: SeqId,
        /// The token.
        sample: Sample,
        /// Why the sequence ended with it, if it did.
        finish: Option<FinishReason>,
    },
}

/// Why a sequence cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum SubmitError {
    /// It could never run, even alone.
    #[error("{tokens} tokens need {needed} KV blocks, and there are {total}")]
    TooLong { tokens: usize, needed: usize, total: usize },
}

/// Why a result does not fit the plan: a bug, or ranks that disagree. It ends the epoch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum CommitError {
    /// Results come in the order of the plans.
    #[error("expected the result of step {expected:?}, found that of step {found}")]
    Order {
        /// The oldest step in flight, if there is one.
        expected: Option<u64>,
        found: u64,
    },
    /// A run brought another number of samples than it had to, or its output is not in its place.
    #[error("step {step}, sequence {seq}: expected {expected} samples, found {found}")]
    Samples {
        step: u64,
        seq: SeqId,
        /// Samples that the plan asks for.
        expected: usize,
        found: usize,
    },
    /// An output is of no run of the step, or is not in the order of the plan.
    #[error("step {step}: the output of sequence {seq} is not in the plan's order")]
    Misplaced { step: u64, seq: SeqId },
}

/// How much is going on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupancy {
    /// Sequences that wait for room.
    pub waiting: usize,
    /// Sequences that run.
    pub running: usize,
    /// KV blocks that are neither used nor reserved.
    pub blocks_available: usize,
}

/// What has been done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Steps that have been committed.
    pub steps: u64,
    /// Rows of these.
    pub rows: u64,
    /// Sequences that have run for the first time.
    pub started: u64,
    /// Tokens of their prompts.
    pub prompt_tokens: u64,
    /// How many of those were known, and not computed anew.
    pub cached_tokens: u64,
    /// Tokens that sequences have gained.
    pub generated_tokens: u64,
}
