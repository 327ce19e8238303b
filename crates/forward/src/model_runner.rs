//! Steps: a plan becomes a batch, its logits become samples.

use crate::falcon::Falcon;
use crate::masks::Masks;
use backend::{Backend, BackendError, Batch, BatchSeq, SampleOutput, SampleRequest, SampleRow, StepInput};
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};
use step::{BLOCK_TOKENS, NewSequence, Sample, SampleMask, SeqId, SeqOutput, SeqRun, StepId, StepPlan, StepResult};

/// One rank's model and the sequences that it runs.
pub struct ModelRunner<B: Backend> {
    falcon: Falcon<B>,
    sequences: HashMap<SeqId, Sequence>,
    /// Slots of the device's tokens that no sequence has.
    free_slots: Vec<usize>,
    batch: Batch,
    /// Steps that were begun and have not ended, oldest first.
    in_flight: VecDeque<InFlight<B>>,
    /// When the last step ended.
    ended: Instant,
}

/// Why a step could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum StepError {
    /// The device, or another rank.
    #[error("step {step}: {error}")]
    Backend { step: u64, error: BackendError },
    /// The plan does not fit what this rank knows: a bug of the coordinator.
    #[error("step {step}: bad plan: {reason}")]
    Plan { step: u64, reason: String },
}

struct Sequence {
    spec: NewSequence,
    /// Its block table.
    blocks: Vec<u32>,
    slot: usize,
    /// Steps in flight that run it.
    in_flight: usize,
    /// No plan names it any more: it is removed when the last of these steps ends.
    retired: bool,
    /// Tokens that these steps sample, which `spec` does not have yet.
    unseen: usize,
    /// One of these steps has draft tokens that are not verified yet.
    drafting: bool,
}

/// The rows of one run within the batch.
struct RunRows {
    run: SeqRun,
    /// Rows whose next token the prompt holds, to be scored.
    scores: Range<usize>,
    /// Rows whose next token is sampled.
    samples: Range<usize>,
}

/// A step that was begun.
struct InFlight<B: Backend> {
    step: StepId,
    runs: Vec<RunRows>,
    pending: Vec<B::Pending>,
    begun: Instant,
}

impl StepError {
    /// Whether it is another rank that is missed, and nothing is known to be wrong with this one.
    #[must_use]
    pub fn is_by_others(&self) -> bool {
        matches!(self, Self::Backend { error, .. } if error.is_by_others())
    }
}

impl<B: Backend> ModelRunner<B> {
    /// A runner without sequences.
    #[must_use]
    pub fn new(falcon: Falcon<B>) -> Self {
        Self {
            free_slots: (0..falcon.capacity().sequences_max()).rev().collect(),
            falcon,
            sequences: HashMap::new(),
            batch: Batch::default(),
            in_flight: VecDeque::new(),
            ended: Instant::now(),
        }
    }

    /// Leaves the other ranks, and forgets all sequences and steps; the weights stay.
    ///
    /// # Errors
    ///
    /// [`BackendError`]; nothing can be run after one.
    pub fn leave(&mut self) -> Result<(), BackendError> {
        self.in_flight.clear();
        self.sequences.clear();
        self.free_slots = (0..self.falcon.capacity().sequences_max()).rev().collect();
        self.falcon.leave()
    }

    /// Meets the ranks again, after it has left; steps can be begun then.
    ///
    /// # Errors
    ///
    /// [`BackendError`].
    pub fn rejoin(&mut self) -> Result<(), BackendError> {
        self.falcon.rejoin()
    }

    /// How many steps may be in flight at once.
    #[must_use]
    pub fn steps_in_flight_max(&self) -> usize {
        self.falcon.steps_in_flight_max()
    }

