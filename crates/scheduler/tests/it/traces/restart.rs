//! The ranks are lost, and others take their place.

use super::*;

impl Trace {
    fn restart(&mut self) {
        let lost = self.scheduler.restart();
        let lost: Vec<_> = lost.iter().map(|lost| format!(" {} at {}", name(lost.seq), lost.reached)).collect();
        self.ranks = Ranks::new(AHEAD, |_, position| u32::try_from(position).expect("traces are short"));
        self.results.clear();
        self.log(format!("restart:{}", lost.join(",")));
    }
}

/// What ran goes on before what waited, whatever its priority, with the tokens that its caller has.
#[test]
fn what_ran_goes_on_first_and_repeats_nothing() {
    let mut trace = Trace::new(SchedulerConfig { sequences_max: 2, ..AHEAD });
    trace.submit(A, submission(5, 4));
    trace.submit(B, Submission { prompt_logprobs: true, ..submission(3, 3) });
    trace.plan();
    trace.plan();
    trace.commit();
    trace.submit(C, Submission { priority: Priority::High, ..submission(2, 1) });
    trace.restart();
    trace.load();
    trace.finish();
    trace.expect(
        "step 0: new A(5) new B(3) | A 0..5 +0 sample | B 0..3 +1 sample
         step 1: | A 5..6 sample | B 3..4 sample
         commit 0: A=5, B prompt [-1.0, -2.0], B=3
         restart: A at 6, B at 4
         load: 3 waiting, 0 running, 100 blocks
         step 0: new A(6) new B(4) | A 0..6 +0 sample | B 0..4 +1 sample
         commit 0: A=6, B=4
         step 1: | A 6..7 sample | B 4..5 sample
         commit 1: A=7, B=5 length
         step 2: new C(2) retired B | A 7..8 sample | C 0..2 +1 sample
         commit 2: A=8 length, C=2 length
         nothing to plan",
    );
}

/// Prompt tokens whose scores were told are computed again, and told once.
#[test]
fn scores_of_a_prompt_go_on_where_they_were() {
    let mut trace = Trace::new(SchedulerConfig { step_rows_max: 2, ..ROOMY });
    trace.submit(A, Submission { prompt_logprobs: true, ..submission(5, 1) });
    trace.plan();
    trace.commit();
    trace.plan();
    trace.commit();
    trace.restart();
    trace.finish();
    trace.expect(
        "step 0: new A(5) | A 0..2 +0
         commit 0: A prompt [-1.0, -2.0]
         step 1: | A 2..4
         commit 1: A prompt [-3.0, -4.0]
         restart:
         step 0: new A(5) | A 0..2 +0
         commit 0: nothing
         step 1: | A 2..4
         commit 1: nothing
         step 2: | A 4..5 sample
         commit 2: A=5 length
         nothing to plan",
    );
}

/// Others wait while only some are tried, and those that run go on.
#[test]
fn only_some_are_admitted_while_that_is_asked_for() {
    let mut trace = Trace::new(ROOMY);
    for seq in [A, B, C] {
        trace.submit(seq, submission(2, 2));
    }
    trace.plan();
    trace.restart();
    trace.submit(D, submission(1, 1));
    trace.scheduler.admit_only(Some(&[B]));
    trace.load();
    trace.plan();
    trace.commit();
    trace.abort(C);
    trace.scheduler.admit_only(Some(&[A]));
    trace.plan();
    trace.commit();
    trace.scheduler.admit_only(None);
    trace.finish();
    trace.expect(
        "step 0: new A(2) new B(2) new C(2) | A 0..2 +0 sample | B 0..2 +1 sample | C 0..2 +2 sample
         restart: A at 2, B at 2, C at 2
         load: 4 waiting, 0 running, 100 blocks
         step 0: new B(2) | B 0..2 +0 sample
         commit 0: B=2
         abort C
         step 1: new A(2) | B 2..3 sample | A 0..2 +1 sample
         commit 1: B=3 length, A=2
         step 2: new D(1) retired B | A 2..3 sample | D 0..1 +0 sample
         commit 2: A=3 length, D=1 length
         nothing to plan",
    );
}

/// One that has been overtaken for long enough still waits for those that ran.
#[test]
fn what_ran_goes_on_before_what_is_overdue() {
    let mut trace = Trace::new(SchedulerConfig { sequences_max: 1, steps_in_flight_max: 1, ..ROOMY });
    let low = SeqId(1000);
    trace.submit(low, Submission { priority: Priority::Low, ..submission(1, 1) });
    let high = |id| (SeqId(id), Submission { priority: Priority::High, ..submission(1, 1) });
    for id in 0..64 {
        let (seq, submission) = high(id);
        trace.submit(seq, submission);
        trace.plan();
        if id < 63 {
            trace.commit();
        }
    }
    trace.restart();
    let plan = trace.scheduler.plan().expect("something waits");
    assert_eq!(plan.runs.iter().map(|run| run.seq).collect::<Vec<_>>(), [SeqId(63)]);
}
