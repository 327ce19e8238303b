//! What all streams bring, counted while it comes.

use crate::target::{Observer, Seen};
use runtime::timed::{TICK, TICKS, age_ticks};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of all streams of a dialect.
pub(super) struct Tally {
    tokens: AtomicU64,
    messages: AtomicU64,
    /// Messages by the age of their first token, in ticks.
    ages: Vec<AtomicU64>,
    /// The tokens that say when they were sampled, by their texts.
    timed: Arc<HashMap<String, u32>>,
}

/// What came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) tokens: u64,
    pub(super) messages: u64,
    /// Messages by the age of their first token, in ticks.
    pub(super) ages: Vec<u64>,
}

impl Tally {
    pub(super) fn new(timed: Arc<HashMap<String, u32>>) -> Self {
        let ages = (0..TICKS).map(|_| AtomicU64::new(0)).collect();
        Self { tokens: AtomicU64::new(0), messages: AtomicU64::new(0), ages, timed }
    }

    pub(super) fn read(&self) -> Counted {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counted {
            tokens: read(&self.tokens),
            messages: read(&self.messages),
            ages: self.ages.iter().map(read).collect(),
        }
    }
}

impl Observer for Tally {
    fn message(&self, tokens: u32, first: Seen<'_>) {
        self.tokens.fetch_add(tokens.into(), Ordering::Relaxed);
        self.messages.fetch_add(1, Ordering::Relaxed);
        let token = match first {
            Seen::Id(id) => Some(id),
            Seen::Text(text) => self.timed.get(text).copied(),
        };
        if let Some(age) = token.and_then(age_ticks) {
            self.ages[age].fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Counted {
    pub(super) fn since(mut self, before: &Self) -> Self {
        self.tokens -= before.tokens;
        self.messages -= before.messages;
        for (age, before) in self.ages.iter_mut().zip(&before.ages) {
            *age -= before;
        }
        self
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.tokens += other.tokens;
        self.messages += other.messages;
        self.ages.resize(self.ages.len().max(other.ages.len()), 0);
        for (age, other) in self.ages.iter_mut().zip(&other.ages) {
            *age += other;
        }
    }

    /// Milliseconds below which the first tokens of `percent` of the messages were, to a tick; `None` where tokens do not tell.
    pub(super) fn delay_ms(&self, percent: f64) -> Option<f64> {
        let timed: u64 = self.ages.iter().sum();
        let below = (timed as f64 * percent / 100.0).ceil() as u64;
        let mut seen = 0;
        let ticks = self.ages.iter().position(|&messages| {
            seen += messages;
            seen >= below && seen > 0
        })?;
        Some((ticks + 1) as f64 * TICK.as_secs_f64() * 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_those_of_tokens_that_tell() {
        let tally = Tally::new(Arc::new(HashMap::new()));
        tally.message(2, Seen::Id(0));
        tally.message(1, Seen::Text("no such token"));
        let counted = tally.read();
        assert_eq!((counted.tokens, counted.messages, counted.delay_ms(99.0)), (3, 2, None));
        let mut ages = vec![0; TICKS];
        (ages[0], ages[3], ages[9]) = (98, 1, 1);
        let mut sum = Counted { tokens: 1, messages: 1, ages }.since(&Counted::default());
        assert_eq!([50.0, 99.0, 100.0].map(|percent| sum.delay_ms(percent)), [Some(0.5), Some(2.0), Some(5.0)]);
        sum.add(&counted);
        assert_eq!((sum.tokens, sum.messages, sum.delay_ms(50.0)), (4, 3, Some(0.5)));
    }
}
