//! A rank that answers at once, to measure all that is not the model.

use crate::timed;
use forward::StepError;
use std::ops::Range;
use step::{Sample, SampleMask, ScoredToken, SeqOutput, SeqRun, StepPlan, StepResult, TokenScore};
use worker::{Loaded, StepRunner};

/// Ids of ordinary words in every Falcon tokenizer.
pub const ORDINARY_TOKENS: Range<u32> = 1_000..1_500;

/// Samples without a model: tokens that say when they were sampled, or, as ranks must agree, ones that differ by sequence and
/// position if there are several.
struct Instant {
    is_alone: bool,
    /// The step that was begun.
    result: Option<StepResult>,
}

/// One of `world` ranks that answer every step at once, without a model.
pub fn load(world: usize) -> Loaded {
    let runner = Box::new(Instant { is_alone: world == 1, result: None });
    Loaded { runner, weight_bytes: 0, kv_bytes: 0, checksums: Vec::new(), leaver: None }
}

impl StepRunner for Instant {
    fn steps_in_flight_max(&self) -> usize {
        1
    }

    fn begin(&mut self, plan: StepPlan, _: &[SampleMask]) -> Result<(), StepError> {
        let sampled = plan.runs.iter().filter(|run| run.sample);
        let now = self.is_alone.then(timed::now);
        let output = |run: &SeqRun| {
            let samples = vec![sample(now.unwrap_or_else(|| ordinary(run)))];
            SeqOutput { seq: run.seq, samples, prompt_logprobs: Vec::new() }
        };
        self.result = Some(StepResult {
            step: plan.step,
            outputs: sampled.map(output).collect(),
            device_time_us: 0,
            all_reduce_time_us: None,
        });
        Ok(())
    }

    fn poll(&mut self) -> Result<Option<StepResult>, StepError> {
        Ok(self.result.take())
    }
}

fn ordinary(run: &SeqRun) -> u32 {
    let (first, count) = (ORDINARY_TOKENS.start, ORDINARY_TOKENS.len());
    let letter = (run.seq.0 as usize).wrapping_mul(7).wrapping_add(run.start + run.len) % count;
    first + u32::try_from(letter).expect("small")
}

fn sample(id: u32) -> Sample {
    let score = TokenScore { logprob: -1.0, model_logprob: -1.0 };
    Sample { token: ScoredToken { id, score }, top: Vec::new(), logits: Vec::new() }
}
