//! One sequence, as its caller sees it.

use crate::Update;
use crate::event::{Event, Sender};
use std::task::{Context, Poll};
use step::SeqId;
use tokio::sync::mpsc;

/// A sequence that is queued or runs. Dropping it ends the sequence: no step that is planned afterwards contains it.
pub struct Generation {
    pub(crate) updates: mpsc::UnboundedReceiver<Update>,
    pub(crate) end: EndSequence,
}

/// Ends its sequence when it is dropped.
#[derive(Clone)]
pub struct EndSequence {
    pub(crate) seq: SeqId,
    pub(crate) events: Sender,
}

impl Generation {
    /// The next update; `None` after the one that finishes or fails the sequence.
    pub async fn next(&mut self) -> Option<Update> {
        self.updates.recv().await
    }

    /// The same for those who poll.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Update>> {
        self.updates.poll_recv(cx)
    }

    /// Whether an update waits to be taken.
    #[must_use]
    pub fn has_next(&self) -> bool {
        !self.updates.is_empty()
    }

    /// What ends the sequence when it is dropped, for those who may have to do so while another holds the generation.
    #[must_use]
    pub fn end(&self) -> EndSequence {
        self.end.clone()
    }

    /// The next update if it is there already.
    pub fn try_next(&mut self) -> Option<Update> {
        self.updates.try_recv().ok()
    }
}

impl Drop for EndSequence {
    fn drop(&mut self) {
        self.events.send(Event::Abort(self.seq));
    }
}
