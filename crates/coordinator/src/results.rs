//! The ranks' results of the steps in flight. Pure.

use crate::RankTimes;
use std::collections::VecDeque;
use std::sync::Arc;
use step::StepResult;

/// What all ranks have answered to a step.
#[derive(Debug, PartialEq)]
pub(crate) struct Gathered {
    pub(crate) result: StepResult,
    /// How long each rank took for it.
    pub(crate) ranks: Arc<[RankTimes]>,
}

/// Results of each rank that wait for those of the others.
pub(crate) struct Results(Vec<VecDeque<StepResult>>);

impl Results {
    pub(crate) fn new(world: usize) -> Self {
        Self(vec![VecDeque::new(); world])
    }

    pub(crate) fn push(&mut self, rank: usize, result: StepResult) {
        self.0[rank].push_back(result);
    }

    /// How many steps a rank has answered that others have not.
    pub(crate) fn of(&self, rank: usize) -> usize {
        self.0[rank].len()
    }

    /// Whether the oldest step waits for this rank.
    pub(crate) fn is_missing(&self, rank: usize) -> bool {
        self.0[rank].is_empty()
    }

    /// The result of the oldest step, and how long each rank took for it, once all ranks have sent theirs; an error where they
    /// disagree.
    pub(crate) fn next(&mut self) -> Option<Result<Gathered, String>> {
        if self.0.iter().any(VecDeque::is_empty) {
            return None;
        }
        let times = self.0.iter().filter_map(VecDeque::front).map(RankTimes::from).collect();
        let mut results = self.0.iter_mut().filter_map(VecDeque::pop_front);
        let first = results.next()?;
        // All must be taken, also those behind the first that differs.
        let differ: Vec<usize> =
            results.enumerate().filter(|(_, other)| !same_choices(&first, other)).map(|(index, _)| index + 1).collect();
        Some(match differ.first() {
            Some(rank) => Err(format!("step {}: rank {rank} chose other tokens than rank 0", first.step)),
            None => Ok(Gathered { result: first, ranks: times }),
        })
    }
}

/// The ranks sample each for itself, and must agree.
fn same_choices(one: &StepResult, other: &StepResult) -> bool {
    let choices = |result: &StepResult| {
        let outputs = result.outputs.iter();
        let tokens = outputs.flat_map(|output| output.samples.iter().map(|sample| (output.seq, sample.token.id)));
        tokens.collect::<Vec<_>>()
    };
    one.step == other.step && choices(one) == choices(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use step::{Sample, ScoredToken, SeqId, SeqOutput, StepId, TokenScore};

    fn result(step: u64, token: u32) -> StepResult {
        let token = ScoredToken { id: token, score: TokenScore { logprob: 0.0, model_logprob: 0.0 } };
        let samples = vec![Sample { token, top: Vec::new(), logits: Vec::new() }];
        let outputs = vec![SeqOutput { seq: SeqId(0), samples, prompt_logprobs: Vec::new() }];
        StepResult { step: StepId(step), outputs, device_time_us: 0, all_reduce_time_us: None }
    }

    #[test]
    fn a_step_has_a_result_when_all_ranks_have_sent_it() {
        let mut results = Results::new(2);
        results.push(1, result(0, 7));
        results.push(1, result(1, 8));
        assert!(results.is_missing(0) && !results.is_missing(1) && results.next().is_none());
        results.push(0, result(0, 7));
        assert_eq!(
            results.next(),
            Some(Ok(Gathered { result: result(0, 7), ranks: [RankTimes::default(); 2].into() }))
        );
        assert_eq!(results.next(), None);
    }

    #[test]
    fn ranks_that_differ_are_named() {
        for other in [result(0, 8), result(1, 7)] {
            let mut results = Results::new(3);
            [result(0, 7), result(0, 7), other].into_iter().enumerate().for_each(|(rank, r)| results.push(rank, r));
            assert_eq!(results.next(), Some(Err("step 0: rank 2 chose other tokens than rank 0".to_owned())));
        }
    }
}
