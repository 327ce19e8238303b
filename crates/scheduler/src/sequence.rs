//! One sequence between its submission and its end.

use crate::pool::{BlockContent, BlockPool, PrefixId};
use step::{BLOCK_TOKENS, BlockId, FinishReason, NewSequence, Priority, SamplingParams, SeqId};

/// A sequence to be continued.
#[derive(Clone, Debug, PartialEq)]
pub struct Submission {
    /// The prompt; not empty.
    pub prompt: Vec<u32>,
    /// How many tokens follow at most; at least 1.
    pub max_new_tokens: usize,
    /// Tokens that end it as the ends of a text; empty to go on to `max_new_tokens`.
    pub eos: Vec<u32>,
    /// Tokens that end it as a stop sequence does.
    pub stop_token_ids: Vec<u32>,
    /// The least number of tokens to generate: until then neither kind is chosen, nor ends it.
    pub min_tokens: usize,
    /// How its tokens are chosen.
    pub sampling: SamplingParams,
    /// Who is admitted first when there is no room for all.
    pub priority: Priority,
    /// As in [`NewSequence`]. Then all of the prompt is computed, whatever is known of it.
    pub prompt_logprobs: bool,
    /// As in [`NewSequence`].
    pub top_n: usize,
    /// As in [`NewSequence`].
    pub return_logits: bool,
}

impl Submission {
    /// Why it ends with `token`, the last of `generated` tokens, if it does.
    pub(crate) fn finish(&self, token: u32, generated: usize) -> Option<FinishReason> {
        if generated >= self.max_new_tokens {
            Some(FinishReason::Length)
        } else if generated <= self.min_tokens {
            None
        } else if self.eos.contains(&token) {
            Some(FinishReason::EosToken)
        } else if self.stop_token_ids.contains(&token) {
            Some(FinishReason::StopSequence)
        } else {
            None
        }
    }

    /// As in [`NewSequence`].
    fn ends(&self) -> Vec<u32> {
        if self.min_tokens == 0 { Vec::new() } else { [&self.eos[..], &self.stop_token_ids].concat() }
    }

    /// Blocks for the longest that it can become. The last token is never run, so it needs no place.
    pub(crate) fn blocks_max(&self) -> usize {
        (self.prompt.len() + self.max_new_tokens - 1).div_ceil(BLOCK_TOKENS)
    }
}

/// It is not worth waiting for less.
const SAVED_BLOCKS_MIN: usize = 2;

/// A beginning of a sequence that is known to the block pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prefix {
    /// Its length in blocks.
    pub(crate) blocks: usize,
    pub(crate) id: PrefixId,
}

#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) seq: SeqId,
    /// Its prompt has become the beginning of `tokens`.
    pub(crate) spec: Submission,
    /// The prompt, and what has been generated behind it.
    pub(crate) tokens: Vec<u32>,
    pub(crate) prompt_len: usize,
    /// Positions whose steps are committed, or that were known before.
    pub(crate) computed: usize,
    /// Positions that are computed, or will be when the steps in flight have run.
    pub(crate) planned: usize,
    /// Tokens that steps in flight sample.
    pub(crate) sampling: usize,
    /// Steps in flight that name it.
    pub(crate) in_flight: usize,
    pub(crate) blocks: Vec<BlockId>,
    /// How many of `blocks` have been sent to the ranks.
    pub(crate) blocks_sent: usize,
    /// Blocks for the longest that it can become.
    pub(crate) blocks_max: usize,
    /// Prompt tokens that were known when it was admitted; `None` once its caller has heard that it runs.
    pub(crate) cached: Option<usize>,
    /// Log-probabilities of prompt tokens that its caller has got.
    scores_told: usize,
    /// Those that the ranks have sent since they started. After a restart they begin anew.
    scores_sent: usize,
    /// What the pool knows of it: while it waits, a guess that is cheap to extend; once it runs, its published blocks.
    pub(crate) prefix: Prefix,
    /// The last block of `prefix`, to see whether a guess still holds.
    guess: BlockId,
    /// Its blocks are published as they are computed. It stays private once another has the same content.
    pub(crate) publishes: bool,
    /// The content of the next block of its prompt, while it is being computed, so that others may wait for it.
    pub(crate) computing: Option<BlockContent>,
    pub(crate) ended: bool,
}

impl Sequence {
    pub(crate) fn new(seq: SeqId, mut spec: Submission, publishes: bool) -> Self {
        let blocks_max = spec.blocks_max();
        let tokens = std::mem::take(&mut spec.prompt);
        Self {
            seq,
            spec,
            prompt_len: tokens.len(),
            tokens,
            computed: 0,
            planned: 0,
            sampling: 0,
            in_flight: 0,
            blocks: Vec::new(),
            blocks_sent: 0,
            blocks_max,
            cached: Some(0),
            scores_told: 0,
            scores_sent: 0,
            prefix: Prefix::default(),
            guess: BlockId(0),
            publishes,
            computing: None,
            ended: false,
        }
    }

    /// Tokens that have been generated.
    pub(crate) fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// Tokens that the ranks will know once the steps in flight have run.
    fn known(&self) -> usize {
        self.tokens.len() + self.sampling
    }

