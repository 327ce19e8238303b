//! The state machine.

use crate::pool::BlockPool;
use crate::sequence::{Sequence, Submission};
use std::collections::{HashMap, HashSet, VecDeque};
use step::{BLOCK_TOKENS, BlockId, FinishReason, Sample, SeqId, SeqOutput, SeqRun, StepId, StepPlan, StepResult};

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
}

/// Something that a commit made known, in the order in which it happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
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
pub enum SubmitError {
    /// It could never run, even alone.
    #[error("{tokens} tokens need {needed} KV blocks, and there are {total}")]
    TooLong {
        /// Prompt and new tokens.
        tokens: usize,
        /// Blocks for them.
        needed: usize,
        /// Blocks in all.
        total: usize,
    },
}

/// Why a result does not fit the plan: a bug, or ranks that disagree. It ends the epoch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// Results come in the order of the plans.
    #[error("expected the result of step {expected:?}, found that of step {found}")]
    Order {
        /// The oldest step in flight, if there is one.
        expected: Option<u64>,
        /// What came.
        found: u64,
    },
    /// A run brought another number of samples than it had to, or its output is not in its place.
    #[error("step {step}, sequence {seq}: expected {expected} samples, found {found}")]
    Samples {
        /// The step.
        step: u64,
        /// The sequence.
        seq: SeqId,
        /// Samples that the plan asks for.
        expected: usize,
        /// Samples that came.
        found: usize,
    },
    /// An output is of no run of the step, or is not in the order of the plan.
    #[error("step {step}: the output of sequence {seq} is not in the plan's order")]
    Misplaced {
        /// The step.
        step: u64,
        /// The sequence.
        seq: SeqId,
    },
}

/// How much is going on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Sequences that wait for room.
    pub waiting: usize,
    /// Sequences that run.
    pub running: usize,
    /// KV blocks that are neither used nor promised.
    pub blocks_available: usize,
}

/// A step in flight.
#[derive(Debug)]
struct Pending {
    step: StepId,
    /// Whose tokens it runs, and whether it samples the next; in the order of the plan.
    runs: Vec<(SeqId, bool)>,
}

/// Continuous batching: see the crate's documentation.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    pool: BlockPool,
    waiting: VecDeque<Sequence>,
    /// Admitted sequences, oldest first.
    order: Vec<SeqId>,
    sequences: HashMap<SeqId, Sequence>,
    retired: Vec<SeqId>,
    in_flight: VecDeque<Pending>,
    next_step: u64,
}

impl Scheduler {
    /// A scheduler with nothing to do.
    ///
    /// # Panics
    ///
    /// If a limit is 0.
    #[must_use]
    pub fn new(config: SchedulerConfig) -> Self {
        assert!(config.step_rows_max > 0 && config.sequences_max > 0 && config.steps_in_flight_max > 0);
        Self {
            config,
            pool: BlockPool::new(config.blocks),
            waiting: VecDeque::new(),
            order: Vec::new(),
            sequences: HashMap::new(),
            retired: Vec::new(),
            in_flight: VecDeque::new(),
            next_step: 0,
        }
    }

    /// Queues a sequence under an id that no other had: behind those of its priority and above.
    ///
    /// # Errors
    ///
    /// [`SubmitError::TooLong`] if it could never run.
    ///
    /// # Panics
    ///
    /// If the prompt is empty or no new token is asked for: requests are validated before they come here.
    pub fn submit(&mut self, seq: SeqId, submission: Submission) -> Result<(), SubmitError> {
        assert!(!submission.prompt.is_empty() && submission.max_new_tokens > 0, "requests are validated");
        let (needed, total) = (submission.blocks_max(), self.pool.total());
        if needed > total {
            let tokens = submission.prompt.len() + submission.max_new_tokens;
            return Err(SubmitError::TooLong { tokens, needed, total });
        }
        let before = |waiting: &Sequence| waiting.spec.priority >= submission.priority;
        let index = self.waiting.partition_point(before);
        self.waiting.insert(index, Sequence::new(seq, submission));
        Ok(())
    }

    /// Ends a sequence early: no later plan contains it. Unknown and ended sequences are ignored, since a sequence may end
    /// by itself while its abort is on the way.
    pub fn abort(&mut self, seq: SeqId) {
        if let Some(index) = self.waiting.iter().position(|sequence| sequence.seq == seq) {
            self.waiting.remove(index);
        } else if self.end(seq) {
            self.order.retain(|&other| other != seq);
            self.forget_if_done(seq);
        }
    }

