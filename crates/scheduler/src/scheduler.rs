//! The state machine.

use crate::pool::{BlockContent, BlockPool};
use crate::queue::{Place, Queue};
use crate::sequence::{Prefix, Sequence, Submission};
use slab::Slab;
use std::collections::{HashMap, HashSet, VecDeque};
use step::{BLOCK_TOKENS, FinishReason, Sample, SeqId, SeqOutput, SeqRun, StepId, StepPlan, StepResult};

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

/// One in so many rows for prompts is for those that fit there whole.
const SHORT_SHARE: usize = 4;

/// How many sequences of a class are looked at for one that can be admitted.
const LOOK_AHEAD: usize = 16;

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

    /// From the next plan on, a step runs at most so many tokens of prompts beside sequences that decode. At least one; no
    /// limit to begin with. Where nothing decodes, prompts may fill the step.
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
        self.totals.steps += 1;
        let mut outputs = result.outputs.into_iter().peekable();
        let mut events = Vec::with_capacity(pending.runs.len());
        for PendingRun { slot, seq, len, sampled } in pending.runs {
            self.totals.rows += len as u64;
            let output = outputs.next_if(|output| output.seq == seq);
            let sequence = &mut self.sequences[slot];
            sequence.in_flight -= 1;
            sequence.sampling -= usize::from(sampled);
            sequence.computed += len;
            if !sequence.ended {
                self.announce(slot, &mut events);
                let ends = output.is_some_and(|output| self.take_output(slot, output, &mut events));
                self.publish(slot);
                if ends {
                    self.end(slot);
                }
            }
            self.forget_if_done(slot);
        }
        Ok(events)
    }

    /// How much is going on.
    #[must_use]
    pub fn load(&self) -> Load {
        Load { waiting: self.queue.len(), running: self.running, blocks_available: self.pool.available() }
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

    /// Checks every invariant; to be called when there is time.
    ///
    /// # Panics
    ///
    /// If one does not hold.
    pub fn check(&self) {
        // How many steps in flight name each sequence, and how many of these sample.
        let mut named: HashMap<SeqId, (usize, usize, usize)> = HashMap::new();
        for run in self.in_flight.iter().flat_map(|pending| &pending.runs) {
            let counts = named.entry(run.seq).or_default();
            *counts = (counts.0 + 1, counts.1 + usize::from(run.sampled), counts.2 + run.len);
        }
        let mut order: HashSet<_> = self.order.iter().copied().collect();
        assert_eq!(order.len(), self.order.len(), "a sequence runs twice");
        let mut users = vec![0; self.pool.total()];
        let (mut promised, mut running, mut computing) = (0, 0, 0);
        for (slot, sequence) in self.sequences.iter() {
            assert_eq!(self.slots.get(&sequence.seq), Some(&slot), "a sequence is not where it is looked for");
            sequence.blocks.iter().for_each(|block| users[block.0 as usize] += 1);
            assert_eq!(sequence.blocks.len(), sequence.planned.div_ceil(BLOCK_TOKENS), "blocks for what is computed");
            promised += sequence.blocks_max.checked_sub(sequence.blocks.len()).expect("no more blocks than promised");
            let in_flight = sequence.planned - sequence.computed;
            let counts = (sequence.in_flight, sequence.sampling, in_flight);
            assert_eq!(counts, named.remove(&sequence.seq).unwrap_or_default(), "sequence {}", sequence.seq);
            assert!(sequence.ended || order.remove(&(slot, sequence.seq)), "a sequence is to run, and is not in order");
            assert!(!sequence.ended || sequence.in_flight > 0, "an ended sequence stays only while a step names it");
            running += usize::from(!sequence.ended);
            computing += usize::from(sequence.computing.is_some());
            let published = sequence.blocks.iter().take(sequence.prefix.blocks);
            assert!(published.copied().all(|block| self.pool.is_known(block)), "a published block is not known");
        }
        assert!(named.is_empty(), "a step in flight names a sequence that is forgotten");
        assert_eq!((self.slots.len(), self.running), (self.sequences.len(), running), "sequences do not add up");
        assert_eq!(self.computing.len(), computing, "a content is said to be computed, and is not");
        let computed_by = |(content, &slot): (_, &Slot)| self.sequences[slot].computing.as_ref() == Some(content);
        assert!(self.computing.iter().all(computed_by), "a content is computed by another");
        self.pool.check(&users, promised);
    }

    /// Takes those that have ended out of `order`.
    fn sweep(&mut self) {
        if self.order.len() > self.running {
            let runs_on = |sequence: &Sequence, seq| sequence.seq == seq && !sequence.ended;
            self.order.retain(|&(slot, seq)| self.sequences.get(slot).is_some_and(|sequence| runs_on(sequence, seq)));
        }
    }

    /// Plans what `rows` allow of `prompts`, which run already, and of those that wait.
    fn run_prompts(&mut self, rows: usize, mut prompts: Vec<Slot>, draft: &mut Draft) {
        let mut rows = PromptRows::new(rows);
        self.share_out(&mut rows, &mut prompts, draft);
        rows.give_to_all();
        if let Some(index) = draft.cut_short.take() {
            let wanted = self.sequences[draft.runs[index].slot].wanted();
            let len = rows.take(wanted);
            self.extend(index, len, draft);
            draft.cut_short = (len < wanted).then_some(index);
        }
        self.share_out(&mut rows, &mut prompts, draft);
    }

    /// Gives rows to prompts in their order, then to those that wait in theirs.
    fn share_out(&mut self, rows: &mut PromptRows, prompts: &mut Vec<Slot>, draft: &mut Draft) {
        prompts.retain(|&slot| {
            let len = rows.take(self.sequences[slot].wanted());
            if len > 0 {
                self.run(slot, len, draft);
            }
            len == 0
        });
        self.admit_waiting(rows, draft);
    }

    /// Admits all for which there is room.
    fn admit_waiting(&mut self, rows: &mut PromptRows, draft: &mut Draft) {
        let mut too_large = None;
        while let Some(place) = self.queue.due() {
            if !self.admit_at(place, true, rows, &mut too_large, draft) {
                return;
            }
        }
        for class in Queue::CLASSES {
            let mut place = Place { class, index: 0 };
            while place.index < LOOK_AHEAD && self.queue.get_mut(place).is_some() {
                if rows.left() == 0 || self.running >= self.config.sequences_max {
                    return;
                }
                if !self.admit_at(place, false, rows, &mut too_large, draft) {
                    place.index += 1;
                }
            }
        }
    }

    /// Admits the sequence at a place if there is room for it, and nothing for which it should wait. `too_large` is how
    /// many blocks the first has for which there were not enough: only much smaller ones may overtake it.
    fn admit_at(
        &mut self,
        place: Place,
        due: bool,
        rows: &mut PromptRows,
        too_large: &mut Option<usize>,
        draft: &mut Draft,
    ) -> bool {
        let Self { pool, queue, sequences, computing, .. } = self;
        let sequence = queue.get_mut(place).expect("the place is taken");
        if self.running >= self.config.sequences_max || too_large.is_some_and(|blocks| sequence.blocks_max * 4 > blocks)
        {
            return false;
        }
        sequence.guess_prefix(pool);
        let wanted = sequence.prompt_len - sequence.prefix.blocks * BLOCK_TOKENS;
        let computed_by_other = |content: &BlockContent| computing.get(content).map(|&slot| &sequences[slot]);
        if rows.offer(wanted) == 0 || !due && sequence.should_wait(computed_by_other) {
            return false;
        }
        let shared = sequence.prefix_blocks(pool);
        let idle = shared.iter().filter(|&&block| pool.is_unused(block)).count();
        let promise = sequence.blocks_max - shared.len();
        if promise + idle > pool.available() {
            too_large.get_or_insert(sequence.blocks_max);
            return false;
        }
        shared.iter().for_each(|&block| pool.share(block));
        assert!(pool.promise(promise), "there is room for it");
        let mut sequence = *queue.admit(place);
        sequence.start_behind(shared);
        draft.plan.new.push(sequence.introduction());
        let seq = sequence.seq;
        let slot = self.sequences.insert(sequence);
        self.slots.insert(seq, slot);
        self.order.push((slot, seq));
        self.running += 1;
        self.say_what_is_computed(slot);
        self.run(slot, rows.take(wanted), draft);
        true
    }

    /// Adds a run of `len` tokens, of which the sequence wants at least so many.
    fn run(&mut self, slot: Slot, len: usize, draft: &mut Draft) {
        let sequence = &mut self.sequences[slot];
        sequence.in_flight += 1;
        let (seq, cut_short) = (sequence.seq, len < sequence.wanted());
        draft.plan.runs.push(SeqRun {
            seq,
            start: sequence.planned,
            len: 0,
            new_blocks: Vec::new(),
            draft_tokens: Vec::new(),
            sample: false,
            masked: false,
        });
        draft.runs.push(PendingRun { slot, seq, len: 0, sampled: false });
        let index = draft.runs.len() - 1;
        self.extend(index, len, draft);
        if cut_short {
            draft.cut_short = Some(index);
        }
    }

    /// Adds `len` tokens to a run that was cut short.
    fn extend(&mut self, index: usize, len: usize, draft: &mut Draft) {
        let (run, pending) = (&mut draft.plan.runs[index], &mut draft.runs[index]);
        let sequence = &mut self.sequences[pending.slot];
        for _ in 0..sequence.blocks_wanted(len) {
            sequence.blocks.push(self.pool.take_promised());
        }
        run.new_blocks.extend_from_slice(&sequence.blocks[sequence.told..]);
        sequence.told = sequence.blocks.len();
        run.sample = sequence.samples_after(len);
        sequence.sampling += usize::from(run.sample);
        sequence.planned += len;
        run.len += len;
        (pending.len, pending.sampled) = (run.len, run.sample);
    }

    /// Holds a result against the plan of the oldest step in flight.
    fn verify(&self, result: &StepResult) -> Result<(), CommitError> {
        let step = result.step.0;
        let oldest = self.in_flight.front();
        let Some(pending) = oldest.filter(|pending| pending.step == result.step) else {
            return Err(CommitError::Order { expected: oldest.map(|pending| pending.step.0), found: step });
        };
        let mut outputs = result.outputs.iter().peekable();
        for &PendingRun { seq, sampled, .. } in &pending.runs {
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

    /// Tells that a sequence has run, if that is news.
    fn announce(&mut self, slot: Slot, events: &mut Vec<Event>) {
        let sequence = &mut self.sequences[slot];
        if let Some(cached_tokens) = sequence.cached.take() {
            self.totals.started += 1;
            self.totals.prompt_tokens += sequence.prompt_len as u64;
            self.totals.cached_tokens += cached_tokens as u64;
            events.push(Event::Started { seq: sequence.seq, cached_tokens });
        }
    }

    /// Turns what a run brought forth into events. Says whether the sequence ends with it.
    fn take_output(&mut self, slot: Slot, output: SeqOutput, events: &mut Vec<Event>) -> bool {
        let seq = output.seq;
        let sequence = &mut self.sequences[slot];
        if !output.prompt_logprobs.is_empty() {
            events.push(Event::PromptLogprobs { seq, logprobs: output.prompt_logprobs });
        }
        for sample in output.samples {
            self.totals.generated_tokens += 1;
            sequence.tokens.push(sample.token.id);
            let finish = if sequence.generated() >= sequence.spec.max_new_tokens {
                Some(FinishReason::Length)
            } else if sequence.spec.eos.contains(&sample.token.id) {
                Some(FinishReason::EosToken)
            } else {
                None
            };
            events.push(Event::Token { seq, sample, finish });
            if finish.is_some() {
                return true;
            }
        }
        false
    }

    /// Makes the full blocks of a sequence known that have been computed.
    fn publish(&mut self, slot: Slot) {
        let sequence = &mut self.sequences[slot];
        let full = sequence.computed / BLOCK_TOKENS;
        if !sequence.publishes || sequence.prefix.blocks == full {
            return;
        }
        while sequence.publishes && sequence.prefix.blocks < full {
            let Prefix { blocks, id } = sequence.prefix;
            match self.pool.publish(sequence.blocks[blocks], sequence.content(blocks, id)) {
                Some(id) => sequence.prefix = Prefix { blocks: blocks + 1, id },
                None => sequence.publishes = false,
            }
        }
        self.say_what_is_computed(slot);
    }

    /// Keeps `computing` true to a sequence: to the next block of its prompt, or to none.
    fn say_what_is_computed(&mut self, slot: Slot) {
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
            self.say_what_is_computed(slot);
        }
    }

    /// Gives back the blocks of an ended sequence once no step in flight writes to them.
    fn forget_if_done(&mut self, slot: Slot) {
        let sequence = &self.sequences[slot];
        if sequence.ended && sequence.in_flight == 0 {
            let Sequence { seq, blocks, blocks_max, .. } = self.sequences.remove(slot);
            self.slots.remove(&seq);
            let still_promised = blocks_max - blocks.len();
            self.pool.give_back(blocks, still_promised);
        }
    }
}

/// A step as it is planned.
struct Draft {
    plan: StepPlan,
    runs: Vec<PendingRun>,
    /// The run that had too few rows, if there is one.
    cut_short: Option<usize>,
}

impl Draft {
    fn new(step: StepId, running: usize) -> Self {
        let plan = StepPlan { step, new: Vec::new(), retired: Vec::new(), runs: Vec::with_capacity(running) };
        Self { plan, runs: Vec::with_capacity(running), cut_short: None }
    }
}

/// The rows of a step that prompts may have.
struct PromptRows {
    /// For any prompt, as much of it as fits.
    any: usize,
    /// For prompts that are at most `short_max` long, and fit whole.
    short: usize,
    short_max: usize,
}

impl PromptRows {
    fn new(rows: usize) -> Self {
        let short = rows / SHORT_SHARE;
        Self { any: rows - short, short, short_max: short }
    }

    /// What is left goes to prompts of any length.
    fn give_to_all(&mut self) {
        *self = Self { any: self.left(), short: 0, short_max: 0 };
    }

    fn left(&self) -> usize {
        self.any + self.short
    }

    /// How many rows a prompt of which `wanted` tokens are to be computed would get.
    fn offer(&self, wanted: usize) -> usize {
        if self.fits_short(wanted) { wanted } else { wanted.min(self.any) }
    }

    /// Gives it so many.
    fn take(&mut self, wanted: usize) -> usize {
        let rows = self.offer(wanted);
        if self.fits_short(wanted) {
            self.short -= rows;
        } else {
            self.any -= rows;
        }
        rows
    }

    fn fits_short(&self, wanted: usize) -> bool {
        wanted <= self.short_max && wanted <= self.short
    }
}
