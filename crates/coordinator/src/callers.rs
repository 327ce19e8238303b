//! Who waits for which sequence.

use crate::Update;
use std::collections::HashMap;
use step::SeqId;
use tokio::sync::mpsc;

/// The ways to those who wait for sequences that have not ended. Who is gone has sent an abort; what is sent meanwhile is lost.
#[derive(Default)]
pub(crate) struct Callers(HashMap<SeqId, mpsc::UnboundedSender<Update>>);

impl Callers {
    pub(crate) fn add(&mut self, seq: SeqId, updates: mpsc::UnboundedSender<Update>) {
        self.0.insert(seq, updates);
    }

    /// Whether somebody waited for it.
    pub(crate) fn remove(&mut self, seq: SeqId) -> bool {
        self.0.remove(&seq).is_some()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sends what a sequence brings to who waits for it.
    pub(crate) fn deliver(&mut self, event: scheduler::Event) {
        let (seq, update, last) = match event {
            scheduler::Event::Started { seq, cached_tokens } => (seq, Update::Started { cached_tokens }, false),
            scheduler::Event::PromptLogprobs { seq, logprobs } => (seq, Update::PromptLogprobs(logprobs), false),
            scheduler::Event::Token { seq, sample, finish } => {
                (seq, Update::Token { sample, finish }, finish.is_some())
            }
        };
        if let Some(updates) = self.0.get(&seq) {
            let _ = updates.send(update);
        }
        if last {
            self.0.remove(&seq);
        }
    }

    /// Tells all that their sequences cannot be finished, if there is a reason; the others' streams just end.
    pub(crate) fn end_all(&mut self, reason: Option<&str>) {
        for (_, updates) in self.0.drain() {
            if let Some(reason) = reason {
                let _ = updates.send(Update::Failed { reason: reason.to_owned() });
            }
        }
    }
}
