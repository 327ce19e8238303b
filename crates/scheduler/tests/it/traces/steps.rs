//! How sequences run, step by step, and how they end.

use super::*;

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
fn a_stop_token_ends_a_sequence_and_an_end_of_text_is_the_reason_before_it() {
    let mut trace = Trace::new(ROOMY);
    trace.submit(A, Submission { eos: vec![4], stop_token_ids: vec![3, 4], ..submission(2, 10) });
    trace.submit(B, Submission { eos: vec![4], stop_token_ids: vec![4], ..submission(3, 10) });
    trace.finish();
    trace.expect(
        "step 0: new A(2) new B(3) | A 0..2 +0 sample | B 0..3 +1 sample
        commit 0: A=2, B=3
        step 1: | A 2..3 sample | B 3..4 sample
        commit 1: A=3 stop_sequence, B=4 eos_token
        nothing to plan",
    );
}

/// The ranks choose another token, as they are told to.
#[test]
fn nothing_but_the_length_ends_a_sequence_before_its_least_tokens() {
    let mut trace = Trace::new(ROOMY);
    trace.submit(A, Submission { eos: vec![2], stop_token_ids: vec![5], min_tokens: 2, ..submission(2, 10) });
    trace.submit(B, Submission { eos: vec![3], min_tokens: 5, ..submission(3, 1) });
    trace.finish();
    trace.expect(
        "step 0: new A(2) new B(3) | A 0..2 +0 sample | B 0..3 +1 sample
        commit 0: A=3, B=4 length
        step 1: retired B | A 2..3 sample
        commit 1: A=3
        step 2: | A 3..4 sample
        commit 2: A=4
        step 3: | A 4..5 sample
        commit 3: A=5 stop_sequence
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
