//! Whether ranks that have nothing to do still answer. Pure: it is told what happens when, and is asked again and again.

use std::time::Duration;
use timeouts::Stopwatch;
use tokio::time::Instant;

/// How long nothing is done before the ranks are asked, and from one answer of all to the next question.
const ASK_AFTER: Duration = Duration::from_secs(5);

/// The question that all ranks are asked, or the time until it is.
#[derive(Debug)]
pub(crate) struct IdleWatch {
    /// How long an answer may take.
    limit: Duration,
    /// How long a rank may be stopped by a signal meanwhile.
    pause_limit: Duration,
    idle_since: Option<Instant>,
    asked: Option<Asked>,
}

#[derive(Debug)]
struct Asked {
    clock: Stopwatch,
    /// Whose answer is missing.
    missing: Vec<bool>,
}

impl IdleWatch {
    pub(crate) fn new(limit: Duration, pause_limit: Duration) -> Self {
        Self { limit, pause_limit, idle_since: None, asked: None }
    }

    /// The ranks are at work: that they answer is seen there.
    pub(crate) fn busy(&mut self) {
        (self.idle_since, self.asked) = (None, None);
    }

    /// The `world` ranks have nothing to do. Whether to ask them now.
    pub(crate) fn is_due(&mut self, world: usize, now: Instant) -> bool {
        let since = *self.idle_since.get_or_insert(now);
        let due = self.asked.is_none() && now - since >= ASK_AFTER;
        if due {
            self.asked = Some(Asked { clock: Stopwatch::start(now.into_std()), missing: vec![true; world] });
        }
        due
    }

    /// A rank has answered.
    pub(crate) fn answered(&mut self, rank: usize, now: Instant) {
        let Some(asked) = &mut self.asked else { return };
        asked.missing[rank] = false;
        if !asked.missing.contains(&true) {
            (self.idle_since, self.asked) = (Some(now), None);
        }
    }

    /// Whether an answer is waited for.
    pub(crate) fn is_waiting(&self) -> bool {
        self.asked.is_some()
    }

    /// Whether this rank's answer is waited for.
    pub(crate) fn is_missing(&self, rank: usize) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.missing[rank])
    }

    /// For how long the answers have been waited for, if that is too long; time in which this process, or a rank that has not answered,
    /// is stopped has a limit of its own. To be asked at least every [`Stopwatch::READ_EVERY`].
    pub(crate) fn late(&mut self, now: Instant, is_stopped: impl FnOnce() -> bool) -> Option<Duration> {
        let asked = self.asked.as_mut()?;
        let elapsed = asked.clock.elapsed(now.into_std(), is_stopped);
        match asked.clock.stopped_for() {
            Some(stopped) => (stopped > self.pause_limit).then_some(elapsed + stopped),
            None => (elapsed > self.limit).then_some(elapsed),
        }
    }

    /// Whether a rank that has not answered was stopped when that was asked last.
    pub(crate) fn sees_stopped(&self) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.clock.stopped_for().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Asks for so long whether an answer is late; after how long it was.
    fn late_after(watch: &mut IdleWatch, start: Instant, limit: Duration, stopped: bool) -> Option<Duration> {
        let mut now = start;
        while now < start + limit {
            now += Stopwatch::READ_EVERY;
            if watch.late(now, || stopped).is_some() {
                return Some(now - start);
            }
        }
        None
    }

    #[test]
    fn ranks_are_asked_when_they_have_been_idle_and_again_when_all_have_answered() {
        let (mut watch, start) = (IdleWatch::new(10 * SECOND, 600 * SECOND), Instant::now());
        assert!(!watch.is_due(2, start) && !watch.is_due(2, start + 4 * SECOND));
        watch.busy();
        assert!(!watch.is_due(2, start + 6 * SECOND), "it was busy");
        assert!(watch.is_due(2, start + 11 * SECOND) && !watch.is_due(2, start + 12 * SECOND));
        watch.answered(1, start + 12 * SECOND);
        assert!(watch.is_missing(0) && !watch.is_missing(1));
        watch.answered(0, start + 12 * SECOND);
        assert!(!watch.is_waiting() && !watch.is_due(2, start + 16 * SECOND));
        assert!(watch.is_due(2, start + 17 * SECOND));
    }

    #[test]
    fn a_rank_that_does_not_answer_is_late_and_a_stopped_one_later() {
        for (stopped, limit) in [(false, 10), (true, 600)] {
            let (mut watch, start) = (IdleWatch::new(10 * SECOND, 600 * SECOND), Instant::now());
            assert!(!watch.is_due(1, start) && watch.is_due(1, start + 5 * SECOND));
            let after = late_after(&mut watch, start + 5 * SECOND, 1000 * SECOND, stopped).expect("it is late");
            assert!((limit * SECOND..(limit + 1) * SECOND).contains(&after), "{after:?}");
            assert_eq!(watch.sees_stopped(), stopped);
        }
    }

    #[test]
    fn ranks_that_begin_to_work_are_not_late() {
        let (mut watch, start) = (IdleWatch::new(10 * SECOND, 600 * SECOND), Instant::now());
        assert!(!watch.is_due(1, start) && watch.is_due(1, start + 5 * SECOND));
        watch.busy();
        assert_eq!(late_after(&mut watch, start + 5 * SECOND, 100 * SECOND, false), None);
    }
}