    /// The next step, or `None` when nothing can run now: no sequence wants to, or enough steps are in flight.
    pub fn plan(&mut self) -> Option<StepPlan> {
        if self.in_flight.len() >= self.config.steps_in_flight_max {
            return None;
        }
        let mut plan =
            StepPlan { step: StepId(self.next_step), new: Vec::new(), retired: Vec::new(), runs: Vec::new() };
        let mut rows = self.config.step_rows_max;
        // Oldest first. A sequence is admitted only when rows are left over, so all but the youngest have run their
        // prompts: those that decode come first, and the one prompt that is being run does not hold up their next token.
        for index in 0..self.order.len() {
            self.run(self.order[index], &mut rows, &mut plan);
        }
        while rows > 0
            && let Some(seq) = self.admit(&mut plan)
        {
            self.run(seq, &mut rows, &mut plan);
        }
        if plan.runs.is_empty() {
            return None;
        }
        plan.retired = std::mem::take(&mut self.retired);
        self.next_step += 1;
        let runs = plan.runs.iter().map(|run| (run.seq, run.sample)).collect();
        self.in_flight.push_back(Pending { step: plan.step, runs });
        Some(plan)
    }

    /// Takes the result of the oldest step in flight. What it says of sequences that have ended is dropped.
    ///
    /// # Errors
    ///
    /// [`CommitError`] if the result is not that of the plan; then nothing has changed.
    ///
    /// # Panics
    ///
    /// Never, but for a bug here.
    pub fn commit(&mut self, result: StepResult) -> Result<Vec<Event>, CommitError> {
        self.verify(&result)?;
        let pending = self.in_flight.pop_front().expect("verified");
        let mut outputs = result.outputs.into_iter().peekable();
        let mut events = Vec::new();
        let mut some_ended = false;
        for (seq, sampled) in pending.runs {
            let sequence = self.sequences.get_mut(&seq).expect("it stays until no step in flight names it");
            sequence.in_flight -= 1;
            sequence.sampling -= usize::from(sampled);
            if let Some(output) = outputs.next_if(|output| output.seq == seq) {
                some_ended |= self.take_output(output, &mut events);
            }
            self.forget_if_done(seq);
        }
        if some_ended {
            // Once for all that ended: many may end in the same step.
            let runs_on = |seq: &SeqId| self.sequences.get(seq).is_some_and(|sequence| !sequence.ended);
            self.order.retain(runs_on);
        }
        Ok(events)
    }

    /// How much is going on.
    #[must_use]
    pub fn load(&self) -> Load {
        Load { waiting: self.waiting.len(), running: self.order.len(), blocks_available: self.pool.available() }
    }

    /// Checks every invariant; to be called when there is time.
    ///
    /// # Panics
    ///
    /// If one does not hold.
    pub fn check(&self) {
        let mut owned = vec![false; self.pool.total()];
        let mut own = |block: &BlockId| !std::mem::replace(&mut owned[block.0 as usize], true);
        assert!(self.pool.free().iter().all(&mut own), "a block is free twice");
        // How many steps in flight name each sequence, and how many of these sample.
        let mut named: HashMap<SeqId, (usize, usize)> = HashMap::new();
        for &(seq, sampled) in self.in_flight.iter().flat_map(|pending| &pending.runs) {
            let counts = named.entry(seq).or_default();
            *counts = (counts.0 + 1, counts.1 + usize::from(sampled));
        }
        let running: HashSet<_> = self.order.iter().copied().collect();
        assert_eq!(running.len(), self.order.len(), "a sequence runs twice");
        assert!(running.iter().all(|seq| self.sequences.contains_key(seq)), "a sequence that runs is unknown");
        let has_run_its_prompt = |seq| self.sequences[seq].planned >= self.sequences[seq].spec.prompt.len();
        assert!(self.order.iter().rev().skip(1).all(has_run_its_prompt), "a prompt is run only by the youngest");
        let mut promised = 0;
        for sequence in self.sequences.values() {
            assert!(sequence.blocks.iter().all(&mut own), "a block has two owners");
            assert_eq!(sequence.blocks.len(), sequence.planned.div_ceil(BLOCK_TOKENS), "blocks for what is computed");
            let most = sequence.spec.blocks_max();
            promised += most.checked_sub(sequence.blocks.len()).expect("no more blocks than promised");
            assert_eq!((sequence.in_flight, sequence.sampling), named.remove(&sequence.seq).unwrap_or_default());
            assert_eq!(running.contains(&sequence.seq), !sequence.ended, "those that have not ended run");
            assert!(!sequence.ended || sequence.in_flight > 0, "an ended sequence stays only while a step names it");
        }
        assert!(named.is_empty(), "a step in flight names a sequence that is forgotten");
        assert!(owned.into_iter().all(|owned| owned), "a block is lost");
        assert_eq!(self.pool.free().len() - promised, self.pool.available(), "promises do not add up");
    }

