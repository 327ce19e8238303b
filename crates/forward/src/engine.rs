//! Steps: a plan becomes a batch, its logits become samples.

use crate::falcon::Falcon;
use backend::{Backend, BackendError, Batch, BatchSeq, LogitsOutput, LogitsUse, SampleRow};
use std::collections::HashMap;
use std::ops::Range;
use std::time::Instant;
use step::{BLOCK_TOKENS, NewSequence, Sample, SampleMask, SeqId, SeqOutput, SeqRun, StepPlan, StepResult};

/// One rank's model and the sequences that it runs.
pub struct Engine<B: Backend> {
    falcon: Falcon<B>,
    sequences: HashMap<SeqId, Sequence>,
    batch: Batch,
}

/// Why a step could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The device, or another rank.
    #[error("step {step}: {error}")]
    Backend {
        /// Which step.
        step: u64,
        /// What went wrong.
        error: BackendError,
    },
    /// The plan does not fit what this rank knows: a bug of the coordinator.
    #[error("step {step}: bad plan: {reason}")]
    Plan {
        /// Which step.
        step: u64,
        /// What does not fit.
        reason: String,
    },
}

struct Sequence {
    spec: NewSequence,
    /// Its block table.
    blocks: Vec<u32>,
}

/// The rows of one run within the batch.
struct RunRows<'a> {
    run: &'a SeqRun,
    /// Rows whose next token the prompt holds, to be scored.
    scores: Range<usize>,
    /// Rows whose next token is sampled.
    samples: Range<usize>,
}

impl<B: Backend> Engine<B> {
    /// An engine without sequences.
    #[must_use]
    pub fn new(falcon: Falcon<B>) -> Self {
        Self { falcon, sequences: HashMap::new(), batch: Batch::default() }
    }

    /// Runs one step. `masks` are those for which the plan's masked runs wait.
    ///
    /// # Errors
    ///
    /// [`StepError`]; nothing can be run after one.
    pub fn step(&mut self, plan: StepPlan, masks: &[SampleMask]) -> Result<StepResult, StepError> {
        let begin = Instant::now();
        let step = plan.step;
        for seq in &plan.retired {
            self.sequences.remove(seq);
        }
        for spec in plan.new {
            self.sequences.insert(spec.seq, Sequence { spec, blocks: Vec::new() });
        }
        let runs = self
            .lay_out(&plan.runs, plan_rows(&plan.runs))
            .map_err(|reason| StepError::Plan { step: step.0, reason })?;
        let device_error = |error| StepError::Backend { step: step.0, error };
        self.falcon.run(&self.batch).map_err(device_error)?;
        let answers = self.answers(&runs, masks).map_err(device_error)?;
        let outputs = self.settle(&runs, answers);
        let device_time_us = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
        Ok(StepResult { step, outputs, device_time_us })
    }

