//! Time without pauses.

use std::time::{Duration, Instant};

/// Measures a wait, without the time in which the waiting process, or one on which the wait depends, was stopped.
///
/// Its owner reads it again and again while it waits, at least every [`Stopwatch::READ_EVERY`]. Where two readings are further
/// apart, the owner did not run in between, and the gap counts as [`Stopwatch::GAP_MAX`] at most.
#[derive(Clone, Debug)]
pub struct Stopwatch {
    running: Duration,
    /// Since when somebody was seen as stopped, without a break; owner's pauses apart.
    stopped: Option<Duration>,
    read: Instant,
    /// When somebody is asked next whether anybody is stopped.
    ask: Instant,
}

impl Stopwatch {
    /// At least how often it must be read.
    pub const READ_EVERY: Duration = Duration::from_millis(100);
    /// The most that counts of the time between two readings.
    pub const GAP_MAX: Duration = Duration::from_millis(200);

    /// Starts a wait.
    #[must_use]
    pub fn start(now: Instant) -> Self {
        Self { running: Duration::ZERO, stopped: None, read: now, ask: now + Self::READ_EVERY }
    }

    /// Reads it: how long the wait has taken. `is_stopped` tells whether a process on which it depends is stopped, and is
    /// asked every [`Stopwatch::READ_EVERY`]; while it says so, no time counts.
    pub fn elapsed(&mut self, now: Instant, is_stopped: impl FnOnce() -> bool) -> Duration {
        let gap = now.saturating_duration_since(self.read).min(Self::GAP_MAX);
        self.read = self.read.max(now);
        if now >= self.ask {
            self.ask = now + Self::READ_EVERY;
            self.stopped = is_stopped().then(|| self.stopped.unwrap_or_default());
        }
        match &mut self.stopped {
            Some(stopped) => *stopped += gap,
            None => self.running += gap,
        }
        self.running
    }

    /// For how long a process on which the wait depends has been stopped without a break; `None` if none is.
    #[must_use]
    pub fn stopped_for(&self) -> Option<Duration> {
        self.stopped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn time_counts_while_the_owner_reads() {
        let start = Instant::now();
        let mut watch = Stopwatch::start(start);
        for ms in 1..=5000 {
            assert_eq!(watch.elapsed(start + ms * MS, || false), ms * MS);
        }
        assert_eq!(watch.elapsed(start, || false), 5000 * MS, "a clock that steps back is no time");
    }

    /// Also where somebody else goes on later than the owner.
    #[test]
    fn a_pause_of_the_owner_hardly_counts() {
        let start = Instant::now();
        for pause_ms in [1_000, 15_000, 70_000, 100_000_000] {
            let mut watch = Stopwatch::start(start);
            assert_eq!(watch.elapsed(start + 50 * MS, || false), 50 * MS);
            let again = start + (50 + pause_ms) * MS;
            assert_eq!(watch.elapsed(again, || true), 50 * MS);
            assert_eq!(watch.elapsed(again + 100 * MS, || false), 150 * MS);
            assert_eq!(watch.elapsed(again + 170 * MS, || false), 220 * MS);
        }
    }

    #[test]
    fn time_stands_still_while_somebody_is_stopped() {
        let start = Instant::now();
        let mut watch = Stopwatch::start(start);
        let mut now = start;
        // Stopped from 300 to 70,300 ms; seen at the next reading.
        for ms in (0..70_400).step_by(50) {
            now = start + ms * MS;
            let elapsed = watch.elapsed(now, || (300..70_300).contains(&ms));
            assert!(elapsed <= 350 * MS, "{elapsed:?} at {ms} ms");
            assert_eq!(watch.stopped_for().is_some(), (300..70_300).contains(&ms), "at {ms} ms");
        }
        let before = watch.elapsed(now, || false);
        assert_eq!(watch.elapsed(now + 100 * MS, || false), before + 100 * MS);
    }

    #[test]
    fn short_waits_ask_nobody() {
        let start = Instant::now();
        let mut watch = Stopwatch::start(start);
        for ms in 0..100 {
            watch.elapsed(start + ms * MS, || panic!("asked at {ms} ms"));
        }
    }

    #[test]
    fn the_time_of_a_stop_is_counted_apart() {
        let start = Instant::now();
        let mut watch = Stopwatch::start(start);
        for ms in (100..=1100).step_by(100) {
            assert_eq!(watch.elapsed(start + ms * MS, || true), Duration::ZERO);
        }
        assert_eq!(watch.stopped_for(), Some(1100 * MS));
        watch.elapsed(start + 1200 * MS, || false);
        assert_eq!(watch.stopped_for(), None);
    }
}
