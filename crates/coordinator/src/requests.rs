//! Who waits for which sequence. It outlives the ranks; what a sequence has brought so far, the scheduler knows.

use crate::{StepRecord, Update};
use std::collections::HashMap;
use std::sync::Arc;
use step::{SeqId, StepPlan};
use tokio::sync::mpsc;

/// The ways to those who wait for sequences that have not ended. Who is gone has sent an abort; what is sent meanwhile is lost.
#[derive(Default)]
pub(crate) struct Requests {
    callers: HashMap<SeqId, Caller>,
    /// How many of them hear of more steps.
    traced: usize,
}

/// The way to one of them.
pub(crate) struct Caller {
    pub(crate) updates: mpsc::UnboundedSender<Update>,
    /// Of how many more steps it hears.
    pub(crate) steps: usize,
}

impl Requests {
    pub(crate) fn add(&mut self, seq: SeqId, caller: Caller) {
        self.traced += usize::from(caller.steps > 0);
        self.callers.insert(seq, caller);
    }

    /// Whether somebody waited for it.
    pub(crate) fn remove(&mut self, seq: SeqId) -> bool {
        let caller = self.callers.remove(&seq);
        self.traced -= usize::from(caller.as_ref().is_some_and(|caller| caller.steps > 0));
        caller.is_some()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.callers.is_empty()
    }

    /// The sequences of a step whose callers hear of it.
    pub(crate) fn traced(&self, plan: &StepPlan) -> Vec<SeqId> {
        if self.traced == 0 {
            return Vec::new();
        }
        let is_traced = |seq: &SeqId| self.callers.get(seq).is_some_and(|caller| caller.steps > 0);
        plan.runs.iter().map(|run| run.seq).filter(is_traced).collect()
    }

    /// Tells who waits for these sequences of their step.
    pub(crate) fn tell(&mut self, traced: &[SeqId], step: &StepRecord) {
        if traced.is_empty() {
            return;
        }
        let step = Arc::new(step.clone());
        for seq in traced {
            let Some(caller) = self.callers.get_mut(seq).filter(|caller| caller.steps > 0) else { continue };
            let _ = caller.updates.send(Update::Step(step.clone()));
            caller.steps -= 1;
            self.traced -= usize::from(caller.steps == 0);
        }
    }

    /// Sends what a sequence brings to who waits for it. Returns the sequence if it ends with that.
    pub(crate) fn deliver(&mut self, event: scheduler::Event) -> Option<SeqId> {
        let (seq, update, last) = match event {
            scheduler::Event::Started { seq, cached_tokens } => (seq, Update::Started { cached_tokens }, false),
            scheduler::Event::PromptLogprobs { seq, logprobs } => (seq, Update::PromptLogprobs(logprobs), false),
            scheduler::Event::Token { seq, sample, finish } => {
                (seq, Update::Token { sample, finish }, finish.is_some())
            }
        };
        if let Some(caller) = self.callers.get(&seq) {
            let _ = caller.updates.send(update);
        }
        last.then(|| {
            self.remove(seq);
            seq
        })
    }

    /// Tells who waits for a sequence that it cannot be finished.
    pub(crate) fn fail(&mut self, seq: SeqId, reason: &str) {
        if let Some(caller) = self.callers.get(&seq) {
            let _ = caller.updates.send(Update::Failed { reason: reason.to_owned() });
        }
        self.remove(seq);
    }

    /// Tells all that their sequences cannot be finished, if there is a reason; the others' streams just end.
    pub(crate) fn end_all(&mut self, reason: Option<&str>) {
        self.traced = 0;
        for (_, caller) in self.callers.drain() {
            if let Some(reason) = reason {
                let _ = caller.updates.send(Update::Lost { reason: reason.to_owned() });
            }
        }
    }
}
