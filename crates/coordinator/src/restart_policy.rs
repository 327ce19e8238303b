//! When the ranks are started again after a failure, and when not any more. Pure: the time is handed in.

use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// How often the ranks of a model may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartLimits {
    /// The most failures within `window` after which they are started again; `None`: always.
    pub failures_max: Option<u32>,
    /// How long a failure counts.
    pub window: Duration,
}

impl RestartLimits {
    /// The first failure is the end.
    pub const NEVER: Self = Self { failures_max: Some(0), window: Duration::ZERO };
}

/// What is waited after the second failure within the window; each one more doubles it. After the first nothing is.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// The failures that count.
#[derive(Debug)]
pub(crate) struct RestartPolicy {
    limits: RestartLimits,
    failures: VecDeque<Instant>,
}

impl RestartPolicy {
    pub(crate) fn new(limits: RestartLimits) -> Self {
        Self { limits, failures: VecDeque::new() }
    }

    /// The ranks have failed, which `counts` or not. How long after it they are started again; `None`: they are not.
    pub(crate) fn failed(&mut self, now: Instant, counts: bool) -> Option<Duration> {
        let is_old = |failure: &Instant| now - *failure >= self.limits.window;
        while self.failures.pop_front_if(|failure| is_old(failure)).is_some() {}
        if counts {
            self.failures.push_back(now);
        }
        let count = u32::try_from(self.failures.len()).unwrap_or(u32::MAX);
        if self.limits.failures_max.is_some_and(|max| count > max) {
            return None;
        }
        // Where any number is allowed, no more need be remembered than change the time.
        if self.limits.failures_max.is_none() && self.failures.len() > 16 {
            self.failures.pop_front();
        }
        let Some(doublings) = count.checked_sub(2) else { return Some(Duration::ZERO) };
        let times = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
        Some(BACKOFF_MIN.saturating_mul(times).min(BACKOFF_MAX))
    }

    /// The last `count` failures that counted had a cause that is gone.
    pub(crate) fn forgive(&mut self, count: usize) {
        self.failures.truncate(self.failures.len().saturating_sub(count));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn policy(failures_max: Option<u32>) -> RestartPolicy {
        RestartPolicy::new(RestartLimits { failures_max, window: 600 * SECOND })
    }

    #[test]
    fn each_failure_within_the_window_doubles_the_time_until_it_is_the_end() {
        let (mut policy, start) = (policy(Some(9)), Instant::now());
        let waits: Vec<_> = (0..10).map(|s| policy.failed(start + s * SECOND, true)).collect();
        let seconds = [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0].map(|s| Some(Duration::from_secs_f64(s)));
        assert_eq!((&waits[..9], waits[9]), (&seconds[..], None));
    }

    #[test]
    fn a_failure_counts_for_the_window() {
        let (mut policy, start) = (policy(Some(1)), Instant::now());
        assert!(policy.failed(start, true).is_some());
        assert_eq!(policy.failed(start + 600 * SECOND, true), Some(Duration::ZERO));
        assert_eq!(policy.failed(start + 1199 * SECOND, true), None);
    }

    #[test]
    fn what_does_not_count_or_is_forgiven_is_not_held_against_it() {
        let (mut policy, start) = (policy(Some(1)), Instant::now());
        for _ in 0..100 {
            assert_eq!(policy.failed(start, false), Some(Duration::ZERO));
            assert_eq!(policy.failed(start, true), Some(Duration::ZERO));
            policy.forgive(2);
        }
        assert!(RestartPolicy::new(RestartLimits::NEVER).failed(start, true).is_none());
    }

    #[test]
    fn without_a_limit_it_goes_on_for_ever() {
        let (mut policy, now) = (policy(None), Instant::now());
        let waits: Vec<_> = (0..1000).filter_map(|_| policy.failed(now, true)).collect();
        assert_eq!((waits.len(), waits[999]), (1000, BACKOFF_MAX));
        assert!(policy.failures.len() <= 17);
    }
}
