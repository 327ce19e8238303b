//! Traces: what is planned and what comes of it, one line each.
//!
//! A sequence is a letter, `A(5)` one with a prompt of 5 tokens. `A 0..5 +2 sample` runs its tokens 0 to 4, for which it
//! gains block 2, and samples the next. Every sampled token is its own position, so `A=5` follows, and a sequence with
//! `eos: vec![7]` ends at position 7.

use crate::ranks::{Ranks, sample};
use scheduler::{CommitError, Event, Load, Scheduler, SchedulerConfig, Submission, SubmitError};
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
        let Load { waiting, running, blocks_available } = self.scheduler.load();
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

/// That a sequence has started is told only of those of which something was known.
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

#[test]
fn one_request_runs_to_its_length() {
    let mut trace = Trace::new(ROOMY);
    trace.submit(A, submission(15, 3));
    trace.load();
    trace.finish();
    trace.load();
    trace.expect(
        "load: 1 waiting, 0 running, 100 blocks
        step 0: new A(15) | A 0..15 +0 sample
        commit 0: A=15
        step 1: | A 15..16 sample
        commit 1: A=16
        step 2: | A 16..17 +1 sample
        commit 2: A=17 length
        nothing to plan
        load: 0 waiting, 0 running, 100 blocks",
    );
}

#[test]
fn a_prompt_in_chunks_does_not_hold_up_one_that_decodes() {
    let mut trace = Trace::new(SchedulerConfig { step_rows_max: 4, ..ROOMY });
    trace.submit(A, submission(2, 4));
    trace.submit(B, submission(7, 2));
    trace.finish();
    trace.expect(
        "step 0: new A(2) new B(7) | A 0..2 +0 sample | B 0..2 +1
        commit 0: A=2
        step 1: | A 2..3 sample | B 2..5
        commit 1: A=3
        step 2: | A 3..4 sample | B 5..7 sample
        commit 2: A=4, B=7
        step 3: | A 4..5 sample | B 7..8 sample
        commit 3: A=5 length, B=8 length
        nothing to plan",
    );
}

#[test]
fn a_short_prompt_does_not_wait_for_a_long_one_and_a_long_one_for_no_row() {
    let mut trace = Trace::new(SchedulerConfig { step_rows_max: 4, ..ROOMY });
    trace.submit(A, submission(6, 1));
    trace.submit(B, submission(1, 3));
    trace.submit(C, submission(9, 1));
    trace.finish();
    trace.expect(
        "step 0: new A(6) new B(1) | A 0..3 +0 | B 0..1 +1 sample
        commit 0: B=1
        step 1: | B 1..2 sample | A 3..6 sample
        commit 1: B=2, A=6 length
        step 2: new C(9) retired A | B 2..3 sample | C 0..3 +0
        commit 2: B=3 length
        step 3: retired B | C 3..7
        commit 3: nothing
        step 4: | C 7..9 sample
        commit 4: C=9 length
        nothing to plan",
    );
}

#[test]
fn one_step_ahead_nothing_is_planned_past_the_length() {
    let mut trace = Trace::new(AHEAD);
    trace.submit(A, submission(5, 3));
    trace.plan();
    trace.plan();
    trace.plan();
    trace.commit();
    trace.plan();
    trace.commit();
    trace.plan();
    trace.commit();
    trace.finish();
    trace.expect(
        "step 0: new A(5) | A 0..5 +0 sample
        step 1: | A 5..6 sample
        nothing to plan
        commit 0: A=5
        step 2: | A 6..7 sample
        commit 1: A=6
        nothing to plan
        commit 2: A=7 length
        nothing to plan",
    );
}