    /// Admits the oldest waiting sequence if its blocks can be promised.
    fn admit(&mut self, plan: &mut StepPlan) -> Option<SeqId> {
        let next = self.waiting.front()?;
        if self.order.len() >= self.config.sequences_max || !self.pool.promise(next.spec.blocks_max()) {
            return None;
        }
        let sequence = self.waiting.pop_front().expect("seen above");
        let seq = sequence.seq;
        plan.new.push(sequence.introduction());
        self.order.push(seq);
        self.sequences.insert(seq, sequence);
        Some(seq)
    }

    /// Adds a run of as many tokens as the sequence wants and `rows` allows, which loses them; nothing if that is none.
    fn run(&mut self, seq: SeqId, rows: &mut usize, plan: &mut StepPlan) {
        let sequence = self.sequences.get_mut(&seq).expect("it is in order");
        let len = sequence.wanted().min(*rows);
        if len == 0 {
            return;
        }
        *rows -= len;
        let new_blocks: Vec<_> = (0..sequence.blocks_wanted(len)).map(|_| self.pool.take_promised()).collect();
        sequence.blocks.extend(&new_blocks);
        let sample = sequence.samples_after(len);
        plan.runs.push(SeqRun {
            seq,
            start: sequence.planned,
            len,
            new_blocks,
            draft_tokens: Vec::new(),
            sample,
            masked: false,
        });
        sequence.planned += len;
        sequence.sampling += usize::from(sample);
        sequence.in_flight += 1;
    }

    /// Holds a result against the plan of the oldest step in flight.
    fn verify(&self, result: &StepResult) -> Result<(), CommitError> {
        let step = result.step.0;
        let oldest = self.in_flight.front();
        let Some(pending) = oldest.filter(|pending| pending.step == result.step) else {
            return Err(CommitError::Order { expected: oldest.map(|pending| pending.step.0), found: step });
        };
        let mut outputs = result.outputs.iter().peekable();
        for &(seq, sampled) in &pending.runs {
            let output = outputs.next_if(|output| output.seq == seq);
            let (expected, found) = (usize::from(sampled), output.map_or(0, |output| output.samples.len()));
            if found != expected {
                return Err(CommitError::Samples { step, seq, expected, found });
            }
        }
        match outputs.next() {
            Some(output) => Err(CommitError::Misplaced { step, seq: output.seq }),
            None => Ok(()),
        }
    }

    /// Turns what a run brought forth into events, unless its sequence has ended. Says whether it ended with it.
    fn take_output(&mut self, output: SeqOutput, events: &mut Vec<Event>) -> bool {
        let seq = output.seq;
        let sequence = self.sequences.get_mut(&seq).expect("the caller has it");
        if sequence.ended {
            return false;
        }
        if !output.prompt_logprobs.is_empty() {
            events.push(Event::PromptLogprobs { seq, logprobs: output.prompt_logprobs });
        }
        for sample in output.samples {
            sequence.generated += 1;
            let finish = if sequence.generated >= sequence.spec.max_new_tokens {
                Some(FinishReason::Length)
            } else if sequence.spec.eos.contains(&sample.token.id) {
                Some(FinishReason::EosToken)
            } else {
                None
            };
            events.push(Event::Token { seq, sample, finish });
            if finish.is_some() {
                return self.end(seq);
            }
        }
        false
    }

    /// Marks an admitted sequence as ended, unless it has been: no plan names it from here on. Says whether it did; then
    /// the caller takes it out of `order`.
    fn end(&mut self, seq: SeqId) -> bool {
        let Some(sequence) = self.sequences.get_mut(&seq).filter(|sequence| !sequence.ended) else { return false };
        sequence.ended = true;
        self.retired.push(seq);
        true
    }

    /// Gives back the blocks of an ended sequence once no step in flight writes to them.
    fn forget_if_done(&mut self, seq: SeqId) {
        let done = |sequence: &Sequence| sequence.ended && sequence.in_flight == 0;
        if self.sequences.get(&seq).is_some_and(done) {
            let sequence = self.sequences.remove(&seq).expect("seen above");
            let still_promised = sequence.spec.blocks_max() - sequence.blocks.len();
            self.pool.give_back(sequence.blocks, still_promised);
        }
    }
}
