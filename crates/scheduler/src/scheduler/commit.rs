//! What becomes of the ranks' results.

use super::{PendingRun, Scheduler, Slot};
use crate::sequence::Prefix;
use crate::types::{CommitError, Event};
use step::{BLOCK_TOKENS, SeqOutput, StepResult};

impl Scheduler {
    /// Takes the result of the oldest step in flight. What it says of sequences that have ended is dropped.
    ///
    /// # Errors
    ///
    /// [`CommitError`] if the result is not that of the plan; then nothing has changed.
    ///
    /// # Panics
    ///
    /// Never, but for a bug here.
    pub fn commit(&mut self, result: StepResult) -> Result<Vec<Event>, CommitError> {
        self.verify(&result)?;
        let pending = self.in_flight.pop_front().expect("verified");
        self.totals.steps += 1;
        let mut outputs = result.outputs.into_iter().peekable();
        let mut events = Vec::with_capacity(pending.runs.len());
        for PendingRun { slot, seq, len, sampled } in pending.runs {
            self.totals.rows += len as u64;
            let output = outputs.next_if(|output| output.seq == seq);
            let sequence = &mut self.sequences[slot];
            sequence.in_flight -= 1;
            sequence.sampling -= usize::from(sampled);
            sequence.computed += len;
            if !sequence.ended {
                self.emit_started(slot, &mut events);
                let ends = output.is_some_and(|output| self.take_output(slot, output, &mut events));
                self.publish(slot);
                if ends {
                    self.end(slot);
                }
            }
            self.forget_if_done(slot);
        }
        Ok(events)
    }

    /// Holds a result against the plan of the oldest step in flight.
    fn verify(&self, result: &StepResult) -> Result<(), CommitError> {
        let step = result.step.0;
        let oldest = self.in_flight.front();
        let Some(pending) = oldest.filter(|pending| pending.step == result.step) else {
            return Err(CommitError::Order { expected: oldest.map(|pending| pending.step.0), found: step });
        };
        let mut outputs = result.outputs.iter().peekable();
        for &PendingRun { seq, sampled, .. } in &pending.runs {
            let output = outputs.next_if(|output| output.seq == seq);
            let (expected, found) = (usize::from(sampled), output.map_or(0, |output| output.samples.len()));
            if found != expected {
                return Err(CommitError::Samples { step, seq, expected, found });
            }
        }
        match outputs.next() {
            Some(output) => Err(CommitError::Misplaced { step, seq: output.seq }),
            None => Ok(()),
        }
    }

    /// Tells that a sequence has run, if that is news.
    fn emit_started(&mut self, slot: Slot, events: &mut Vec<Event>) {
        let sequence = &mut self.sequences[slot];
        if let Some(cached_tokens) = sequence.cached.take() {
            self.totals.started += 1;
            self.totals.prompt_tokens += sequence.prompt_len as u64;
            self.totals.cached_tokens += cached_tokens as u64;
            events.push(Event::Started { seq: sequence.seq, cached_tokens });
        }
    }

    /// Turns what a run brought forth into events. Says whether the sequence ends with it.
    fn take_output(&mut self, slot: Slot, mut output: SeqOutput, events: &mut Vec<Event>) -> bool {
        let seq = output.seq;
        let sequence = &mut self.sequences[slot];
        sequence.take_scores(&mut output.prompt_logprobs);
        if !output.prompt_logprobs.is_empty() {
            events.push(Event::PromptLogprobs { seq, logprobs: output.prompt_logprobs });
        }
        for sample in output.samples {
            self.totals.generated_tokens += 1;
            sequence.tokens.push(sample.token.id);
            let finish = sequence.spec.finish(sample.token.id, sequence.generated());
            events.push(Event::Token { seq, sample, finish });
            if finish.is_some() {
                return true;
            }
        }
        false
    }

    /// Makes the full blocks of a sequence known that have been computed.
    fn publish(&mut self, slot: Slot) {
        let sequence = &mut self.sequences[slot];
        let full = sequence.computed / BLOCK_TOKENS;
        if !sequence.publishes || sequence.prefix.blocks == full {
            return;
        }
        while sequence.publishes && sequence.prefix.blocks < full {
            let Prefix { blocks, id } = sequence.prefix;
            match self.pool.publish(sequence.blocks[blocks], sequence.content(blocks, id)) {
                Some(id) => sequence.prefix = Prefix { blocks: blocks + 1, id },
                None => sequence.publishes = false,
            }
        }
        self.update_in_progress_prefix(slot);
    }
}
