//! Who waits, and in which order they are admitted.

use crate::sequence::Sequence;
use std::collections::VecDeque;
use step::{Priority, SeqId};

/// How many sequences may overtake the first of a class.
pub(crate) const OVERTAKEN_MAX: u64 = 64;

/// Sequences of each priority, first come first served.
///
/// Others may overtake the first of a class, for reasons that are the scheduler's; after [`OVERTAKEN_MAX`] times it is
/// *overdue*, and must run next. So a sequence with `n` others before it, of its class and above, waits for at
/// most `(n + 1)·(OVERTAKEN_MAX + 1)` admissions.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// By [`Priority`], the lowest first.
    classes: [Class; 3],
    /// Sequences that have been admitted.
    admitted: u64,
}

#[derive(Debug, Default)]
struct Class {
    waiting: VecDeque<Box<Sequence>>,
    /// `admitted` when the one that is the first became so.
    first_since: u64,
}

/// A place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueuePosition {
    pub(crate) class: Priority,
    pub(crate) index: usize,
}

impl Queue {
    /// From the first to be admitted to the last.
    pub(crate) const CLASSES: [Priority; 3] = [Priority::High, Priority::Normal, Priority::Low];

    pub(crate) fn len(&self) -> usize {
        self.classes.iter().map(|class| class.waiting.len()).sum()
    }

    pub(crate) fn push(&mut self, sequence: Sequence) {
        let class = &mut self.classes[sequence.spec.priority as usize];
        if class.waiting.is_empty() {
            class.first_since = self.admitted;
        }
        class.waiting.push_back(Box::new(sequence));
    }

    pub(crate) fn get_mut(&mut self, place: QueuePosition) -> Option<&mut Sequence> {
        self.classes[place.class as usize].waiting.get_mut(place.index).map(|sequence| &mut **sequence)
    }

    /// Takes out the sequence at a place that is taken, since it is admitted.
    pub(crate) fn admit(&mut self, place: QueuePosition) -> Box<Sequence> {
        self.admitted += 1;
        self.remove(place)
    }

    /// Takes out the sequence of that id, if it waits.
    pub(crate) fn withdraw(&mut self, seq: SeqId) -> bool {
        let place = Self::CLASSES.iter().find_map(|&class| {
            let index = self.classes[class as usize].waiting.iter().position(|sequence| sequence.seq == seq)?;
            Some(QueuePosition { class, index })
        });
        place.map(|place| self.remove(place)).is_some()
    }

    /// The first of the classes that nobody may overtake any more; among several the one that came first.
    pub(crate) fn must_run_next(&self) -> Option<QueuePosition> {
        let overdue = Self::CLASSES.into_iter().filter_map(|class| {
            let Class { waiting, first_since } = &self.classes[class as usize];
            let first = waiting.front().filter(|_| self.admitted - first_since >= OVERTAKEN_MAX)?;
            Some((first.seq, QueuePosition { class, index: 0 }))
        });
        overdue.min_by_key(|(seq, _)| *seq).map(|(_, place)| place)
    }

    fn remove(&mut self, place: QueuePosition) -> Box<Sequence> {
        let class = &mut self.classes[place.class as usize];
        if place.index == 0 {
            class.first_since = self.admitted;
        }
        class.waiting.remove(place.index).expect("the place is taken")
    }
}
