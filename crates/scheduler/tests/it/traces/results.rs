//! Results that are not those of the plan.

use super::*;

/// A sequence, and the tokens that it is said to have sampled.
type Sampled<'a> = (SeqId, &'a [u32]);

fn result(step: u64, outputs: &[Sampled<'_>]) -> StepResult {
    let output = |&(seq, tokens): &Sampled<'_>| {
        let samples = tokens.iter().map(|&token| sample(token)).collect();
        SeqOutput { seq, samples, prompt_logprobs: Vec::new() }
    };
    StepResult {
        step: StepId(step),
        outputs: outputs.iter().map(output).collect(),
        device_time_us: 0,
        all_reduce_time_us: None,
    }
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
