//! One sequence between its submission and its end.

use step::{BLOCK_TOKENS, BlockId, NewSequence, Priority, SamplingParams, SeqId};

/// A sequence to be continued.
#[derive(Clone, Debug, PartialEq)]
pub struct Submission {
    /// The prompt; not empty.
    pub prompt: Vec<u32>,
    /// How many tokens follow at most; at least 1.
    pub max_new_tokens: usize,
    /// Tokens that end it; empty to go on to `max_new_tokens`.
    pub eos: Vec<u32>,
    /// How its tokens are chosen.
    pub sampling: SamplingParams,
    /// Who is admitted first when there is no room for all.
    pub priority: Priority,
    /// As in [`NewSequence`].
    pub prompt_logprobs: bool,
    /// As in [`NewSequence`].
    pub top_n: usize,
    /// As in [`NewSequence`].
    pub return_logits: bool,
}

impl Submission {
    /// Blocks for the longest that it can become. The last token is never run, so it needs no place.
    pub(crate) fn blocks_max(&self) -> usize {
        (self.prompt.len() + self.max_new_tokens - 1).div_ceil(BLOCK_TOKENS)
    }
}

#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) seq: SeqId,
    pub(crate) spec: Submission,
    /// Tokens committed so far.
    pub(crate) generated: usize,
    /// Positions that are computed, or will be when the steps in flight have run.
    pub(crate) planned: usize,
    /// Tokens that steps in flight sample.
    pub(crate) sampling: usize,
    /// Steps in flight that name it.
    pub(crate) in_flight: usize,
    pub(crate) blocks: Vec<BlockId>,
    pub(crate) ended: bool,
}

impl Sequence {
    pub(crate) fn new(seq: SeqId, spec: Submission) -> Self {
        Self { seq, spec, generated: 0, planned: 0, sampling: 0, in_flight: 0, blocks: Vec::new(), ended: false }
    }

    /// Tokens that the ranks will know once the steps in flight have run.
    fn known(&self) -> usize {
        self.spec.prompt.len() + self.generated + self.sampling
    }

    /// Tokens that are known and not computed: what the next step could run. None once the last token is in flight.
    pub(crate) fn wanted(&self) -> usize {
        if self.generated + self.sampling >= self.spec.max_new_tokens { 0 } else { self.known() - self.planned }
    }

    /// A run of `len` tokens would reach the last known one, so the next is sampled.
    pub(crate) fn samples_after(&self, len: usize) -> bool {
        self.planned + len == self.known()
    }

    /// Blocks that a run of `len` more tokens needs beyond those that it has.
    pub(crate) fn blocks_wanted(&self, len: usize) -> usize {
        (self.planned + len).div_ceil(BLOCK_TOKENS).saturating_sub(self.blocks.len())
    }

    pub(crate) fn introduction(&self) -> NewSequence {
        NewSequence {
            seq: self.seq,
            tokens: self.spec.prompt.clone(),
            prompt_len: self.spec.prompt.len(),
            sampling: self.spec.sampling,
            prompt_logprobs: self.spec.prompt_logprobs,
            top_n: self.spec.top_n,
            return_logits: self.spec.return_logits,
        }
    }
}
