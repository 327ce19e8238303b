//! A rank that answers at once, to measure all that is not the model.

use forward::StepError;
use std::ops::Range;
use step::{Sample, SampleMask, ScoredToken, SeqOutput, SeqRun, StepPlan, StepResult, TokenScore};
use worker::{Loaded, StepRunner};

/// Ids of ordinary words in every Falcon tokenizer.
pub const ORDINARY_TOKENS: Range<u32> = 1_000..1_500;

/// Samples without a model: tokens that differ by sequence and position.
#[derive(Default)]
struct Instant {
    /// The step that was begun.
    result: Option<StepResult>,
}

/// A rank that answers every step at once, without a model.
pub fn load() -> Loaded {
    Loaded { runner: Box::new(Instant::default()), weight_bytes: 0, kv_bytes: 0 }
}

impl StepRunner for Instant {
    fn steps_in_flight_max(&self) -> usize {
        1
    }

    fn begin(&mut self, plan: StepPlan, _: &[SampleMask]) -> Result<(), StepError> {
        let sampled = plan.runs.iter().filter(|run| run.sample);
        let output = |run: &SeqRun| SeqOutput { seq: run.seq, samples: vec![sample(run)], prompt_logprobs: Vec::new() };
        self.result = Some(StepResult { step: plan.step, outputs: sampled.map(output).collect(), device_time_us: 0 });
        Ok(())
    }

    fn poll(&mut self) -> Result<Option<StepResult>, StepError> {
        Ok(self.result.take())
    }
}

fn sample(run: &SeqRun) -> Sample {
    let (first, count) = (ORDINARY_TOKENS.start, ORDINARY_TOKENS.len());
    let letter = (run.seq.0 as usize).wrapping_mul(7).wrapping_add(run.start + run.len) % count;
    let id = first + u32::try_from(letter).expect("small");
    let score = TokenScore { logprob: -1.0, model_logprob: -1.0 };
    Sample { token: ScoredToken { id, score }, top: Vec::new(), logits: Vec::new() }
}