    /// Tokens that are known and not computed: what the next step could run. None once the last token is in flight.
    pub(crate) fn wanted(&self) -> usize {
        if self.generated() + self.sampling >= self.spec.max_new_tokens { 0 } else { self.known() - self.planned }
    }

    /// A run of `len` tokens would reach the last known one, so the next is sampled.
    pub(crate) fn samples_after(&self, len: usize) -> bool {
        self.planned + len == self.known()
    }

    /// Blocks that a run of `len` more tokens needs beyond those that it has.
    pub(crate) fn blocks_wanted(&self, len: usize) -> usize {
        (self.planned + len).div_ceil(BLOCK_TOKENS).saturating_sub(self.blocks.len())
    }

    /// The content of block `index`, which is full, behind the prefix that ends where it begins.
    pub(crate) fn content(&self, index: usize, behind: PrefixId) -> BlockContent {
        let tokens = &self.tokens[index * BLOCK_TOKENS..][..BLOCK_TOKENS];
        BlockContent { behind, tokens: tokens.try_into().expect("a full block") }
    }

    /// Full blocks that need not be computed if they are known, while the sequence waits: the last known token always is computed,
    /// since the next one is sampled from it.
    pub(crate) fn shareable_blocks(&self) -> usize {
        if self.publishes && !self.spec.prompt_logprobs { (self.tokens.len() - 1) / BLOCK_TOKENS } else { 0 }
    }

    /// Brings `prefix` up to what the pool knows of the prompt now. To be called while the sequence waits.
    pub(crate) fn guess_prefix(&mut self, pool: &BlockPool) {
        if self.prefix.blocks > 0 && !pool.holds(self.guess, self.prefix.id) {
            self.prefix = Prefix::default();
        }
        let shareable = self.shareable_blocks();
        while self.prefix.blocks < shareable
            && let Some((block, id)) = pool.find(&self.content(self.prefix.blocks, self.prefix.id))
        {
            self.prefix = Prefix { blocks: self.prefix.blocks + 1, id };
            self.guess = block;
        }
    }

    /// The blocks of `prefix`, which holds now.
    pub(crate) fn prefix_blocks(&self, pool: &BlockPool) -> Vec<BlockId> {
        let mut behind = PrefixId::EMPTY;
        let block = |index| {
            let (block, id) = pool.find(&self.content(index, behind)).expect("the prefix is known");
            behind = id;
            block
        };
        (0..self.prefix.blocks).map(block).collect()
    }

    /// Another computes so much of this prompt that it is better to wait for it than to compute it twice. To be called while
    /// the sequence waits, with an up-to-date `prefix`; `computed_by` tells who computes a content now.
    pub(crate) fn should_wait<'a>(&self, computed_by: impl FnOnce(&BlockContent) -> Option<&'a Self>) -> bool {
        let Prefix { blocks, id } = self.prefix;
        if blocks >= self.shareable_blocks() {
            return false;
        }
        let Some(other) = computed_by(&self.content(blocks, id)) else { return false };
        let common = self.tokens.iter().zip(&other.tokens[..other.prompt_len]).take_while(|(a, b)| a == b).count()
            / BLOCK_TOKENS;
        let saved = common.min(self.shareable_blocks()) - blocks;
        saved >= SAVED_BLOCKS_MIN && saved * BLOCK_TOKENS * 2 >= self.tokens.len() - blocks * BLOCK_TOKENS
    }

    /// Admits it: it goes on behind `shared`, the blocks of `prefix`.
    pub(crate) fn start_behind(&mut self, shared: Vec<BlockId>) {
        let cached = shared.len() * BLOCK_TOKENS;
        (self.planned, self.computed) = (cached, cached);
        self.cached = self.cached.map(|_| cached.min(self.prompt_len - 1));
        self.blocks = shared;
    }

    /// Makes it wait again, with its tokens: the ranks that ran it are gone, and with them all that was computed.
    pub(crate) fn restart(&mut self, publishes: bool) {
        (self.computed, self.planned, self.sampling, self.in_flight) = (0, 0, 0, 0);
        (self.blocks, self.blocks_sent, self.prefix) = (Vec::new(), 0, Prefix::default());
        (self.publishes, self.computing, self.scores_sent) = (publishes, None, 0);
        // What its caller has got of it, nobody needs to compute again.
        self.spec.prompt_logprobs &= self.scores_told + 1 < self.prompt_len;
    }

    /// Takes log-probabilities of the next prompt tokens from the ranks. What remains is news for the caller.
    pub(crate) fn take_scores(&mut self, logprobs: &mut Vec<f32>) {
        let told = self.scores_told.saturating_sub(self.scores_sent).min(logprobs.len());
        self.scores_sent += logprobs.len();
        self.scores_told = self.scores_told.max(self.scores_sent);
        logprobs.drain(..told);
    }

    pub(crate) fn to_new_sequence(&self) -> NewSequence {
        NewSequence {
            seq: self.seq,
            tokens: self.tokens.clone(),
            prompt_len: self.prompt_len,
            sampling: self.spec.sampling.clone(),
            min_tokens: self.spec.min_tokens,
            ends: self.spec.ends(),
            prompt_logprobs: self.spec.prompt_logprobs,
            top_n: self.spec.top_n,
            return_logits: self.spec.return_logits,
        }
    }
}
