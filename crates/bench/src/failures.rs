//! Why requests failed, counted by reason.

use crate::load::Ran;
use serde::Serialize;
use std::collections::HashMap;

/// Reasons beyond these are counted together: servers may put anything into their messages.
const REASONS_MAX: usize = 20;

/// Requests of a run that failed for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The number of such requests.
    pub count: usize,
    /// The reason, in the words of the first.
    pub reason: String,
}

/// The reasons of a run's failures, most frequent first. Messages that differ in numbers alone, as in lengths of prompts, are
/// one reason.
pub(crate) fn by_reason(ran: &Ran) -> Vec<Failure> {
    let mut failures: Vec<Failure> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for reason in ran.outcomes.iter().filter_map(|outcome| outcome.error.as_ref()) {
        let index = *known.entry(without_numbers(reason)).or_insert(failures.len());
        match failures.get_mut(index) {
            Some(failure) => failure.count += 1,
            None => failures.push(Failure { count: 1, reason: reason.clone() }),
        }
    }
    failures.sort_by_key(|failure| std::cmp::Reverse(failure.count));
    if failures.len() > REASONS_MAX {
        let rest: usize = failures.drain(REASONS_MAX..).map(|failure| failure.count).sum();
        failures.push(Failure { count: rest, reason: "other reasons".to_owned() });
    }
    failures
}

/// The reason with each number after the status as `#`.
fn without_numbers(reason: &str) -> String {
    let (status, message) = reason.split_at(reason.find(": ").unwrap_or(0));
    let mut key = status.to_owned();
    for letter in message.chars() {
        match letter {
            '0'..='9' if key.ends_with('#') => {}
            '0'..='9' => key.push('#'),
            letter => key.push(letter),
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Outcome;
    use crate::metrics::tests::outcome;

    fn ran(reasons: &[String]) -> Ran {
        let failed = |reason: &String| Outcome { error: Some(reason.clone()), ..outcome(0.0, &[]) };
        let outcomes = reasons.iter().map(failed).chain([outcome(0.0, &[1.0])]).collect();
        Ran { outcomes, duration: 1.0 }
    }

    #[test]
    fn failures_are_counted_by_reason() {
        let reasons = ["503: busy", "422 U: 2012 tokens", "422 U: 1999 tokens", "429 T: 9 tokens", "422 U: 7 tokens"];
        let counted = by_reason(&ran(&reasons.map(str::to_owned)));
        let counted: Vec<_> = counted.iter().map(|failure| (failure.count, &*failure.reason)).collect();
        assert_eq!(counted, [(3, "422 U: 2012 tokens"), (1, "503: busy"), (1, "429 T: 9 tokens")]);
        assert_eq!(by_reason(&ran(&[])), []);
    }

    #[test]
    fn endlessly_many_reasons_are_cut_off() {
        let letters = |index: u8| char::from(b'A' + index).to_string();
        let counted = by_reason(&ran(&(0..26).map(letters).collect::<Vec<_>>()));
        assert_eq!(counted.len(), REASONS_MAX + 1);
        assert_eq!(counted.last(), Some(&Failure { count: 6, reason: "other reasons".to_owned() }));
        assert_eq!(counted.iter().map(|failure| failure.count).sum::<usize>(), 26);
    }
}
