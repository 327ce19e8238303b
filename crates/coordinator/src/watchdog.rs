//! How long a step may take. Pure: it is told what happens when, and says until when the oldest step must be answered.

use std::collections::VecDeque;
use std::time::Duration;
use step::{StepId, StepPlan};
use tokio::time::Instant;

/// A step may take so many times as long as the longest one of its size.
const TIMES_LONGEST: u32 = 20;

/// Where nothing of any size has been measured, a step may take so many times as long as one must be allowed at least: the
/// first ones fault in memory, and nobody knows how fast the machine is.
const TIMES_UNKNOWN: u32 = 30;

/// Steps of up to `2^i` rows are of size `i`.
const SIZES: usize = usize::BITS as usize;

/// A step that has been sent to all ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) step: StepId,
    pub(crate) rows: usize,
    /// Those that are no sequence's next token.
    pub(crate) prompt_rows: usize,
    /// When the ranks could begin with it.
    pub(crate) begun: Instant,
}

/// The steps in flight, and how long such steps have taken.
#[derive(Debug)]
pub(crate) struct Watchdog {
    /// What every step is allowed.
    least: Duration,
    in_flight: VecDeque<Sent>,
    longest: [Option<Duration>; SIZES],
}

impl Watchdog {
    pub(crate) fn new(least: Duration) -> Self {
        Self { least, in_flight: VecDeque::new(), longest: [None; SIZES] }
    }

    /// A step has been sent.
    pub(crate) fn sent(&mut self, plan: &StepPlan, now: Instant) {
        let (step, rows, prompt_rows) = (plan.step, plan.rows(), plan.rows() - plan.decode_rows());
        self.in_flight.push_back(Sent { step, rows, prompt_rows, begun: now });
    }

    /// All ranks have answered the oldest step; they have gone on to the next. Returns it, and how long it took.
    pub(crate) fn answered(&mut self, now: Instant) -> Option<(Sent, Duration)> {
        let sent = self.in_flight.pop_front()?;
        let taken = now - sent.begun;
        let longest = &mut self.longest[size(sent.rows)];
        *longest = (*longest).max(Some(taken));
        if let Some(next) = self.in_flight.front_mut() {
            next.begun = next.begun.max(now);
        }
        Some((sent, taken))
    }

    /// The step that must be answered next.
    pub(crate) fn oldest(&self) -> Option<Sent> {
        self.in_flight.front().copied()
    }

    /// Until when it must be; `None` if nothing is in flight.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.oldest().map(|sent| sent.begun + self.limit(sent.rows))
    }

    fn limit(&self, rows: usize) -> Duration {
        let measured = self.longest(size(rows)).map(|longest| longest * TIMES_LONGEST);
        measured.unwrap_or(self.least * TIMES_UNKNOWN).max(self.least)
    }

    /// The longest step of a size. Where there was none, the next smaller one tells, by its rows; else a larger one.
    fn longest(&self, size: usize) -> Option<Duration> {
        let below = (0..=size).rev().find_map(|of| Some(self.longest[of]? * (1 << (size - of).min(16))));
        below.or_else(|| self.longest[size..].iter().flatten().next().copied())
    }
}

fn size(rows: usize) -> usize {
    rows.next_power_of_two().trailing_zeros() as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use step::{SeqId, SeqRun};

    /// A step of so many rows.
    fn plan(step: u64, rows: usize) -> StepPlan {
        let (new_blocks, draft_tokens) = (Vec::new(), Vec::new());
        let run = SeqRun { seq: SeqId(0), start: 0, len: rows, new_blocks, draft_tokens, sample: true, masked: false };
        StepPlan { step: StepId(step), new: Vec::new(), retired: Vec::new(), runs: vec![run] }
    }

    const LEAST: Duration = Duration::from_secs(10);

    /// What a step of `rows` rows is allowed.
    fn allowed(watchdog: &mut Watchdog, rows: usize, now: Instant) -> Duration {
        watchdog.sent(&plan(0, rows), now);
        watchdog.deadline().expect("a step is in flight") - now
    }

    fn after(steps: &[(usize, f32)]) -> (Watchdog, Instant) {
        let (mut watchdog, mut now) = (Watchdog::new(LEAST), Instant::now());
        for &(rows, seconds) in steps {
            watchdog.sent(&plan(0, rows), now);
            now += Duration::from_secs_f32(seconds);
            watchdog.answered(now);
        }
        assert_eq!(watchdog.deadline(), None);
        (watchdog, now)
    }

    #[test]
    fn a_step_may_take_as_long_as_those_of_its_size_suggest() {
        for (steps, rows, seconds) in [
            (&[][..], 1, 300),
            (&[(1, 0.01)], 1, 10),
            (&[(1, 2.0), (1, 1.0)], 1, 40),
            // Four times as many rows.
            (&[(1, 2.0)], 3, 160),
            (&[(1, 2.0), (4, 3.0)], 3, 60),
            (&[(512, 2.0)], 1, 40),
        ] {
            let (mut watchdog, now) = after(steps);
            assert_eq!(allowed(&mut watchdog, rows, now), Duration::from_secs(seconds), "{steps:?}, {rows}");
        }
    }

    #[test]
    fn a_step_that_was_sent_ahead_begins_when_the_one_before_it_is_answered() {
        let (mut watchdog, now) = after(&[(1, 0.5)]);
        watchdog.sent(&plan(1, 1), now);
        watchdog.sent(&plan(2, 1), now);
        assert_eq!(watchdog.oldest().map(|sent| sent.step), Some(StepId(1)));
        let answered = now + Duration::from_secs(9);
        watchdog.answered(answered);
        assert_eq!(watchdog.oldest().map(|sent| sent.step), Some(StepId(2)));
        assert_eq!(watchdog.deadline(), Some(answered + Duration::from_secs(180)));
    }
}