#[test]
fn one_step_ahead_the_token_after_the_end_is_dropped() {
    let mut trace = Trace::new(AHEAD);
    trace.submit(A, Submission { eos: vec![3, 6], ..submission(5, 10) });
    trace.submit(B, submission(1, 5));
    trace.plan();
    trace.plan();
    trace.commit();
    trace.plan();
    trace.commit();
    trace.load();
    trace.plan();
    trace.commit();
    trace.load();
    trace.commit();
    trace.finish();
    trace.expect(
        "step 0: new A(5) new B(1) | A 0..5 +0 sample | B 0..1 +1 sample
        step 1: | A 5..6 sample | B 1..2 sample
        commit 0: A=5, B=1
        step 2: | A 6..7 sample | B 2..3 sample
        commit 1: A=6 eos_token, B=2
        load: 0 waiting, 1 running, 98 blocks
        step 3: retired A | B 3..4 sample
        commit 2: B=3
        load: 0 waiting, 1 running, 99 blocks
        commit 3: B=4
        step 4: | B 4..5 sample
        commit 4: B=5 length
        nothing to plan",
    );
}

#[test]
fn the_length_is_the_reason_when_the_last_token_ends_the_text_as_well() {
    let mut trace = Trace::new(ROOMY);
    trace.submit(A, Submission { eos: vec![2], ..submission(2, 1) });
    trace.finish();
    trace.expect(
        "step 0: new A(2) | A 0..2 +0 sample
        commit 0: A=2 length
        nothing to plan",
    );
}

#[test]
fn an_abort_while_waiting_leaves_no_trace_on_the_ranks() {
    let mut trace = Trace::new(SchedulerConfig { sequences_max: 1, ..ROOMY });
    trace.submit(A, submission(1, 2));
    trace.submit(B, submission(1, 1));
    trace.submit(C, submission(1, 1));
    trace.plan();
    trace.abort(B);
    trace.abort(B);
    trace.commit();
    trace.finish();
    trace.expect(
        "step 0: new A(1) | A 0..1 +0 sample
        abort B
        abort B
        commit 0: A=1
        step 1: | A 1..2 sample
        commit 1: A=2 length
        step 2: new C(1) retired A | C 0..1 +0 sample
        commit 2: C=1 length
        nothing to plan",
    );
}

#[test]
fn an_abort_between_steps_frees_the_blocks_at_once() {
    let mut trace = Trace::new(SchedulerConfig { blocks: 2, ..ROOMY });
    trace.submit(A, submission(17, 8));
    trace.submit(B, submission(20, 1));
    trace.plan();
    trace.commit();
    trace.load();
    trace.abort(A);
    trace.load();
    trace.finish();
    trace.abort(A);
    trace.abort(D);
    trace.load();
    trace.expect(
        "step 0: new A(17) | A 0..17 +0 +1 sample
        commit 0: A=17
        load: 1 waiting, 1 running, 0 blocks
        abort A
        load: 1 waiting, 0 running, 2 blocks
        step 1: new B(20) retired A | B 0..20 +0 +1 sample
        commit 1: B=20 length
        nothing to plan
        abort A
        abort D
        load: 0 waiting, 0 running, 2 blocks",
    );
}

#[test]
fn an_abort_with_two_steps_in_flight_frees_the_blocks_after_the_second() {
    let mut trace = Trace::new(SchedulerConfig { blocks: 2, ..AHEAD });
    trace.submit(A, submission(5, 8));
    trace.submit(B, submission(5, 4));
    trace.submit(C, submission(5, 1));
    trace.plan();
    trace.plan();
    trace.abort(A);
    trace.abort(A);
    trace.load();
    trace.commit();
    trace.load();
    trace.plan();
    trace.commit();
    trace.load();
    trace.plan();
    trace.commit();
    trace.commit();
    trace.finish();
    trace.load();
    trace.expect(
        "step 0: new A(5) new B(5) | A 0..5 +0 sample | B 0..5 +1 sample
        step 1: | A 5..6 sample | B 5..6 sample
        abort A
        abort A
        load: 1 waiting, 1 running, 0 blocks
        commit 0: B=5
        load: 1 waiting, 1 running, 0 blocks
        step 2: retired A | B 6..7 sample
        commit 1: B=6
        load: 1 waiting, 1 running, 1 blocks
        step 3: new C(5) | B 7..8 sample | C 0..5 +0 sample
        commit 2: B=7
        commit 3: B=8 length, C=5 length
        nothing to plan
        load: 0 waiting, 0 running, 2 blocks",
    );
}

