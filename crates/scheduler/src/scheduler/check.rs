//! The invariants of the scheduler's state, checked against a count made anew.

use super::{Scheduler, Slot};
use std::collections::{HashMap, HashSet};
use step::{BLOCK_TOKENS, SeqId};

impl Scheduler {
    /// Checks every invariant; to be called when there is time.
    ///
    /// # Panics
    ///
    /// If one does not hold.
    pub fn check(&self) {
        // How many steps in flight name each sequence, and how many of these sample.
        let mut named: HashMap<SeqId, (usize, usize, usize)> = HashMap::new();
        for run in self.in_flight.iter().flat_map(|pending| &pending.runs) {
            let counts = named.entry(run.seq).or_default();
            *counts = (counts.0 + 1, counts.1 + usize::from(run.sampled), counts.2 + run.len);
        }
        let mut order: HashSet<_> = self.order.iter().copied().collect();
        assert_eq!(order.len(), self.order.len(), "a sequence runs twice");
        let mut users = vec![0; self.pool.total()];
        let (mut reserved, mut running, mut computing) = (0, 0, 0);
        for (slot, sequence) in self.sequences.iter() {
            assert_eq!(self.slots.get(&sequence.seq), Some(&slot), "a sequence is not where it is looked for");
            sequence.blocks.iter().for_each(|block| users[block.0 as usize] += 1);
            assert_eq!(sequence.blocks.len(), sequence.planned.div_ceil(BLOCK_TOKENS), "blocks for what is computed");
            reserved += sequence.blocks_max.checked_sub(sequence.blocks.len()).expect("no more blocks than reserved");
            let in_flight = sequence.planned - sequence.computed;
            let counts = (sequence.in_flight, sequence.sampling, in_flight);
            assert_eq!(counts, named.remove(&sequence.seq).unwrap_or_default(), "sequence {}", sequence.seq);
            assert!(sequence.ended || order.remove(&(slot, sequence.seq)), "a sequence is to run, and is not in order");
            assert!(!sequence.ended || sequence.in_flight > 0, "an ended sequence stays only while a step names it");
            running += usize::from(!sequence.ended);
            computing += usize::from(sequence.computing.is_some());
            let published = sequence.blocks.iter().take(sequence.prefix.blocks);
            assert!(published.copied().all(|block| self.pool.is_known(block)), "a published block is not known");
        }
        assert!(named.is_empty(), "a step in flight names a sequence that is forgotten");
        assert_eq!((self.slots.len(), self.running), (self.sequences.len(), running), "sequences do not add up");
        assert_eq!(self.computing.len(), computing, "a content is said to be computed, and is not");
        let computed_by = |(content, &slot): (_, &Slot)| self.sequences[slot].computing.as_ref() == Some(content);
        assert!(self.computing.iter().all(computed_by), "a content is computed by another");
        self.pool.check(&users, reserved);
    }
}
