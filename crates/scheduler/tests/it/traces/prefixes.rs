//! What sequences that begin alike share.

use super::*;

/// With the prefix cache.
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