#[test]
fn admission_waits_for_blocks_in_the_order_of_arrival() {
    let mut trace = Trace::new(SchedulerConfig { blocks: 3, ..ROOMY });
    trace.submit(A, submission(16, 2));
    trace.submit(B, submission(30, 1));
    // There is room for it beside A, but it came after B.
    trace.submit(C, submission(1, 1));
    trace.load();
    trace.finish();
    trace.expect(
        "load: 3 waiting, 0 running, 3 blocks
        step 0: new A(16) | A 0..16 +0 sample
        commit 0: A=16
        step 1: | A 16..17 +1 sample
        commit 1: A=17 length
        step 2: new B(30) new C(1) retired A | B 0..30 +0 +1 sample | C 0..1 +2 sample
        commit 2: B=30 length, C=1 length
        nothing to plan",
    );
}

#[test]
fn admission_takes_the_higher_priority_first_and_among_equals_the_earlier() {
    let mut trace = Trace::new(SchedulerConfig { sequences_max: 1, ..ROOMY });
    let with = |priority| Submission { priority, ..submission(1, 1) };
    trace.submit(D, with(Priority::Low));
    trace.submit(B, with(Priority::Normal));
    trace.submit(A, with(Priority::High));
    trace.submit(C, with(Priority::Normal));
    trace.finish();
    trace.expect(
        "step 0: new A(1) | A 0..1 +0 sample
        commit 0: A=1 length
        step 1: new B(1) retired A | B 0..1 +0 sample
        commit 1: B=1 length
        step 2: new C(1) retired B | C 0..1 +0 sample
        commit 2: C=1 length
        step 3: new D(1) retired C | D 0..1 +0 sample
        commit 3: D=1 length
        nothing to plan",
    );
}

#[test]
fn admission_waits_for_a_place_and_for_rows() {
    let mut trace = Trace::new(SchedulerConfig { sequences_max: 2, step_rows_max: 3, ..ROOMY });
    trace.submit(A, submission(3, 1));
    trace.submit(B, submission(1, 2));
    trace.submit(C, submission(1, 1));
    trace.submit(D, submission(1, 1));
    trace.finish();
    trace.expect(
        "step 0: new A(3) | A 0..3 +0 sample
        commit 0: A=3 length
        step 1: new B(1) new C(1) retired A | B 0..1 +0 sample | C 0..1 +1 sample
        commit 1: B=1, C=1 length
        step 2: new D(1) retired C | B 1..2 sample | D 0..1 +1 sample
        commit 2: B=2 length, D=1 length
        nothing to plan",
    );
}

#[test]
fn who_ends_is_retired_once_by_the_next_step_that_runs() {
    let mut trace = Trace::new(ROOMY);
    trace.submit(A, submission(1, 1));
    trace.submit(B, submission(1, 9));
    trace.plan();
    trace.abort(B);
    trace.commit();
    trace.plan();
    trace.submit(C, submission(1, 2));
    trace.finish();
    trace.expect(
        "step 0: new A(1) new B(1) | A 0..1 +0 sample | B 0..1 +1 sample
        abort B
        commit 0: A=1 length
        nothing to plan
        step 1: new C(1) retired B retired A | C 0..1 +1 sample
        commit 1: C=1
        step 2: | C 1..2 sample
        commit 2: C=2 length
        nothing to plan",
    );
}

#[test]
fn prompt_logprobs_come_with_the_chunks_before_the_first_token() {
    let mut trace = Trace::new(SchedulerConfig { step_rows_max: 2, ..ROOMY });
    trace.submit(A, Submission { prompt_logprobs: true, ..submission(5, 2) });
    trace.finish();
    trace.expect(
        "step 0: new A(5) | A 0..2 +0
        commit 0: A prompt [-1.0, -2.0]
        step 1: | A 2..4
        commit 1: A prompt [-3.0, -4.0]
        step 2: | A 4..5 sample
        commit 2: A=5
        step 3: | A 5..6 sample
        commit 3: A=6 length
        nothing to plan",
    );
}

