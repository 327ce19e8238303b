//! Whether the ranks are late with a step. Pure: it is told what happens when, and is asked again and again.

use std::collections::VecDeque;
use std::time::Duration;
use step::{StepId, StepPlan};
use timeouts::{StepTimeLimits, Stopwatch};
use tokio::time::Instant;

/// A step that has been sent to all ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) step: StepId,
    pub(crate) rows: usize,
    /// Those that are no sequence's next token.
    pub(crate) prompt_rows: usize,
}

/// The steps in flight, and how long such steps have taken.
#[derive(Debug)]
pub(crate) struct Watchdog {
    limits: StepTimeLimits,
    /// How long a rank may be stopped by a signal.
    pause_limit: Duration,
    in_flight: VecDeque<Sent>,
    /// Of the oldest step, from when the ranks could begin with it.
    clock: Stopwatch,
}

impl Watchdog {
    /// How often it must be asked while steps are in flight.
    pub(crate) const ASK_EVERY: Duration = Stopwatch::READ_EVERY;

    pub(crate) fn new(limits: StepTimeLimits, pause_limit: Duration) -> Self {
        Self { limits, pause_limit, in_flight: VecDeque::new(), clock: Stopwatch::start(Instant::now().into_std()) }
    }

    /// A step has been sent.
    pub(crate) fn sent(&mut self, plan: &StepPlan, now: Instant) {
        if self.in_flight.is_empty() {
            self.clock = Stopwatch::start(now.into_std());
        }
        let (step, rows, prompt_rows) = (plan.step, plan.rows(), plan.rows() - plan.decode_rows());
        self.in_flight.push_back(Sent { step, rows, prompt_rows });
    }

    /// All ranks have answered the oldest step; they have gone on to the next. Returns it, and how long it took.
    pub(crate) fn answered(&mut self, now: Instant) -> Option<(Sent, Duration)> {
        let sent = self.in_flight.pop_front()?;
        let taken = self.clock.elapsed(now.into_std(), || false);
        self.limits.observe(sent.rows, taken);
        self.clock = Stopwatch::start(now.into_std());
        Some((sent, taken))
    }

    /// Whether steps are in flight.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Whether a rank that has not answered was stopped when that was asked last.
    pub(crate) fn sees_stopped(&self) -> bool {
        self.clock.stopped_for().is_some()
    }

    /// The oldest step, and for how long it has been waited for, if that is too long. Time in which the coordinator itself, or
    /// a rank that has not answered it, is stopped is no time of the step; that has its own limit.
    pub(crate) fn late(&mut self, now: Instant, is_stopped: impl FnOnce() -> bool) -> Option<(Sent, Duration)> {
        let sent = *self.in_flight.front()?;
        let elapsed = self.clock.elapsed(now.into_std(), is_stopped);
        match self.clock.stopped_for() {
            Some(stopped) => (stopped > self.pause_limit).then_some((sent, elapsed + stopped)),
            None => (elapsed > self.limits.limit(sent.rows)).then_some((sent, elapsed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use step::{SeqId, SeqRun};

    /// A step of this many rows.
    fn plan(step: u64, rows: usize) -> StepPlan {
        let (new_blocks, draft_tokens) = (Vec::new(), Vec::new());
        let run = SeqRun { seq: SeqId(0), start: 0, len: rows, new_blocks, draft_tokens, sample: true, masked: false };
        StepPlan { step: StepId(step), new: Vec::new(), retired: Vec::new(), runs: vec![run] }
    }

    const LEAST: Duration = Duration::from_secs(10);
    const PAUSE_LIMIT: Duration = Duration::from_secs(600);

    struct Watched {
        watchdog: Watchdog,
        start: Instant,
        now: Instant,
    }

    impl Watched {
        fn new() -> Self {
            let now = Instant::now();
            Self { watchdog: Watchdog::new(StepTimeLimits::of_coordinator(LEAST), PAUSE_LIMIT), start: now, now }
        }

        /// Asks for so long, or until the step is late: whether it is.
        fn ask(&mut self, seconds: f64, stopped: bool) -> bool {
            let end = self.now + Duration::from_secs_f64(seconds);
            while self.now < end {
                self.now += Watchdog::ASK_EVERY.min(end - self.now);
                if self.watchdog.late(self.now, || stopped).is_some() {
                    return true;
                }
            }
            false
        }

        fn seconds(&self) -> f64 {
            (self.now - self.start).as_secs_f64()
        }
    }

    #[test]
    fn a_step_is_late_after_its_limit() {
        let mut watched = Watched::new();
        assert!(!watched.ask(1000.0, false), "nothing is in flight");
        watched.start = watched.now;
        watched.watchdog.sent(&plan(1, 1), watched.now);
        watched.watchdog.sent(&plan(2, 1), watched.now);
        assert!(!watched.ask(1.0, false));
        let (sent, taken) = watched.watchdog.answered(watched.now).expect("it was sent");
        assert_eq!((sent.step, taken), (StepId(1), Duration::from_secs(1)));
        // The next one begins when the one before it is answered, and may take 20 times as long.
        assert!(watched.ask(100.0, false));
        assert!((21.0..21.3).contains(&watched.seconds()), "{}", watched.seconds());
        let (sent, after) = watched.watchdog.late(watched.now, || false).expect("it is late");
        assert_eq!((sent.step, after.as_secs()), (StepId(2), 20));
    }

    #[test]
    fn pauses_of_the_coordinator_or_of_a_rank_are_no_time_of_a_step() {
        for pause in [9.0, 15.0, 70.0, 500.0] {
            let mut watched = Watched::new();
            watched.watchdog.sent(&plan(1, 1), watched.now);
            watched.watchdog.answered(watched.now + Duration::from_millis(50));
            watched.watchdog.sent(&plan(2, 1), watched.now);
            for _ in 0..3 {
                // The coordinator does not ask, and then sees others that do not run yet.
                watched.now += Duration::from_secs_f64(pause);
                assert!(!watched.ask(1.0, true) && watched.watchdog.sees_stopped(), "{pause} s");
                assert!(!watched.ask(0.5, false) && !watched.watchdog.sees_stopped(), "{pause} s");
                // A rank is stopped, or several in turn.
                assert!(!watched.ask(pause, true), "{pause} s");
                assert!(!watched.ask(0.5, false), "{pause} s");
            }
            let (_, taken) = watched.watchdog.answered(watched.now).expect("it was sent");
            assert!((3.0..5.0).contains(&taken.as_secs_f64()), "{taken:?}");
        }
    }

    #[test]
    fn a_rank_that_stays_stopped_is_not_waited_for_for_ever() {
        let mut watched = Watched::new();
        watched.watchdog.sent(&plan(1, 1), watched.now);
        assert!(watched.ask(1000.0, true));
        assert!((600.0..601.0).contains(&watched.seconds()), "{}", watched.seconds());
    }
}
