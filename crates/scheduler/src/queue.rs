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
/// most `(n + 1)·(OVERTAKEN_MAX + 1)` admissions, but for those that a restart puts before all.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// By [`Priority`], the lowest first; behind these [`RESUMED`].
    classes: [Class; 4],
    /// Sequences that have been admitted, without those of [`RESUMED`].
    admitted: u64,
    /// Sequences of [`RESUMED`] that are not to be admitted yet. While there may be some, those of other classes are not either.
    held: Option<VecDeque<Box<Sequence>>>,
}

/// The class of those that ran when the ranks were lost.
const RESUMED: usize = 3;

#[derive(Debug, Default)]
struct Class {
    waiting: VecDeque<Box<Sequence>>,
    /// `admitted` when the one that is the first became so.
    first_since: u64,
}

/// A place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueuePosition {
    pub(crate) class: usize,
    pub(crate) index: usize,
}

impl Queue {
    /// From the first to be admitted to the last.
    const CLASSES: [usize; 4] = [RESUMED, Priority::High as usize, Priority::Normal as usize, Priority::Low as usize];

    pub(crate) fn len(&self) -> usize {
        let held = self.held.as_ref().map_or(0, VecDeque::len);
        self.classes.iter().map(|class| class.waiting.len()).sum::<usize>() + held
    }

    /// The classes from which sequences may be admitted now, the first of them first.
    pub(crate) fn open_classes(&self) -> &'static [usize] {
        const ALL: &[usize] = &Queue::CLASSES;
        if self.held.is_some() { &ALL[..1] } else { ALL }
    }

    /// Puts a sequence that ran before all that did not, and behind those that ran and came earlier.
    pub(crate) fn resume(&mut self, sequence: Sequence) {
        let waiting = &mut self.classes[RESUMED].waiting;
        let place = waiting.partition_point(|other| other.seq < sequence.seq);
        waiting.insert(place, Box::new(sequence));
    }

    /// From now on only `seqs` are admitted of those that wait; all again if that is `None`.
    pub(crate) fn admit_only(&mut self, seqs: Option<&[SeqId]>) {
        let mut resumed = self.held.take().unwrap_or_default();
        resumed.extend(self.classes[RESUMED].waiting.drain(..));
        resumed.make_contiguous().sort_by_key(|sequence| sequence.seq);
        let (admitted, held) = match seqs {
            None => (resumed, None),
            Some(seqs) => {
                let (admitted, held) = resumed.into_iter().partition(|sequence| seqs.contains(&sequence.seq));
                (admitted, Some(held))
            }
        };
        self.classes[RESUMED].waiting = admitted;
        self.held = held;
    }

    pub(crate) fn push(&mut self, sequence: Sequence) {
        let class = &mut self.classes[sequence.spec.priority as usize];
        if class.waiting.is_empty() {
            class.first_since = self.admitted;
        }
        class.waiting.push_back(Box::new(sequence));
    }

    pub(crate) fn get_mut(&mut self, place: QueuePosition) -> Option<&mut Sequence> {
        self.classes[place.class].waiting.get_mut(place.index).map(|sequence| &mut **sequence)
    }

    /// Takes out the sequence at a place that is taken, since it is admitted.
    pub(crate) fn admit(&mut self, place: QueuePosition) -> Box<Sequence> {
        self.admitted += u64::from(place.class != RESUMED);
        self.remove(place)
    }

    /// Takes out the sequence of that id, if it waits.
    pub(crate) fn withdraw(&mut self, seq: SeqId) -> bool {
        if let Some(index) = self.held.iter().flatten().position(|sequence| sequence.seq == seq) {
            self.held.as_mut().expect("it has it").remove(index);
            return true;
        }
        let place = Self::CLASSES.iter().find_map(|&class| {
            let index = self.classes[class].waiting.iter().position(|sequence| sequence.seq == seq)?;
            Some(QueuePosition { class, index })
        });
        place.map(|place| self.remove(place)).is_some()
    }

    /// Whether the sequence of that id waits.
    pub(crate) fn contains(&self, seq: SeqId) -> bool {
        let waiting = self.classes.iter().flat_map(|class| &class.waiting);
        waiting.chain(self.held.iter().flatten()).any(|sequence| sequence.seq == seq)
    }

    /// The first of the classes that nobody may overtake any more; among several the one that came first.
    pub(crate) fn must_run_next(&self) -> Option<QueuePosition> {
        if !self.classes[RESUMED].waiting.is_empty() {
            return None;
        }
        let overdue = self.open_classes().iter().filter_map(|&class| {
            let Class { waiting, first_since } = &self.classes[class];
            let first = waiting.front().filter(|_| self.admitted - first_since >= OVERTAKEN_MAX)?;
            Some((first.seq, QueuePosition { class, index: 0 }))
        });
        overdue.min_by_key(|(seq, _)| *seq).map(|(_, place)| place)
    }

    fn remove(&mut self, place: QueuePosition) -> Box<Sequence> {
        let class = &mut self.classes[place.class];
        if place.index == 0 {
            class.first_since = self.admitted;
        }
        class.waiting.remove(place.index).expect("the place is taken")
    }
}