#[test]
fn prompt_logprobs_of_an_aborted_sequence_are_dropped() {
    let mut trace = Trace::new(ROOMY);
    trace.submit(A, Submission { prompt_logprobs: true, ..submission(3, 1) });
    trace.submit(B, Submission { prompt_logprobs: true, ..submission(2, 1) });
    trace.plan();
    trace.abort(A);
    trace.commit();
    trace.expect(
        "step 0: new A(3) new B(2) | A 0..3 +0 sample | B 0..2 +1 sample
        abort A
        commit 0: B prompt [-1.0], B=2 length",
    );
}

#[test]
fn what_can_never_fit_is_refused() {
    let mut scheduler = Scheduler::new(SchedulerConfig { blocks: 2, ..ROOMY });
    // The last new token is never run and needs no place.
    assert_eq!(scheduler.submit(A, submission(30, 3)), Ok(()));
    let error = scheduler.submit(B, submission(30, 4)).expect_err("one token too many");
    assert_eq!(error, SubmitError::TooLong { tokens: 34, needed: 3, total: 2 });
    assert_eq!(error.to_string(), "34 tokens need 3 KV blocks, and there are 2");
    assert_eq!(scheduler.load(), Load { waiting: 1, running: 0, blocks_available: 2 });
}

/// Everything is shared that can be.
const SHARING: SchedulerConfig = SchedulerConfig { prefix_cache: true, ..ROOMY };

#[test]
fn a_prompt_that_is_known_is_not_computed_again_but_for_its_last_token() {
    let mut trace = Trace::new(SHARING);
    trace.submit(A, submission(33, 1));
    trace.finish();
    trace.submit(B, submission(33, 1));
    trace.submit(C, submission(32, 1));
    trace.submit(D, submission(17, 1));
    trace.finish();
    trace.load();
    trace.expect(
        "step 0: new A(33) | A 0..33 +0 +1 +2 sample
        commit 0: A=33 length
        nothing to plan
        step 1: new B(33) new C(32) new D(17) retired A | B 32..33 +0 +1 +2 sample | C 16..32 +0 +3 sample | D 16..17 +0 +4 sample
        commit 1: B 32 cached, B=33 length, C 16 cached, C=32 length, D 16 cached, D=17 length
        nothing to plan
        load: 0 waiting, 0 running, 100 blocks",
    );
}

#[test]
fn what_was_generated_is_known_to_whoever_goes_on_with_it() {
    let mut trace = Trace::new(SHARING);
    trace.submit(A, submission(14, 4));
    trace.finish();
    let prompt = [vec![0; 14], vec![14, 15, 16, 99]].concat();
    trace.submit(B, Submission { prompt, ..submission(1, 1) });
    trace.finish();
    trace.expect(
        "step 0: new A(14) | A 0..14 +0 sample
        commit 0: A=14
        step 1: | A 14..15 sample
        commit 1: A=15
        step 2: | A 15..16 sample
        commit 2: A=16
        step 3: | A 16..17 +1 sample
        commit 3: A=17 length
        nothing to plan
        step 4: new B(18) retired A | B 16..18 +0 +1 sample
        commit 4: B 16 cached, B=18 length
        nothing to plan",
    );
}

#[test]
fn a_block_is_shared_only_once_the_step_that_filled_it_is_committed() {
    let mut trace = Trace::new(SchedulerConfig { prefix_cache: true, ..AHEAD });
    trace.submit(A, submission(20, 2));
    trace.plan();
    // Too little to wait for.
    trace.submit(B, submission(20, 1));
    trace.plan();
    trace.commit();
    trace.submit(C, submission(20, 1));
    trace.plan();
    trace.commit();
    trace.commit();
    trace.expect(
        "step 0: new A(20) | A 0..20 +0 +1 sample
        step 1: new B(20) | A 20..21 sample | B 0..20 +2 +3 sample
        commit 0: A=20
        step 2: new C(20) | C 16..20 +0 +4 sample
        commit 1: A=21 length, B=20 length
        commit 2: C 16 cached, C=20 length",
    );
}

