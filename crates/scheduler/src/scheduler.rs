//! The scheduler's state, and what callers ask of it.

mod admission;
mod check;
mod commit;
mod prompt_rows;
mod restart;

pub use restart::Lost;

use crate::pool::{BlockContent, BlockPool};
use crate::queue::Queue;
use crate::sequence::{Prefix, Sequence, Submission};
use crate::types::{Occupancy, SchedulerConfig, SubmitError, Totals};
use slab::Slab;
use std::collections::{HashMap, VecDeque};
use step::{BLOCK_TOKENS, SeqId, StepId, StepPlan};

/// A step in flight.
#[derive(Debug)]
struct Pending {
    step: StepId,
    /// In the order of the plan.
    runs: Vec<PendingRun>,
}

/// Where an admitted sequence is kept.
type Slot = usize;

#[derive(Clone, Copy, Debug)]
struct PendingRun {
    slot: Slot,
    seq: SeqId,
    len: usize,
    sampled: bool,
}

/// Continuous batching: see the crate's documentation.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    pool: BlockPool,
    queue: Queue,
    /// Admitted sequences.
    sequences: Slab<Sequence>,
    slots: HashMap<SeqId, Slot>,
    /// Those that run, oldest first, and until the next plan those that have ended.
    order: Vec<(Slot, SeqId)>,
    /// How many run.
    running: usize,
    /// Of each content that is being computed for a prompt: by whom.
    computing: HashMap<BlockContent, Slot>,
    retired: Vec<SeqId>,
    in_flight: VecDeque<Pending>,
    next_step: u64,
    prompt_rows: usize,
    totals: Totals,
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
            queue: Queue::default(),
            sequences: Slab::new(),
            slots: HashMap::new(),
            order: Vec::new(),
            running: 0,
            computing: HashMap::new(),
            retired: Vec::new(),
            in_flight: VecDeque::new(),
            next_step: 0,
            prompt_rows: usize::MAX,
            totals: Totals::default(),
        }
    }

    /// Queues a sequence under an id that is above all before it: behind those of its priority and above.
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
        self.queue.push(Sequence::new(seq, submission, self.config.prefix_cache));
        Ok(())
    }

    /// Ends a sequence early: no later plan contains it. Unknown and ended sequences are ignored, since a sequence may end
    /// by itself while its abort is on the way.
    pub fn abort(&mut self, seq: SeqId) {
        if let Some(&slot) = self.slots.get(&seq) {
            self.end(slot);
            self.forget_if_done(slot);
        } else {
            self.queue.withdraw(seq);
        }
    }

    /// From the next plan on, a step runs at most `rows` tokens of prompts (and at least one) beside sequences that decode. There
    /// is no limit at first. Where nothing decodes, prompts may fill the step.
    pub fn limit_prompt_rows(&mut self, rows: usize) {
        self.prompt_rows = rows.max(1);
    }

    /// The next step, or `None` when nothing can run now: no sequence wants to, or enough steps are in flight.
    ///
    /// Sequences that decode come first, the oldest before the others. What is left of the rows goes to prompts, in the
    /// order of their arrival, and a quarter of that to those that fit there whole: so a short prompt does not wait
    /// for long ones before it.
    pub fn plan(&mut self) -> Option<StepPlan> {
        if self.in_flight.len() >= self.config.steps_in_flight_max {
            return None;
        }
        self.sweep();
        let mut draft = Draft::new(StepId(self.next_step), self.order.len());
        let mut prompts = Vec::new();
        let mut rows = self.config.step_rows_max;
        for index in 0..self.order.len() {
            let (slot, _) = self.order[index];
            match self.sequences[slot].wanted() {
                0 => {}
                1 if rows > 0 => {
                    rows -= 1;
                    self.run(slot, 1, &mut draft);
                }
                1 => {}
                _ => prompts.push(slot),
            }
        }
        if !draft.runs.is_empty() {
            rows = rows.min(self.prompt_rows);
        }
        self.run_prompts(rows, prompts, &mut draft);
        if draft.runs.is_empty() {
            return None;
        }
        draft.plan.retired = std::mem::take(&mut self.retired);
        self.next_step += 1;
        self.in_flight.push_back(Pending { step: draft.plan.step, runs: draft.runs });
        Some(draft.plan)
    }

    /// How much is going on.
    #[must_use]
    pub fn load(&self) -> Occupancy {
        Occupancy { waiting: self.queue.len(), running: self.running, blocks_available: self.pool.available() }
    }

    /// What has been done so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Nothing waits, runs or is in flight.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.len() == 0 && self.running == 0 && self.in_flight.is_empty()
    }

    /// Takes those that have ended out of `order`.
    fn sweep(&mut self) {
        if self.order.len() > self.running {
            let runs_on = |sequence: &Sequence, seq| sequence.seq == seq && !sequence.ended;
            self.order.retain(|&(slot, seq)| self.sequences.get(slot).is_some_and(|sequence| runs_on(sequence, seq)));
        }
    }

    /// Keeps `computing` true to a sequence: to the next block of its prompt, or to none.
    fn update_in_progress_prefix(&mut self, slot: Slot) {
        let sequence = &mut self.sequences[slot];
        if let Some(content) = sequence.computing.take() {
            self.computing.remove(&content);
        }
        let Prefix { blocks, id } = sequence.prefix;
        if !sequence.ended && sequence.publishes && (blocks + 1) * BLOCK_TOKENS <= sequence.prompt_len {
            let content = sequence.content(blocks, id);
            self.computing.entry(content).or_insert_with(|| {
                sequence.computing = Some(content);
                slot
            });
        }
    }

    /// Marks an admitted sequence as ended, unless it has been: no plan names it from here on.
    fn end(&mut self, slot: Slot) {
        let sequence = &mut self.sequences[slot];
        if !std::mem::replace(&mut sequence.ended, true) {
            self.retired.push(sequence.seq);
            self.running -= 1;
            self.update_in_progress_prefix(slot);
        }
    }

    /// Gives back the blocks of an ended sequence once no step in flight writes to them.
    fn forget_if_done(&mut self, slot: Slot) {
        let sequence = &self.sequences[slot];
        if sequence.ended && sequence.in_flight == 0 {
            let Sequence { seq, blocks, blocks_max, .. } = self.sequences.remove(slot);
            self.slots.remove(&seq);
            let still_reserved = blocks_max - blocks.len();
            self.pool.release(blocks, still_reserved);
        }
    }
}

/// A step as it is planned.
struct Draft {
    plan: StepPlan,
    runs: Vec<PendingRun>,
    /// The run that had too few rows, if there is one.
    truncated_run: Option<usize>,
}

impl Draft {
    fn new(step: StepId, running: usize) -> Self {
        let plan = StepPlan { step, new: Vec::new(), retired: Vec::new(), runs: Vec::with_capacity(running) };
        Self { plan, runs: Vec::with_capacity(running), truncated_run: None }
    }
}
