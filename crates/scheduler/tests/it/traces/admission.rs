//! Who is admitted, and when.

use super::*;

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
    assert_eq!(scheduler.load(), Occupancy { waiting: 1, running: 0, blocks_available: 2 });
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
