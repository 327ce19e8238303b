//! How long a step may take.

use std::time::Duration;

/// Limit of a step, as a multiple of the longest step of its size.
const TIMES_LONGEST: u32 = 20;

/// Limit of a step while none has been measured, as a multiple of `least`: the first steps fault in memory, and the speed of
/// the machine is not known.
const TIMES_UNKNOWN: u32 = 30;

/// Steps of up to `2^i` rows are of size `i`.
const SIZES: usize = usize::BITS as usize;

/// When a step counts as hung, by the times of those before it.
///
/// A rank that can watch its own device allows three quarters of what the coordinator does, so that it can say itself what it
/// waits for before the coordinator ends it.
#[derive(Clone, Debug)]
pub struct StepTimeLimits {
    least: Duration,
    longest: [Option<Duration>; SIZES],
    watcher: Watcher,
}

#[derive(Clone, Copy, Debug)]
enum Watcher {
    Coordinator,
    Rank {
        /// What the first step is allowed.
        first: Duration,
    },
}

impl StepTimeLimits {
    /// The coordinator's. `least` is what every step is allowed.
    #[must_use]
    pub fn of_coordinator(least: Duration) -> Self {
        Self { least, longest: [None; SIZES], watcher: Watcher::Coordinator }
    }

    /// A rank's, where the coordinator allows `least`. Before anything is measured, a step may take as long as the rank waits
    /// for others in any case, `first`.
    #[must_use]
    pub fn of_rank(least: Duration, first: Duration) -> Self {
        Self { watcher: Watcher::Rank { first }, ..Self::of_coordinator(least) }
    }

    /// A step of `rows` rows has taken so long.
    pub fn observe(&mut self, rows: usize, taken: Duration) {
        let longest = &mut self.longest[size(rows)];
        *longest = (*longest).max(Some(taken));
    }

    /// How long a step of `rows` rows may take.
    #[must_use]
    pub fn limit(&self, rows: usize) -> Duration {
        let measured = self.longest(size(rows)).map(|longest| longest.saturating_mul(TIMES_LONGEST));
        let limit = measured.unwrap_or(self.least * TIMES_UNKNOWN).max(self.least);
        match self.watcher {
            Watcher::Coordinator => limit,
            Watcher::Rank { first } if measured.is_none() => first.clamp(of_rank(self.least), of_rank(limit)),
            Watcher::Rank { .. } => of_rank(limit),
        }
    }

    /// The longest step of a size. Where there was none, the next smaller one tells, by its rows; else a larger one.
    fn longest(&self, size: usize) -> Option<Duration> {
        let by_rows = |of: usize| Some(self.longest[of]?.saturating_mul(1 << (size - of).min(16)));
        (0..=size).rev().find_map(by_rows).or_else(|| self.longest[size..].iter().flatten().next().copied())
    }
}

/// A rank's share of the coordinator's limit.
fn of_rank(limit: Duration) -> Duration {
    limit / 4 * 3
}

fn size(rows: usize) -> usize {
    rows.next_power_of_two().trailing_zeros() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LEAST: Duration = Duration::from_secs(10);

    #[test]
    fn a_step_may_take_as_long_as_those_of_its_size_suggest() {
        for (steps, rows, coordinator, rank) in [
            (&[][..], 1, 300.0, 60.0),
            (&[(1, 0.01)], 1, 10.0, 7.5),
            (&[(1, 2.0), (1, 1.0)], 1, 40.0, 30.0),
            // Four times as many rows.
            (&[(1, 2.0)], 3, 160.0, 120.0),
            (&[(1, 2.0), (4, 3.0)], 3, 60.0, 45.0),
            (&[(512, 2.0)], 1, 40.0, 30.0),
            (&[(0, 2.0)], 1, 40.0, 30.0),
        ] {
            let limits = [StepTimeLimits::of_coordinator(LEAST), StepTimeLimits::of_rank(LEAST, 60 * SECOND)];
            let limits = limits.map(|mut limits| {
                steps.iter().for_each(|&(rows, seconds)| limits.observe(rows, Duration::from_secs_f64(seconds)));
                limits.limit(rows).as_secs_f64()
            });
            assert_eq!(limits, [coordinator, rank], "{steps:?}, {rows}");
        }
    }

    /// Whatever was measured, and whatever the flags are.
    #[test]
    fn a_rank_gives_up_before_the_coordinator_ends_it() {
        for (least, first) in [(1, 1), (1, 60), (10, 60), (10, 1), (10, 86_400), (86_400, 1)] {
            let mut coordinator = StepTimeLimits::of_coordinator(least * SECOND);
            let mut rank = StepTimeLimits::of_rank(least * SECOND, first * SECOND);
            for step in 0..2000u32 {
                for rows in (0..14).map(|size| 1 << size) {
                    let (allowed, whole) = (rank.limit(rows), coordinator.limit(rows));
                    assert!(allowed <= whole * 3 / 4, "{rows} rows: {allowed:?} of {whole:?}");
                    assert!(allowed >= least * SECOND * 3 / 4, "{rows} rows: {allowed:?}");
                }
                let (rows, taken) = (1 << (step * 7 % 13), Duration::from_millis(u64::from(step * 97 % 5000)));
                coordinator.observe(rows, taken);
                rank.observe(rows, taken);
            }
        }
    }
}