#[test]
fn sequences_that_begin_alike_wait_for_the_one_that_computes_it() {
    let mut trace = Trace::new(SchedulerConfig { step_rows_max: 40, ..SHARING });
    trace.submit(A, submission(70, 1));
    trace.submit(B, submission(70, 1));
    // It has nothing to wait for, and overtakes.
    trace.submit(C, Submission { prompt: vec![1; 3], ..submission(3, 1) });
    trace.finish();
    trace.expect(
        "step 0: new A(70) new C(3) | A 0..37 +0 +1 +3 | C 0..3 +2 sample
        commit 0: C=3 length
        step 1: retired C | A 37..70 +2 +4 sample
        commit 1: A=70 length
        step 2: new B(70) retired A | B 64..70 +0 +1 +3 +2 +4 sample
        commit 2: B 64 cached, B=70 length
        nothing to plan",
    );
}

#[test]
fn whoever_waits_for_a_beginning_goes_on_when_the_one_that_computes_it_is_aborted() {
    let mut trace = Trace::new(SchedulerConfig { step_rows_max: 40, ..SHARING });
    trace.submit(A, submission(70, 1));
    trace.submit(B, submission(70, 1));
    trace.plan();
    trace.commit();
    trace.abort(A);
    trace.finish();
    trace.load();
    trace.expect(
        "step 0: new A(70) | A 0..40 +0 +1 +2
        commit 0: nothing
        abort A
        step 1: new B(70) retired A | B 32..70 +0 +1 +2 +3 +4 sample
        commit 1: B 32 cached, B=70 length
        nothing to plan
        load: 0 waiting, 0 running, 100 blocks",
    );
}

#[test]
fn prompt_logprobs_want_all_of_the_prompt_computed() {
    let mut trace = Trace::new(SHARING);
    trace.submit(A, submission(17, 1));
    trace.finish();
    trace.submit(B, Submission { prompt_logprobs: true, ..submission(17, 1) });
    trace.plan();
    trace.expect(
        "step 0: new A(17) | A 0..17 +0 +1 sample
        commit 0: A=17 length
        nothing to plan
        step 1: new B(17) retired A | B 0..17 +1 +2 sample",
    );
}

#[test]
fn known_blocks_give_way_when_room_is_needed_and_count_as_room() {
    let mut trace = Trace::new(SchedulerConfig { blocks: 3, ..SHARING });
    trace.submit(A, submission(33, 1));
    trace.finish();
    trace.load();
    trace.submit(B, Submission { prompt: vec![1; 20], ..submission(20, 1) });
    trace.finish();
    trace.submit(C, submission(33, 1));
    trace.finish();
    trace.expect(
        "step 0: new A(33) | A 0..33 +0 +1 +2 sample
        commit 0: A=33 length
        nothing to plan
        load: 0 waiting, 0 running, 3 blocks
        step 1: new B(20) retired A | B 0..20 +2 +1 sample
        commit 1: B=20 length
        nothing to plan
        step 2: new C(33) retired B | C 16..33 +0 +1 +2 sample
        commit 2: C 16 cached, C=33 length
        nothing to plan",
    );
}

#[test]
fn much_smaller_sequences_overtake_one_for_which_there_is_no_room() {
    let mut trace = Trace::new(SchedulerConfig { blocks: 6, ..ROOMY });
    trace.submit(A, submission(16, 18));
    trace.submit(B, submission(80, 1));
    trace.submit(C, submission(17, 1));
    trace.submit(D, submission(16, 1));
    trace.plan();
    trace.expect("step 0: new A(16) new D(16) | A 0..16 +0 sample | D 0..16 +1 sample");
}

