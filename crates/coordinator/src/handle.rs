//! The way to a running coordinator.

use crate::drive::Driver;
use crate::event::{Event, Sender};
use crate::generation::{EndSequence, Generation};
use crate::requests::Caller;
use crate::{CoordinatorConfig, Observer, Status, Workers};
use scheduler::{Occupancy, Submission, Totals};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use step::{BLOCK_TOKENS, SeqId};
use tokio::sync::{mpsc, watch};

/// What is going on, and what has been done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// What is going on.
    pub load: Occupancy,
    /// What has been done so far.
    pub totals: Totals,
}

/// A running coordinator. Clones lead to the same one; it lives until it is drained, stopped, or fails for good.
#[derive(Clone)]
pub struct Coordinator {
    events: Sender,
    status: watch::Receiver<Status>,
    activity: watch::Receiver<Activity>,
    next_seq: Arc<AtomicU64>,
    kv_tokens: usize,
}

/// Why a sequence was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum SubmitError {
    /// The workers are still loading.
    #[error("the model is loading")]
    Loading,
    /// The server is about to end.
    #[error("the server is shutting down")]
    Draining,
    /// A worker has failed.
    #[error("the model is not available: {reason}")]
    Failed { reason: String },
}

impl Coordinator {
    /// Starts the workers and, once they are ready, serves. Returns at once; [`Coordinator::status`] tells how it goes, and
    /// `observer` hears of every step.
    ///
    /// Must be called within a tokio runtime.
    #[must_use]
    pub fn start(config: CoordinatorConfig, workers: Workers, observer: Arc<dyn Observer>) -> Self {
        let (events_to, events) = Sender::channel();
        let (status_to, status) = watch::channel(Status::Loading { done: 0, total: 0 });
        let (activity_to, activity) = watch::channel(Activity::default());
        let kv_tokens = config.kv_blocks as usize * BLOCK_TOKENS;
        let driver = Driver::new(config, workers, events_to.clone(), status_to.clone(), activity_to, observer);
        let driving = tokio::spawn(driver.run(events));
        tokio::spawn(async move {
            if let Err(panic) = driving.await {
                status_to.send_replace(Status::Failed { reason: format!("the coordinator has a bug: {panic}") });
            }
        });
        Self { events: events_to, status, activity, next_seq: Arc::new(AtomicU64::new(0)), kv_tokens }
    }

    /// How the model is, now and from now on.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// What is going on, as of the last step.
    #[must_use]
    pub fn activity(&self) -> Activity {
        *self.activity.borrow()
    }

    /// Tokens for which the KV cache has room.
    #[must_use]
    pub fn kv_tokens(&self) -> usize {
        self.kv_tokens
    }

    /// Queues a sequence.
    ///
    /// # Errors
    ///
    /// [`SubmitError`], when nothing is accepted now.
    pub fn submit(&self, submission: Submission) -> Result<Generation, SubmitError> {
        self.submit_traced(submission, 0)
    }

    /// Queues a sequence whose caller hears of the first `steps` that have rows of it, too.
    ///
    /// # Errors
    ///
    /// As [`Coordinator::submit`].
    pub fn submit_traced(&self, submission: Submission, steps: usize) -> Result<Generation, SubmitError> {
        match &*self.status.borrow() {
            Status::Ready { .. } | Status::Recovering { .. } => {}
            Status::Loading { .. } => return Err(SubmitError::Loading),
            Status::Draining | Status::Stopped => return Err(SubmitError::Draining),
            Status::Failed { reason } => return Err(SubmitError::Failed { reason: reason.clone() }),
        }
        let seq = SeqId(self.next_seq.fetch_add(1, Ordering::Relaxed));
        // A reader that stands still leaves as many updates here as the sequence may have tokens, and no more.
        let (updates_to, updates) = mpsc::unbounded_channel();
        // If the coordinator ends meanwhile, the event is dropped with the sender of updates, and the stream just ends.
        self.events.send(Event::Submit { seq, submission, caller: Caller { updates: updates_to, steps } });
        Ok(Generation { updates, end: EndSequence { seq, events: self.events.clone() } })
    }

    /// Accepts nothing from now on, finishes what was accepted, and ends the workers.
    pub fn drain(&self) {
        self.events.send(Event::Drain);
    }

    /// Ends the workers at once.
    pub fn stop(&self) {
        self.events.send(Event::Stop);
    }

    /// Waits until every worker process has ended, and says how the model was then: [`Status::Stopped`] or
    /// [`Status::Failed`].
    pub async fn ended(&self) -> Status {
        // The driver keeps the events' receiver until all processes are gone.
        self.events.closed().await;
        let mut status = self.status.clone();
        let ended = |status: &Status| matches!(status, Status::Stopped | Status::Failed { .. });
        // The last status stays when its sender is gone.
        let last = status.wait_for(ended).await.map(|status| status.clone());
        last.unwrap_or_else(|_| self.status.borrow().clone())
    }
}
