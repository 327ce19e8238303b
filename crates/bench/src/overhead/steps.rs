//! The scheduler alone.

use crate::metrics::Distribution;
use scheduler::{Scheduler, SchedulerConfig, Submission};
use std::collections::BTreeMap;
use std::time::Instant;
use step::{
    BLOCK_TOKENS, Priority, Sample, SamplingParams, SamplingSettings, ScoredToken, SeqId, SeqOutput, StepPlan,
    StepResult, TokenScore,
};

/// Tokens of each prompt.
const PROMPT_TOKENS: u32 = 16;

/// Numbers of running sequences.
const RUNNING: [usize; 7] = [1, 4, 16, 64, 256, 1024, 4096];

/// Steps that are measured, and steps before them.
const STEPS: usize = 300;
const WARM_UP_STEPS: usize = 20;

/// Microseconds that one plan and the commit of one result take together, while another step is in flight.
pub(super) fn plan_commit_us() -> BTreeMap<usize, Distribution> {
    RUNNING.into_iter().map(|running| (running, measure(running))).collect()
}

fn measure(running: usize) -> Distribution {
    let new_tokens = 2 * (STEPS + WARM_UP_STEPS);
    let blocks = running * (PROMPT_TOKENS as usize + new_tokens).div_ceil(BLOCK_TOKENS);
    let mut scheduler = Scheduler::new(SchedulerConfig {
        blocks: u32::try_from(blocks).expect("few"),
        // All prompts in one step.
        step_rows_max: running * PROMPT_TOKENS as usize,
        sequences_max: running,
        steps_in_flight_max: 2,
        prefix_cache: true,
    });
    for seq in 0..running as u64 {
        scheduler.submit(SeqId(seq), submission(seq, new_tokens)).expect("there are blocks for all");
    }
    let mut ahead = scheduler.plan().expect("prompts wait");
    let mut times = Vec::new();
    for step in 0..WARM_UP_STEPS + STEPS {
        let result = answer(&ahead);
        let start = Instant::now();
        let plan = scheduler.plan().expect("no sequence ends so soon");
        let events = scheduler.commit(result).expect("it fits the plan");
        if step >= WARM_UP_STEPS {
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
        // In the first step each also says that it has started.
        assert!(events.len() <= 2 * running && plan.runs.len() == running, "every sequence runs in every step");
        ahead = plan;
    }
    Distribution::of(times)
}

/// The submission of a sequence. No two share a prefix.
fn submission(seq: u64, max_new_tokens: usize) -> Submission {
    Submission {
        prompt: (0..PROMPT_TOKENS).map(|token| token + u32::try_from(seq).expect("few")).collect(),
        max_new_tokens,
        eos: vec![u32::MAX],
        stop_token_ids: Vec::new(),
        min_tokens: 0,
        sampling: SamplingParams::try_new(SamplingSettings::default()).expect("the default is valid"),
        priority: Priority::Normal,
        prompt_logprobs: false,
        top_n: 0,
        return_logits: false,
    }
}

/// A token for each run.
fn answer(plan: &StepPlan) -> StepResult {
    let token = ScoredToken { id: 1, score: TokenScore { logprob: -1.0, model_logprob: -1.0 } };
    let sample = Sample { token, top: Vec::new(), logits: Vec::new() };
    let output = |seq| SeqOutput { seq, samples: vec![sample.clone()], prompt_logprobs: Vec::new() };
    let sampled = plan.runs.iter().filter(|run| run.sample);
    StepResult {
        step: plan.step,
        outputs: sampled.map(|run| output(run.seq)).collect(),
        device_time_us: 0,
        all_reduce_time_us: None,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_step_is_measured() {
        assert_eq!(super::measure(3).values().len(), super::STEPS);
    }
}
