//! The steps that are timed.

use super::CONTEXT;
use ::backend::Backend;
use forward::{ModelRunner, StepError};
use std::time::{Duration, Instant};
use step::{BLOCK_TOKENS, BlockId, NewSequence, SamplingParams, SeqId, SeqRun, StepId, StepPlan};

/// What ranks do. The first of several like steps only warms up.
#[derive(Clone, Copy)]
pub(super) enum Work {
    /// Prompts, one after the other, each in one step.
    Prompts {
        /// Tokens of each sequence.
        tokens: usize,
        /// How many prompts count.
        times: usize,
    },
    /// Sequences with [`CONTEXT`] tokens go on together.
    Decode {
        /// How many sequences.
        batch: usize,
        /// How many tokens of each count.
        steps: usize,
    },
}

/// One rank's engine, and what it has run.
pub(super) struct Runner<B: Backend> {
    engine: ModelRunner<B>,
    vocab: usize,
    /// Every rank draws the same tokens.
    random: fastrand::Rng,
    steps: u64,
    /// The sequences under way, with their tokens that have been computed.
    running: Vec<(SeqId, usize)>,
    sequences: u64,
}

impl<B: Backend> Runner<B> {
    pub(super) fn new(engine: ModelRunner<B>, vocab: usize) -> Self {
        let random = fastrand::Rng::with_seed(1);
        Self { engine, vocab, random, steps: 0, running: Vec::new(), sequences: 0 }
    }

    /// Does it; how long each step took that counts.
    pub(super) fn run(&mut self, work: Work) -> Result<Vec<Duration>, StepError> {
        match work {
            Work::Prompts { tokens, times } => {
                self.start(1, tokens, tokens)?;
                (0..times).map(|_| self.start(1, tokens, tokens)).collect()
            }
            Work::Decode { batch, steps } => {
                self.start(batch, CONTEXT, CONTEXT + steps + 1)?;
                self.decode()?;
                (0..steps).map(|_| self.decode()).collect()
            }
        }
    }

    /// Replaces what is under way by so many sequences, and computes their prompts of `tokens` tokens. They may grow to
    /// `tokens_max`.
    fn start(&mut self, sequences: usize, tokens: usize, tokens_max: usize) -> Result<Duration, StepError> {
        let retired = self.running.drain(..).map(|(seq, _)| seq).collect();
        let blocks = tokens_max.div_ceil(BLOCK_TOKENS) as u32;
        let (mut new, mut runs) = (Vec::new(), Vec::new());
        for first_block in (0..).step_by(blocks as usize).take(sequences) {
            let seq = SeqId(self.sequences);
            self.sequences += 1;
            new.push(NewSequence {
                seq,
                tokens: (0..tokens).map(|_| self.random.u32(..self.vocab as u32)).collect(),
                prompt_len: tokens,
                sampling: SamplingParams::GREEDY,
                min_tokens: 0,
                ends: Vec::new(),
                prompt_logprobs: false,
                top_n: 0,
                return_logits: false,
            });
            let new_blocks = (first_block..first_block + blocks).map(BlockId).collect();
            runs.push(run(seq, 0, tokens, new_blocks));
            self.running.push((seq, tokens));
        }
        self.step(new, retired, runs)
    }

    /// One more token of each sequence.
    fn decode(&mut self) -> Result<Duration, StepError> {
        let runs = self.running.iter().map(|&(seq, computed)| run(seq, computed, 1, Vec::new())).collect();
        self.running.iter_mut().for_each(|(_, computed)| *computed += 1);
        self.step(Vec::new(), Vec::new(), runs)
    }

    fn step(&mut self, new: Vec<NewSequence>, retired: Vec<SeqId>, runs: Vec<SeqRun>) -> Result<Duration, StepError> {
        let plan = StepPlan { step: StepId(self.steps), new, retired, runs };
        self.steps += 1;
        let start = Instant::now();
        self.engine.step(plan, &[])?;
        Ok(start.elapsed())
    }
}

fn run(seq: SeqId, start: usize, len: usize, new_blocks: Vec<BlockId>) -> SeqRun {
    SeqRun { seq, start, len, new_blocks, draft_tokens: Vec::new(), sample: true, masked: false }
}
