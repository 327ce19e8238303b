//! What the loop reacts to, and the way there.

use crate::StepRecord;

use crate::fleet::RankEvent;
use crate::requests::Caller;
use scheduler::Submission;
use std::sync::Arc;
use step::{FinishReason, Sample, SeqId, StepResult};
use tokio::sync::mpsc;
use wire::control::TensorChecksum;

/// Everything that the loop reacts to.
pub(crate) enum Event {
    Submit {
        seq: SeqId,
        submission: Submission,
        caller: Caller,
    },
    Abort(SeqId),
    Drain,
    Stop,
    Rank {
        epoch: u64,
        rank: usize,
        event: RankEvent,
    },
    /// What a rank has read; that it is ready follows.
    Read {
        epoch: u64,
        rank: usize,
        checksums: Vec<TensorChecksum>,
    },
    /// A rank has answered that it is there.
    Pong {
        epoch: u64,
        rank: usize,
    },
    Result {
        epoch: u64,
        rank: usize,
        result: StepResult,
    },
}

/// Sends events; a loop that has ended does not care. What waits in the channel is bounded: by the sequences that are admitted,
/// each of which is submitted once and aborted once, and by two results of each rank.
#[derive(Clone)]
pub(crate) struct Sender(mpsc::UnboundedSender<Event>);

impl Sender {
    pub(crate) fn channel() -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (to, from) = mpsc::unbounded_channel();
        (Self(to), from)
    }

    pub(crate) fn send(&self, event: Event) {
        let _ = self.0.send(event);
    }

    /// Waits until the loop has ended.
    pub(crate) async fn closed(&self) {
        self.0.closed().await;
    }
}

/// Sends what happens to a rank of one epoch.
#[derive(Clone)]
pub(crate) struct RankSender {
    pub(crate) events: Sender,
    pub(crate) epoch: u64,
    pub(crate) rank: usize,
}

impl RankSender {
    pub(crate) fn event(&self, event: RankEvent) {
        self.events.send(Event::Rank { epoch: self.epoch, rank: self.rank, event });
    }

    pub(crate) fn read(&self, checksums: Vec<TensorChecksum>) {
        self.events.send(Event::Read { epoch: self.epoch, rank: self.rank, checksums });
    }

    pub(crate) fn pong(&self) {
        self.events.send(Event::Pong { epoch: self.epoch, rank: self.rank });
    }

    pub(crate) fn result(&self, result: StepResult) {
        self.events.send(Event::Result { epoch: self.epoch, rank: self.rank, result });
    }
}

/// What a sequence brings, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// The sequence runs. It comes once, before all that the sequence brings forth.
    Started {
        /// Tokens of the prompt that were known, and not computed anew.
        cached_tokens: usize,
    },
    /// A step that had rows of the sequence is done. It comes before what the step brought forth, and only where it was asked for.
    Step(Arc<StepRecord>),
    /// The model's log-probabilities of the next prompt tokens, from the second token of the prompt on.
    PromptLogprobs(Vec<f32>),
    /// A token.
    Token {
        /// The token, with what was asked for of those beside it.
        sample: Sample,
        /// Why the sequence ended with it, if it did.
        finish: Option<FinishReason>,
    },
    /// The sequence cannot be finished, and would not be elsewhere.
    Failed {
        /// What is wrong with it, or what the ranks said that fail whenever it runs.
        reason: String,
    },
    /// The ranks have failed, and are not started again.
    Lost {
        /// What they said.
        reason: String,
    },
}