    /// Begins a step. `masks` are those for which the plan's masked runs wait. A run may need the token that a step in flight
    /// samples.
    ///
    /// # Errors
    ///
    /// [`StepError`]; nothing can be run after one.
    ///
    /// # Panics
    ///
    /// If as many steps are in flight as may be.
    pub fn begin(&mut self, plan: StepPlan, masks: &[SampleMask]) -> Result<(), StepError> {
        assert!(self.in_flight.len() < self.steps_in_flight_max(), "step {} is one too many in flight", plan.step);
        let (begun, step, rows) = (Instant::now(), plan.step, plan.rows());
        let device_error = |error| StepError::Backend { step: step.0, error };
        let bad_plan = |reason| StepError::Plan { step: step.0, reason };
        plan.retired.iter().for_each(|&seq| self.retire(seq));
        for spec in plan.new {
            let slot = self.free_slots.pop().ok_or_else(|| format!("sequence {} is one too many", spec.seq));
            let slot = slot.map_err(bad_plan)?;
            self.falcon.set_tokens(slot, 0, &spec.tokens).map_err(device_error)?;
            self.sequences.insert(spec.seq, Sequence::new(spec, slot));
        }
        let runs = self.lay_out(plan.runs, rows).map_err(bad_plan)?;
        self.set_drafts(&runs).map_err(device_error)?;
        let masks = self.masks(&runs, step, masks);
        let (rows, requests) = requests(&self.sequences, &runs, &masks);
        let input = StepInput { batch: &self.batch, rows: &rows, requests: &requests };
        let pending = self.falcon.begin(input).map_err(device_error)?;
        for RunRows { run, samples, .. } in &runs {
            let sequence = self.sequences.get_mut(&run.seq).expect("laid out above");
            sequence.in_flight += 1;
            sequence.drafting = !run.draft_tokens.is_empty();
            sequence.unseen += if sequence.drafting { 0 } else { samples.len() };
        }
        self.in_flight.push_back(InFlight { step, runs, pending, begun });
        Ok(())
    }

    /// The result of the oldest step in flight, once the device has ended it. `None`: it has not, or there is no such step.
    ///
    /// # Errors
    ///
    /// [`StepError`]; nothing can be run after one.
    pub fn poll(&mut self) -> Result<Option<StepResult>, StepError> {
        let Some(InFlight { step, pending, .. }) = self.in_flight.front() else { return Ok(None) };
        let step = step.0;
        match self.falcon.poll(pending).map_err(|error| StepError::Backend { step, error })? {
            true => self.end().map(Some),
            false => Ok(None),
        }
    }

    /// Begins one step, and waits for it and those before it.
    ///
    /// # Errors
    ///
    /// [`StepError`]; nothing can be run after one.
    ///
    /// # Panics
    ///
    /// If a step is in flight.
    pub fn step(&mut self, plan: StepPlan, masks: &[SampleMask]) -> Result<StepResult, StepError> {
        assert!(self.in_flight.is_empty(), "a step in flight has a result of its own");
        self.begin(plan, masks)?;
        self.end()
    }

    /// Waits for the oldest step in flight.
    fn end(&mut self) -> Result<StepResult, StepError> {
        let InFlight { step, runs, pending, begun } = self.in_flight.pop_front().expect("a step is in flight");
        let device_error = |error| StepError::Backend { step: step.0, error };
        let answers = self.falcon.wait(pending).map_err(device_error)?;
        let outputs = self.settle(runs, answers).map_err(device_error)?;
        // The device began it when it had ended the one before.
        let device_time = begun.max(self.ended).elapsed();
        self.ended = Instant::now();
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let all_reduce_time_us = self.falcon.all_reduce_time().map(micros);
        Ok(StepResult { step, outputs, device_time_us: micros(device_time), all_reduce_time_us })
    }

    /// A sequence that has ended may still run in a step that was sent before that was known.
    fn retire(&mut self, seq: SeqId) {
        if let Some(sequence) = self.sequences.get_mut(&seq) {
            sequence.retired = true;
            self.forget_if_done(seq);
        }
    }

    fn forget_if_done(&mut self, seq: SeqId) {
        if self.sequences.get(&seq).is_some_and(|sequence| sequence.retired && sequence.in_flight == 0) {
            let sequence = self.sequences.remove(&seq).expect("seen above");
            self.free_slots.push(sequence.slot);
        }
    }

