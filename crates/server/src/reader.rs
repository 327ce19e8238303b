//! What a stream holds for its reader, and its end when the reader stands still.

use crate::Error;
use crate::admission::Permit;
use coordinator::{Generation, Update};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// How often a reader is looked at within the limit for standing still.
const LOOKS: u32 = 4;

/// The reader's end of a stream. Dropping it ends all sequences.
pub(crate) struct Reader {
    hold: Arc<Mutex<Hold>>,
    /// Ends the sequences if the reader does not.
    watch: Option<AbortHandle>,
}

/// What a stream shares with the task that watches its reader.
#[derive(Default)]
pub(crate) struct Hold {
    generations: Vec<Generation>,
    /// One for each of them that has not ended.
    permits: Vec<Option<Permit>>,
    /// How often the reader has asked for a token.
    polls: u64,
    /// The limit that the reader broke.
    stalled: Option<Duration>,
}

impl Reader {
    pub(crate) fn new(hold: Hold) -> Self {
        Self { hold: Arc::new(Mutex::new(hold)), watch: None }
    }

    pub(crate) fn hold(&self) -> MutexGuard<'_, Hold> {
        lock(&self.hold)
    }

    /// Releases what is held once the deadline has passed, or tokens have lain untouched for `stall_limit`.
    pub(crate) fn watch(&mut self, deadline: Option<Instant>, stall_limit: Option<Duration>) {
        if deadline.is_some() || stall_limit.is_some() {
            let task = tokio::spawn(watch(self.hold.clone(), deadline, stall_limit));
            self.watch = Some(task.abort_handle());
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
        self.hold().release_all();
    }
}

impl Hold {
    pub(crate) fn add(&mut self, generation: Generation, permit: Permit) {
        self.generations.push(generation);
        self.permits.push(Some(permit));
    }

    pub(crate) fn poll_next(&mut self, index: usize, cx: &mut Context<'_>) -> Poll<Option<Update>> {
        self.polls += 1;
        self.generations[index].poll_next(cx)
    }

    pub(crate) fn try_next(&mut self, index: usize) -> Option<Update> {
        self.generations[index].try_next()
    }

    /// Why nothing comes any more, though no sequence has said its last.
    pub(crate) fn why_ended(&self) -> Error {
        self.stalled.map_or(Error::Incomplete, |limit| Error::Stalled { limit })
    }

    /// Ends a sequence and returns its permit. What it has brought can still be read.
    pub(crate) fn release(&mut self, index: usize) {
        if self.permits[index].take().is_some() {
            drop(self.generations[index].end());
        }
    }

    fn release_all(&mut self) {
        for index in 0..self.generations.len() {
            self.release(index);
        }
    }

    fn has_next(&self) -> bool {
        self.generations.iter().any(Generation::has_next)
    }
}

fn lock(hold: &Mutex<Hold>) -> MutexGuard<'_, Hold> {
    hold.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Releases what a stream holds once the deadline has passed, or its reader has left tokens untouched for the limit. That is
/// counted in looks, not by the clock: a process that was stopped for longer than the limit has not looked meanwhile.
async fn watch(hold: Arc<Mutex<Hold>>, deadline: Option<Instant>, stall_limit: Option<Duration>) {
    let (mut untouched, mut looks) = (None, 0);
    loop {
        let look = stall_limit.map(|limit| Instant::now() + limit / LOOKS);
        let Some(at) = deadline.into_iter().chain(look).min() else { return };
        tokio::time::sleep_until(at).await;
        let mut hold = lock(&hold);
        let found = hold.has_next().then_some(hold.polls);
        looks = if found.is_some() && found == untouched { looks + 1 } else { 0 };
        untouched = found;
        if looks == LOOKS {
            hold.stalled = stall_limit;
        }
        if hold.stalled.is_some() || deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return hold.release_all();
        }
    }
}
