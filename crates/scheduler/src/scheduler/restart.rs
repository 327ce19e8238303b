//! What becomes of the sequences when the ranks are lost and others take their place.

use super::Scheduler;
use step::SeqId;

/// A sequence that a lost step named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Which sequence.
    pub seq: SeqId,
    /// How many of its positions would have been computed with the steps in flight.
    pub reached: usize,
}

impl Scheduler {
    /// Begins anew with ranks that know nothing: what was in flight is lost, no block is used or known, and steps are counted from 0.
    /// The sequences that ran wait before all others, in the order in which they came, with the tokens that they have; what their callers have
    /// heard, they do not hear again. Returns those that a step in flight named, oldest first.
    pub fn restart(&mut self) -> Vec<Lost> {
        let named: Vec<SeqId> = self.in_flight.drain(..).flat_map(|step| step.runs).map(|run| run.seq).collect();
        let mut lost = Vec::new();
        for (slot, seq) in std::mem::take(&mut self.order) {
            // One that has ended may have left its place to another.
            if self.sequences.get(slot).is_none_or(|sequence| sequence.seq != seq || sequence.ended) {
                continue;
            }
            let mut sequence = self.sequences.remove(slot);
            if named.contains(&seq) {
                lost.push(Lost { seq, reached: sequence.planned });
            }
            sequence.restart(self.config.prefix_cache);
            self.queue.resume(sequence);
        }
        self.sequences.clear();
        self.slots.clear();
        self.computing.clear();
        self.retired.clear();
        self.pool.clear();
        (self.running, self.next_step) = (0, 0);
        lost
    }

    /// Of the sequences that wait, only `seqs` are admitted from now on; `None`: all again. Those that run go on.
    pub fn admit_only(&mut self, seqs: Option<&[SeqId]>) {
        self.queue.admit_only(seqs);
    }

    /// How many positions of a sequence are computed, as far as is known; `None` if it has ended.
    #[must_use]
    pub fn computed(&self, seq: SeqId) -> Option<usize> {
        match self.slots.get(&seq) {
            Some(&slot) => Some(&self.sequences[slot]).filter(|sequence| !sequence.ended).map(|s| s.computed),
            None => self.queue.contains(seq).then_some(0),
        }
    }
}
