//! What the coordinator asks of every rank.

use crate::{BlockId, SamplingParams, SeqId, StepId};

/// Tokens in one block of the paged KV cache.
pub const BLOCK_TOKENS: usize = 16;

/// Who goes first when requests wait; among equals, who came first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// After all others.
    Low,
    /// The default.
    #[default]
    Normal,
    /// Before all others.
    High,
}

/// A sequence, as the workers learn of it: once, before its first run (or again after a recovery, when the tokens that
/// it had generated are part of `tokens`).
#[derive(Clone, Debug, PartialEq)]
pub struct NewSequence {
    /// Its id.
    pub seq: SeqId,
    /// The known tokens: the prompt, then what was generated before a recovery. Never empty.
    pub tokens: Vec<u32>,
    /// How many of `tokens` are the prompt.
    pub prompt_len: usize,
    /// How its next tokens are chosen.
    pub sampling: SamplingParams,
    /// The least number of tokens to generate: until then none of `ends` is chosen.
    pub min_tokens: usize,
    /// The tokens that would end the sequence; empty where `min_tokens` is 0.
    pub ends: Vec<u32>,
    /// Report the model's log-probability of each prompt token but the first.
    pub prompt_logprobs: bool,
    /// Report this many of the most probable tokens beside each sampled one.
    pub top_n: usize,
    /// Bring the whole row of logits to the host with each sampled token (for checks; it is slow).
    pub return_logits: bool,
}

/// One sequence's part in a step: its tokens at positions `start..start + len` are run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeqRun {
    /// Whose tokens.
    pub seq: SeqId,
    /// How many of its tokens have been computed before this step.
    pub start: usize,
    /// How many are computed in this step, the drafts among them; at least one.
    pub len: usize,
    /// Blocks that its block table gains, in order, before the step runs.
    pub new_blocks: Vec<BlockId>,
    /// Proposed tokens that follow the known ones, to be verified in this step.
    pub draft_tokens: Vec<u32>,
    /// The token after position `start + len - 1` is sampled (and after each draft, as far as they hold).
    pub sample: bool,
    /// The sampling waits for the [`SampleMask`] of this step and sequence.
    pub masked: bool,
}

/// The work of one step, the same on every rank.
#[derive(Clone, Debug, PartialEq)]
pub struct StepPlan {
    /// Which step; consecutive within an epoch.
    pub step: StepId,
    /// Sequences that the ranks have not seen yet, before the runs that use them.
    pub new: Vec<NewSequence>,
    /// Sequences that no later plan names: the ranks forget them before this step runs.
    pub retired: Vec<SeqId>,
    /// The batch, in row order.
    pub runs: Vec<SeqRun>,
}

impl StepPlan {
    /// Rows of the batch: the tokens that the step computes.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.runs.iter().map(|run| run.len).sum()
    }

    /// Rows that are a single token of their sequence: its next one, or the last of its prompt.
    #[must_use]
    pub fn decode_rows(&self) -> usize {
        self.runs.iter().filter(|run| run.len == 1).count()
    }
}

/// A message to a rank.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Run a step.
    Plan(StepPlan),
    /// Which tokens a step that waits for it may sample.
    Mask(SampleMask),
}

/// Which tokens a grammar allows next. It follows a plan whose run is `masked`; that step begins once all its masks are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleMask {
    /// The step that waits for it.
    pub step: StepId,
    /// The sequence that waits for it.
    pub seq: SeqId,
    /// One bit a token, least significant first: bit `i % 32` of word `i / 32` allows token `i`.
    pub words: Vec<u32>,
}
