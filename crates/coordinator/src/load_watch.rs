//! Whether a load still goes on. Pure: it is asked again and again.

use std::time::Duration;

/// How far a load is: bytes read, and ranks that are ready.
pub(crate) type Mark = (u64, usize);

/// Counts the time without progress. It counts looks, not what a clock says: while this process itself is stopped, nobody looks.
#[derive(Debug)]
pub(crate) struct LoadWatch {
    limit: Duration,
    last: Mark,
    idle: Duration,
}

impl LoadWatch {
    /// How often it must be asked.
    pub(crate) const ASK_EVERY: Duration = Duration::from_secs(1);

    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, last: (0, 0), idle: Duration::ZERO }
    }

    /// For how long nothing has come, if that is too long.
    pub(crate) fn late(&mut self, now: Mark) -> Option<Duration> {
        if std::mem::replace(&mut self.last, now) == now {
            self.idle += Self::ASK_EVERY;
        } else {
            self.idle = Duration::ZERO;
        }
        (self.idle >= self.limit).then_some(self.idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_late_when_nothing_has_come_for_long() {
        let mut watch = LoadWatch::new(Duration::from_secs(3));
        assert_eq!([(0, 0), (0, 0), (7, 0), (7, 0), (7, 0)].map(|mark| watch.late(mark)), [None; 5]);
        assert_eq!([(7, 1), (7, 1), (7, 1)].map(|mark| watch.late(mark)), [None; 3]);
        assert_eq!(watch.late((7, 1)), Some(Duration::from_secs(3)));
    }
}