    /// Fills the batch with the rows of all runs.
    fn lay_out(&mut self, runs: Vec<SeqRun>, rows: usize) -> Result<Vec<RunRows>, String> {
        let rows_max = self.falcon.capacity().rows_max;
        if rows == 0 || rows > rows_max {
            return Err(format!("{rows} rows, expected 1 to {rows_max}"));
        }
        self.batch.clear();
        let Self { falcon, sequences, batch, .. } = self;
        let kv_blocks = falcon.capacity().kv_blocks;
        let vocab = falcon.vocab();
        let lay_out = |run: SeqRun| {
            let sequence = sequences.get_mut(&run.seq).filter(|sequence| !sequence.retired);
            let sequence = sequence.ok_or(format!("sequence {} is not known", run.seq))?;
            sequence.take_blocks(&run, kv_blocks)?;
            sequence.lay_out(run, vocab, batch)
        };
        runs.into_iter().map(lay_out).collect()
    }

    /// Which tokens the rows of `runs` may choose.
    fn masks<'a>(&self, runs: &[RunRows], step: StepId, masks: &'a [SampleMask]) -> Masks<'a> {
        let (mut masks, vocab) = (Masks::new(step, masks), self.falcon.vocab());
        for RunRows { run, samples, .. } in runs.iter().filter(|rows| !rows.samples.is_empty()) {
            masks.prepare(&self.sequences[&run.seq].spec, run.start + run.len + 1 - samples.len(), vocab);
        }
        masks
    }

    /// Tells the device of drafts.
    fn set_drafts(&mut self, runs: &[RunRows]) -> Result<(), BackendError> {
        for RunRows { run, .. } in runs.iter().filter(|rows| !rows.run.draft_tokens.is_empty()) {
            let sequence = &self.sequences[&run.seq];
            let first = sequence.spec.tokens.len() - run.draft_tokens.len();
            self.falcon.set_tokens(sequence.slot, first, &run.draft_tokens)?;
        }
        Ok(())
    }

    /// Hands the answers to their runs, and appends sampled tokens to their sequences.
    fn settle(&mut self, runs: Vec<RunRows>, answers: Vec<SampleOutput>) -> Result<Vec<SeqOutput>, BackendError> {
        let mut answers = answers.into_iter();
        let mut outputs = Vec::new();
        for RunRows { run, scores, samples } in runs {
            let prompt_logprobs = answers.by_ref().take(scores.len()).map(expect_score).collect();
            let mut samples: Vec<Sample> = answers.by_ref().take(samples.len()).map(expect_sample).collect();
            let sequence = self.sequences.get_mut(&run.seq).expect("what is in flight is not forgotten");
            let drafts = &run.draft_tokens;
            let tokens = &mut sequence.spec.tokens;
            tokens.truncate(tokens.len() - drafts.len());
            let known = tokens.len();
            // A sample behind a draft counts only if the draft is what was sampled.
            let held = drafts.iter().zip(&samples).take_while(|(draft, sample)| **draft == sample.token.id).count();
            samples.truncate(held + 1);
            tokens.extend(samples.iter().map(|sample| sample.token.id));
            sequence.in_flight -= 1;
            if drafts.is_empty() {
                sequence.unseen -= samples.len();
            } else {
                sequence.drafting = false;
                self.falcon.set_tokens(sequence.slot, known, &tokens[known..])?;
            }
            self.forget_if_done(run.seq);
            if !scores.is_empty() || !samples.is_empty() {
                outputs.push(SeqOutput { seq: run.seq, samples, prompt_logprobs });
            }
        }
        Ok(outputs)
    }
}

/// The rows whose logits are used, and what to do with each, in the order of the runs; within a run, scores come first.
fn requests<'a>(
    sequences: &'a HashMap<SeqId, Sequence>,
    runs: &[RunRows],
    masks: &'a Masks<'_>,
) -> (Vec<usize>, Vec<SampleRequest<'a>>) {
    let (mut rows, mut requests) = (Vec::new(), Vec::new());
    for RunRows { run, scores, samples } in runs {
        let sequence = &sequences[&run.seq];
        let first_row = samples.end - run.len;
        let position = |row: usize| run.start + (row - first_row);
        for row in scores.clone() {
            rows.push(row);
            requests.push(SampleRequest::Score { token: sequence.spec.tokens[position(row) + 1] });
        }
        for row in samples.clone() {
            rows.push(row);
            let chosen = position(row) + 1;
            requests.push(sequence.sample(chosen, run.draft_tokens.is_empty(), masks.of(&sequence.spec, chosen)));
        }
    }
    (rows, requests)
}

