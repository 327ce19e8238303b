//! Events.

use super::capture::{Capture, Clock};
use super::status::{Outcome, Status};
use super::stream::Stream;
use crate::handles::Handles;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

/// An event.
#[derive(Default)]
pub struct Event {
    state: Mutex<State>,
    changed: Condvar,
    /// Whether it keeps the time.
    timed: bool,
}

#[derive(Default)]
struct State {
    /// How often it was recorded.
    recorded: u64,
    /// Which of those has been reached.
    reached: u64,
    when: Option<Instant>,
    /// The capture in which it was last recorded, and what had been captured then.
    captured: Option<(Weak<Capture>, Clock)>,
}

/// Events by their handles.
pub static EVENTS: Handles<Event> = Handles::new();

/// The event with a handle.
pub fn of_handle(handle: usize) -> Outcome<Arc<Event>> {
    EVENTS.get(handle).ok_or(Status::INVALID_HANDLE)
}

impl Event {
    /// One that was never recorded, which counts as reached.
    pub fn new(timed: bool) -> Self {
        Self { timed, ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reach(&self, which: u64) {
        let mut state = self.lock();
        state.reached = state.reached.max(which);
        state.when = Some(Instant::now());
        drop(state);
        self.changed.notify_all();
    }

    fn wait(&self, which: u64) {
        let mut state = self.lock();
        while state.reached < which {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Records it in a stream.
    pub fn record(self: &Arc<Self>, stream: &Stream) -> Outcome {
        if let Some((capture, clock)) = stream.capturing() {
            self.lock().captured = Some((Arc::downgrade(&capture), clock));
            return Ok(());
        }
        let which = {
            let mut state = self.lock();
            state.captured = None;
            state.recorded += 1;
            state.recorded
        };
        let event = self.clone();
        stream.submit_fn(move || {
            event.reach(which);
            Ok(())
        })
    }

    /// Makes what comes next in a stream wait for it.
    pub fn make_wait(self: &Arc<Self>, stream: &Arc<Stream>) -> Outcome {
        let (which, captured) = {
            let state = self.lock();
            (state.recorded, state.captured.clone())
        };
        if let Some((capture, clock)) = captured {
            return match capture.upgrade() {
                Some(capture) => stream.join_capture(&capture, &clock),
                // The capture has ended: there is nothing to wait for.
                None => Ok(()),
            };
        }
        if let Some((capture, _)) = stream.capturing() {
            return Err(capture.invalidate(Status::STREAM_CAPTURE_ISOLATION));
        }
        let event = self.clone();
        stream.submit_fn(move || {
            event.wait(which);
            Ok(())
        })
    }

    fn not_captured(&self) -> Outcome<u64> {
        let state = self.lock();
        if let Some(capture) = state.captured.as_ref().and_then(|(capture, _)| capture.upgrade()) {
            capture.invalidate(Status::CAPTURED_EVENT);
            return Err(Status::CAPTURED_EVENT);
        }
        Ok(state.recorded)
    }

    /// Waits until it is reached.
    pub fn synchronize(&self) -> Outcome {
        let which = self.not_captured()?;
        self.wait(which);
        Ok(())
    }

    /// Whether it is reached.
    pub fn query(&self) -> Outcome {
        let which = self.not_captured()?;
        if self.lock().reached < which { Err(Status::NOT_READY) } else { Ok(()) }
    }

    /// Milliseconds to a later event.
    pub fn elapsed_ms(&self, later: &Self) -> Outcome<f32> {
        if !self.timed || !later.timed {
            return Err(Status::INVALID_HANDLE);
        }
        self.query()?;
        later.query()?;
        let (Some(from), Some(to)) = (self.lock().when, later.lock().when) else { return Err(Status::INVALID_HANDLE) };
        let forth = to.saturating_duration_since(from).as_secs_f32();
        let back = from.saturating_duration_since(to).as_secs_f32();
        Ok((forth - back) * 1e3)
    }
}