#[test]
fn prompts_get_no_more_rows_than_allowed_beside_sequences_that_decode() {
    let mut trace = Trace::new(ROOMY);
    trace.scheduler.limit_prompt_rows(4);
    trace.submit(A, submission(9, 3));
    trace.plan();
    trace.commit();
    trace.submit(B, submission(9, 1));
    trace.submit(C, submission(1, 1));
    trace.finish();
    trace.expect(
        "step 0: new A(9) | A 0..9 +0 sample
        commit 0: A=9
        step 1: new B(9) new C(1) | A 9..10 sample | B 0..3 +1 | C 0..1 +2 sample
        commit 1: A=10, C=1 length
        step 2: retired C | A 10..11 sample | B 3..7
        commit 2: A=11 length
        step 3: retired A | B 7..9 sample
        commit 3: B=9 length
        nothing to plan",
    );
}

/// A sequence, and the tokens that it is said to have sampled.
type Sampled<'a> = (SeqId, &'a [u32]);

fn result(step: u64, outputs: &[Sampled<'_>]) -> StepResult {
    let output = |&(seq, tokens): &Sampled<'_>| {
        let samples = tokens.iter().map(|&token| sample(token)).collect();
        SeqOutput { seq, samples, prompt_logprobs: Vec::new() }
    };
    StepResult { step: StepId(step), outputs: outputs.iter().map(output).collect(), device_time_us: 0 }
}

#[test]
fn results_come_in_the_order_of_the_plans() {
    let mut scheduler = Scheduler::new(AHEAD);
    scheduler.submit(A, submission(1, 9)).expect("it fits");
    let nothing_planned = scheduler.commit(result(0, &[(A, &[7])]));
    assert_eq!(nothing_planned, Err(CommitError::Order { expected: None, found: 0 }));
    assert!(scheduler.plan().is_some() && scheduler.plan().is_some());
    let too_early = scheduler.commit(result(1, &[(A, &[7])]));
    assert_eq!(too_early, Err(CommitError::Order { expected: Some(0), found: 1 }));
    scheduler.commit(result(0, &[(A, &[7])])).expect("the oldest");
    let twice = scheduler.commit(result(0, &[(A, &[7])]));
    assert_eq!(twice, Err(CommitError::Order { expected: Some(1), found: 0 }));
    scheduler.check();
}

#[test]
fn a_result_that_is_not_the_plans_changes_nothing() {
    let mut scheduler = Scheduler::new(SchedulerConfig { step_rows_max: 4, ..ROOMY });
    for (seq, prompt_len) in [(A, 1), (B, 1), (C, 3)] {
        scheduler.submit(seq, submission(prompt_len, 1)).expect("it fits");
    }
    let plan = scheduler.plan().expect("there is work");
    assert_eq!(
        plan_text(&plan),
        "step 0: new A(1) new B(1) new C(3) | A 0..1 +0 sample | B 0..1 +1 sample | C 0..2 +2"
    );
    let samples = |seq, expected, found| CommitError::Samples { step: 0, seq, expected, found };
    let misplaced = |seq| CommitError::Misplaced { step: 0, seq };
    let (a, b): (Sampled<'_>, Sampled<'_>) = ((A, &[7]), (B, &[8]));
    let before = format!("{scheduler:?}");
    let wrong: &[(&[Sampled<'_>], CommitError)] = &[
        (&[], samples(A, 1, 0)),
        (&[a], samples(B, 1, 0)),
        (&[a, (B, &[])], samples(B, 1, 0)),
        (&[a, (B, &[8, 9])], samples(B, 1, 2)),
        (&[a, b, (C, &[9])], samples(C, 0, 1)),
        (&[b, a], samples(A, 1, 0)),
        (&[a, b, b], misplaced(B)),
        (&[a, b, (D, &[9])], misplaced(D)),
    ];
    for (outputs, error) in wrong {
        assert_eq!(scheduler.commit(result(0, outputs)), Err(error.clone()), "{outputs:?}");
        assert_eq!(format!("{scheduler:?}"), before, "after {outputs:?}");
    }
    let events = scheduler.commit(result(0, &[a, b])).expect("as planned");
    let token = |seq, token| Event::Token { seq, sample: sample(token), finish: Some(FinishReason::Length) };
    let started = |seq| Event::Started { seq, cached_tokens: 0 };
    assert_eq!(events, [started(A), token(A, 7), started(B), token(B, 8), started(C)]);
}