    /// Fills the batch with the rows of all runs.
    fn lay_out<'a>(&mut self, runs: &'a [SeqRun], rows: usize) -> Result<Vec<RunRows<'a>>, String> {
        let rows_max = self.falcon.capacity().rows_max;
        if rows == 0 || rows > rows_max {
            return Err(format!("{rows} rows, expected 1 to {rows_max}"));
        }
        self.batch.clear();
        let Self { falcon, sequences, batch } = self;
        let kv_blocks = falcon.capacity().kv_blocks;
        let vocab = falcon.vocab();
        let lay_out = |run: &'a SeqRun| {
            let sequence = sequences.get_mut(&run.seq).ok_or(format!("sequence {} is not known", run.seq))?;
            sequence.take_blocks(run, kv_blocks)?;
            sequence.lay_out(run, vocab, batch)
        };
        runs.iter().map(lay_out).collect()
    }

    /// Samples and scores, in the order of the runs; within a run, scores come first.
    fn answers(&mut self, runs: &[RunRows<'_>], masks: &[SampleMask]) -> Result<Vec<LogitsOutput>, BackendError> {
        let (mut rows, mut uses) = (Vec::new(), Vec::new());
        for RunRows { run, scores, samples } in runs {
            let sequence = &self.sequences[&run.seq];
            let tokens = &sequence.spec.tokens;
            let first_row = samples.end - run.len;
            let position = |row: usize| run.start + (row - first_row);
            for row in scores.clone() {
                rows.push(row);
                uses.push(LogitsUse::Score { token: tokens[position(row) + 1] });
            }
            let mask = masks.iter().find(|mask| mask.seq == run.seq).map(|mask| &mask.words[..]);
            for row in samples.clone() {
                rows.push(row);
                uses.push(sequence.sample(&tokens[..=position(row)], mask));
            }
        }
        self.falcon.use_logits(&rows, &uses)
    }

    /// Hands the answers to their runs, and appends sampled tokens to their sequences.
    fn settle(&mut self, runs: &[RunRows<'_>], answers: Vec<LogitsOutput>) -> Vec<SeqOutput> {
        let mut answers = answers.into_iter();
        let mut outputs = Vec::new();
        for RunRows { run, scores, samples } in runs {
            let prompt_logprobs = answers.by_ref().take(scores.len()).map(expect_score).collect();
            let mut samples: Vec<Sample> = answers.by_ref().take(samples.len()).map(expect_sample).collect();
            let sequence = self.sequences.get_mut(&run.seq).expect("laid out above");
            let drafts = &run.draft_tokens;
            sequence.spec.tokens.truncate(sequence.spec.tokens.len() - drafts.len());
            // A sample behind a draft counts only if the draft is what was sampled.
            let held = drafts.iter().zip(&samples).take_while(|(draft, sample)| **draft == sample.token.id).count();
            samples.truncate(held + 1);
            sequence.spec.tokens.extend(samples.iter().map(|sample| sample.token.id));
            if !scores.is_empty() || !samples.is_empty() {
                outputs.push(SeqOutput { seq: run.seq, samples, prompt_logprobs });
            }
        }
        outputs
    }
}

fn plan_rows(runs: &[SeqRun]) -> usize {
    runs.iter().map(|run| run.len).sum()
}

/// Answers come in the order of the uses, so each is of the kind that was asked for.
fn expect_score(output: LogitsOutput) -> f32 {
    match output {
        LogitsOutput::Score(logprob) => logprob,
        LogitsOutput::Sample(sample) => unreachable!("a sample where a score was asked for: {sample:?}"),
    }
}

fn expect_sample(output: LogitsOutput) -> Sample {
    match output {
        LogitsOutput::Sample(sample) => sample,
        LogitsOutput::Score(logprob) => unreachable!("a score where a sample was asked for: {logprob}"),
    }
}

impl Sequence {
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
    fn lay_out<'a>(&mut self, run: &'a SeqRun, vocab: usize, batch: &mut Batch) -> Result<RunRows<'a>, String> {
        let tokens = &mut self.spec.tokens;
        tokens.extend(&run.draft_tokens);
        let end = run.start + run.len;
        if run.len <= run.draft_tokens.len() || end > tokens.len() || (run.sample && end != tokens.len()) {
            let (seq, start, known) = (run.seq, run.start, tokens.len());
            return Err(format!("sequence {seq}: tokens {start}..{end} of {known} known"));
        }
        if let Some(token) = tokens[run.start..end].iter().find(|&&token| token as usize >= vocab) {
            return Err(format!("sequence {}: token {token} of a vocabulary of {vocab}", run.seq));
        }
        let rows = batch.rows()..batch.rows() + run.len;
        batch.tokens.extend(&tokens[run.start..end]);
        let table = batch.blocks.len()..batch.blocks.len() + self.blocks.len();
        batch.blocks.extend(&self.blocks);
        batch.seqs.push(BatchSeq { rows: rows.clone(), start: run.start, table });
        let scored =
            if self.spec.prompt_logprobs { end.min(self.spec.prompt_len - 1).saturating_sub(run.start) } else { 0 };
        let sampled = if run.sample { 1 + run.draft_tokens.len() } else { 0 };
        Ok(RunRows { run, scores: rows.start..rows.start + scored, samples: rows.end - sampled..rows.end })
    }

    fn sample<'a>(&'a self, tokens: &'a [u32], mask: Option<&'a [u32]>) -> LogitsUse<'a> {
        LogitsUse::Sample {
            row: SampleRow {
                params: &self.spec.sampling,
                position: u32::try_from(tokens.len()).expect("positions fit 32 bits"),
                tokens,
                mask,
                top_n: self.spec.top_n,
            },
            return_logits: self.spec.return_logits,
        }
    }
}
