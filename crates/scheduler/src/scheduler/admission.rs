//! Who runs in a step besides the sequences that decode: prompts that have begun, and sequences that are admitted.

use super::prompt_rows::PromptRows;
use super::{Draft, PendingRun, Scheduler, Slot};
use crate::pool::BlockContent;
use crate::queue::QueuePosition;
use step::{BLOCK_TOKENS, SeqRun};

/// How many sequences of a class are looked at for one that can be admitted.
const LOOK_AHEAD: usize = 16;

impl Scheduler {
    /// Plans what `rows` allow of `prompts`, which run already, and of those that wait.
    pub(super) fn run_prompts(&mut self, rows: usize, mut prompts: Vec<Slot>, draft: &mut Draft) {
        let mut rows = PromptRows::new(rows);
        self.share_out(&mut rows, &mut prompts, draft);
        rows.open_to_all();
        if let Some(index) = draft.truncated_run.take() {
            let wanted = self.sequences[draft.runs[index].slot].wanted();
            let len = rows.take(wanted);
            self.extend(index, len, draft);
            draft.truncated_run = (len < wanted).then_some(index);
        }
        self.share_out(&mut rows, &mut prompts, draft);
    }

    /// Gives rows to prompts in their order, then to those that wait in theirs.
    fn share_out(&mut self, rows: &mut PromptRows, prompts: &mut Vec<Slot>, draft: &mut Draft) {
        prompts.retain(|&slot| {
            let len = rows.take(self.sequences[slot].wanted());
            if len > 0 {
                self.run(slot, len, draft);
            }
            len == 0
        });
        self.admit_waiting(rows, draft);
    }

    /// Admits the waiting sequences that fit, in order of priority and arrival.
    fn admit_waiting(&mut self, rows: &mut PromptRows, draft: &mut Draft) {
        let mut too_large = None;
        while let Some(place) = self.queue.must_run_next() {
            if !self.admit_at(place, true, rows, &mut too_large, draft) {
                return;
            }
        }
        for &class in self.queue.open_classes() {
            let mut place = QueuePosition { class, index: 0 };
            while place.index < LOOK_AHEAD && self.queue.get_mut(place).is_some() {
                if rows.left() == 0 || self.running >= self.config.sequences_max {
                    return;
                }
                if !self.admit_at(place, false, rows, &mut too_large, draft) {
                    place.index += 1;
                }
            }
        }
    }

    /// Admits the sequence at a place if there is room for it, and nothing for which it should wait. `too_large` is how
    /// many blocks the first has for which there were not enough: only much smaller ones may overtake it.
    fn admit_at(
        &mut self,
        place: QueuePosition,
        overdue: bool,
        rows: &mut PromptRows,
        too_large: &mut Option<usize>,
        draft: &mut Draft,
    ) -> bool {
        let Self { pool, queue, sequences, computing, .. } = self;
        let sequence = queue.get_mut(place).expect("the place is taken");
        if self.running >= self.config.sequences_max || too_large.is_some_and(|blocks| sequence.blocks_max * 4 > blocks)
        {
            return false;
        }
        sequence.guess_prefix(pool);
        let wanted = sequence.tokens.len() - sequence.prefix.blocks * BLOCK_TOKENS;
        let computed_by_other = |content: &BlockContent| computing.get(content).map(|&slot| &sequences[slot]);
        if rows.offer(wanted) == 0 || !overdue && sequence.should_wait(computed_by_other) {
            return false;
        }
        let shared = sequence.prefix_blocks(pool);
        let idle = shared.iter().filter(|&&block| pool.is_unused(block)).count();
        let to_reserve = sequence.blocks_max - shared.len();
        if to_reserve + idle > pool.available() {
            too_large.get_or_insert(sequence.blocks_max);
            return false;
        }
        shared.iter().for_each(|&block| pool.share(block));
        assert!(pool.reserve(to_reserve), "there is room for it");
        let mut sequence = *queue.admit(place);
        sequence.start_behind(shared);
        draft.plan.new.push(sequence.to_new_sequence());
        let seq = sequence.seq;
        let slot = self.sequences.insert(sequence);
        self.slots.insert(seq, slot);
        self.order.push((slot, seq));
        self.running += 1;
        self.update_in_progress_prefix(slot);
        self.run(slot, rows.take(wanted), draft);
        true
    }

    /// Adds a run of `len` tokens, of which the sequence wants at least so many.
    pub(super) fn run(&mut self, slot: Slot, len: usize, draft: &mut Draft) {
        let sequence = &mut self.sequences[slot];
        sequence.in_flight += 1;
        let (seq, is_truncated) = (sequence.seq, len < sequence.wanted());
        draft.plan.runs.push(SeqRun {
            seq,
            start: sequence.planned,
            len: 0,
            new_blocks: Vec::new(),
            draft_tokens: Vec::new(),
            sample: false,
            masked: false,
        });
        draft.runs.push(PendingRun { slot, seq, len: 0, sampled: false });
        let index = draft.runs.len() - 1;
        self.extend(index, len, draft);
        if is_truncated {
            draft.truncated_run = Some(index);
        }
    }

    /// Adds `len` tokens to a run that was cut short.
    fn extend(&mut self, index: usize, len: usize, draft: &mut Draft) {
        let (run, pending) = (&mut draft.plan.runs[index], &mut draft.runs[index]);
        let sequence = &mut self.sequences[pending.slot];
        for _ in 0..sequence.blocks_wanted(len) {
            sequence.blocks.push(self.pool.take_reserved());
        }
        run.new_blocks.extend_from_slice(&sequence.blocks[sequence.blocks_sent..]);
        sequence.blocks_sent = sequence.blocks.len();
        run.sample = sequence.samples_after(len);
        sequence.sampling += usize::from(run.sample);
        sequence.planned += len;
        run.len += len;
        (pending.len, pending.sampled) = (run.len, run.sample);
    }
}