fn narrow(position: usize) -> u32 {
    u32::try_from(position).expect("positions fit 32 bits")
}

/// Answers come in the order of the requests, so each is of the kind that was asked for.
fn expect_score(output: SampleOutput) -> f32 {
    match output {
        SampleOutput::Score(logprob) => logprob,
        SampleOutput::Sample(sample) => unreachable!("a sample where a score was asked for: {sample:?}"),
    }
}

fn expect_sample(output: SampleOutput) -> Sample {
    match output {
        SampleOutput::Sample(sample) => sample,
        SampleOutput::Score(logprob) => unreachable!("a score where a sample was asked for: {logprob}"),
    }
}

impl Sequence {
    fn new(spec: NewSequence, slot: usize) -> Self {
        Self { spec, blocks: Vec::new(), slot, in_flight: 0, retired: false, unseen: 0, drafting: false }
    }

    fn take_blocks(&mut self, run: &SeqRun, kv_blocks: usize) -> Result<(), String> {
        self.blocks.extend(run.new_blocks.iter().map(|block| block.0));
        let needed = (run.start + run.len).div_ceil(BLOCK_TOKENS);
        if self.blocks.len() < needed {
            return Err(format!("sequence {}: {} blocks, needs {needed}", run.seq, self.blocks.len()));
        }
        match self.blocks.iter().find(|&&block| block as usize >= kv_blocks) {
            Some(block) => Err(format!("sequence {}: block {block} of {kv_blocks}", run.seq)),
            None => Ok(()),
        }
    }

    /// Adds the run's rows to the batch. The drafts join the tokens until the step is settled.
    fn lay_out(&mut self, run: SeqRun, vocab: usize, batch: &mut Batch) -> Result<RunRows, String> {
        let (seq, drafts) = (run.seq, run.draft_tokens.len());
        if self.drafting || (drafts > 0 && self.unseen > 0) {
            return Err(format!("sequence {seq}: drafts beside another step in flight"));
        }
        let tokens = &mut self.spec.tokens;
        tokens.extend(&run.draft_tokens);
        let (end, known) = (run.start + run.len, tokens.len() + self.unseen);
        if run.len <= drafts || end > known || (run.sample && end != known) {
            return Err(format!("sequence {seq}: tokens {}..{end} of {known} known", run.start));
        }
        let seen = &tokens[run.start.min(tokens.len())..end.min(tokens.len())];
        if let Some(token) = seen.iter().find(|&&token| token as usize >= vocab) {
            return Err(format!("sequence {seq}: token {token} of a vocabulary of {vocab}"));
        }
        let rows = batch.rows()..batch.rows() + run.len;
        batch.tokens.extend(seen);
        // The device knows the rest.
        batch.tokens.resize(rows.end, 0);
        let table = batch.blocks.len()..batch.blocks.len() + self.blocks.len();
        batch.blocks.extend(&self.blocks);
        batch.seqs.push(BatchSeq { rows: rows.clone(), start: run.start, slot: Some(self.slot), table });
        let scored =
            if self.spec.prompt_logprobs { end.min(self.spec.prompt_len - 1).saturating_sub(run.start) } else { 0 };
        let sampled = if run.sample { 1 + drafts } else { 0 };
        Ok(RunRows { run, scores: rows.start..rows.start + scored, samples: rows.end - sampled..rows.end })
    }

    /// How the token at `position` is chosen. With drafts, it is settled later which tokens there are.
    fn sample<'a>(&'a self, position: usize, keep: bool, mask: Option<&'a [u32]>) -> SampleRequest<'a> {
        let tokens = &self.spec.tokens;
        SampleRequest::Sample {
            row: SampleRow {
                params: &self.spec.sampling,
                position: narrow(position),
                prompt_len: narrow(self.spec.prompt_len),
                tokens: &tokens[..position.min(tokens.len())],
                mask,
                top_n: self.spec.top_n,
            },
            slot: keep.then_some(self.slot),
            return_logits: self.spec.return_logits,
        }
    }
}
