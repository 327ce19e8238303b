//! Traces: what is planned and what comes of it, one line each.
//!
//! A sequence is a letter, `A(5)` one with a prompt of 5 tokens. `A 0..5 +2 sample` runs its tokens 0 to 4, for which it
//! gains block 2, and samples the next. Every sampled token is its own position, so `A=5` follows, and a sequence with
//! `eos: vec![7]` ends at position 7.

mod admission;
mod prefixes;
mod restart;
mod results;
mod steps;

use crate::ranks::{Ranks, sample};
use scheduler::{CommitError, Event, Occupancy, Scheduler, SchedulerConfig, Submission, SubmitError};
use std::collections::VecDeque;
use step::{FinishReason, Priority, SamplingParams, SeqId, SeqOutput, StepId, StepPlan, StepResult};

const A: SeqId = SeqId(0);
const B: SeqId = SeqId(1);
const C: SeqId = SeqId(2);
const D: SeqId = SeqId(3);

/// Room for everything, one step at a time, nothing shared.
const ROOMY: SchedulerConfig =
    SchedulerConfig { blocks: 100, step_rows_max: 100, sequences_max: 10, steps_in_flight_max: 1, prefix_cache: false };

/// One step ahead.
const AHEAD: SchedulerConfig = SchedulerConfig { steps_in_flight_max: 2, ..ROOMY };

fn submission(prompt_len: usize, max_new_tokens: usize) -> Submission {
    Submission {
        prompt: vec![0; prompt_len],
        max_new_tokens,
        eos: Vec::new(),
        stop_token_ids: Vec::new(),
        min_tokens: 0,
        sampling: SamplingParams::GREEDY,
        priority: Priority::Normal,
        prompt_logprobs: false,
        top_n: 0,
        return_logits: false,
    }
}

/// A scheduler with its ranks, and a line for everything that happens.
struct Trace {
    scheduler: Scheduler,
    ranks: Ranks,
    /// What the ranks have answered and the scheduler has not heard yet.
    results: VecDeque<StepResult>,
    lines: Vec<String>,
}

impl Trace {
    fn new(config: SchedulerConfig) -> Self {
        let position = |_, position| u32::try_from(position).expect("traces are short");
        let (scheduler, ranks) = (Scheduler::new(config), Ranks::new(config, position));
        Self { scheduler, ranks, results: VecDeque::new(), lines: Vec::new() }
    }

    fn submit(&mut self, seq: SeqId, submission: Submission) {
        self.scheduler.submit(seq, submission).expect("it fits");
    }

    fn abort(&mut self, seq: SeqId) {
        self.scheduler.abort(seq);
        self.log(format!("abort {}", name(seq)));
    }

    fn plan(&mut self) -> bool {
        let plan = self.scheduler.plan();
        self.log(plan.as_ref().map_or("nothing to plan".to_owned(), plan_text));
        self.results.extend(plan.as_ref().map(|plan| self.ranks.run(plan)));
        plan.is_some()
    }

    fn commit(&mut self) {
        let result = self.results.pop_front().expect("a step is in flight");
        let step = result.step;
        let events = self.scheduler.commit(result).expect("the ranks do as they are told");
        self.ranks.committed(step);
        let events: Vec<_> = events.iter().filter_map(event_text).collect();
        self.log(format!(
            "commit {step}: {}",
            if events.is_empty() { "nothing".to_owned() } else { events.join(", ") }
        ));
    }

    /// Plans and commits until nothing is left.
    fn finish(&mut self) {
        while self.plan() {
            self.commit();
        }
    }

    fn load(&mut self) {
        let Occupancy { waiting, running, blocks_available } = self.scheduler.load();
        self.log(format!("load: {waiting} waiting, {running} running, {blocks_available} blocks"));
    }

    fn log(&mut self, line: String) {
        self.scheduler.check();
        self.lines.push(line);
    }

    /// Holds the trace against what is expected, whatever its indentation.
    fn expect(self, expected: &str) {
        let expected: Vec<_> = expected.trim().lines().map(str::trim).collect();
        assert_eq!(self.lines, expected, "found:\n{}\n", self.lines.join("\n"));
    }
}

fn name(seq: SeqId) -> char {
    char::from(b'A' + u8::try_from(seq.0).expect("a letter"))
}

fn plan_text(plan: &StepPlan) -> String {
    let mut text = format!("step {}:", plan.step);
    for new in &plan.new {
        text += &format!(" new {}({})", name(new.seq), new.tokens.len());
    }
    for &seq in &plan.retired {
        text += &format!(" retired {}", name(seq));
    }
    for run in &plan.runs {
        text += &format!(" | {} {}..{}", name(run.seq), run.start, run.start + run.len);
        run.new_blocks.iter().for_each(|block| text += &format!(" +{block}"));
        text += if run.sample { " sample" } else { "" };
    }
    text
}

/// That a sequence has started is shown only where it had cached tokens.
fn event_text(event: &Event) -> Option<String> {
    Some(match event {
        Event::Started { cached_tokens: 0, .. } => return None,
        Event::Started { seq, cached_tokens } => format!("{} {cached_tokens} cached", name(*seq)),
        Event::PromptLogprobs { seq, logprobs } => format!("{} prompt {logprobs:?}", name(*seq)),
        Event::Token { seq, sample, finish } => {
            let finish = finish.map_or(String::new(), |reason| format!(" {}", reason.as_str()));
            format!("{}={}{finish}", name(*seq), sample.token.id)
        }
    })
}
