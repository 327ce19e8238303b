//! Stream capture, and graphs.
//!
//! A graph is the captured work in the order in which it was submitted, which respects every dependency. Clocks tell
//! whether all of it comes before the end of the stream in which the capture began.

use super::status::{Outcome, Status};
use super::stream::{Stream, Work};
use crate::handles::Handles;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::ThreadId;

/// How much of each stream's work something comes after.
pub type Clock = HashMap<u64, u64>;

/// Whose calls a capture forbids: those that wait, allocate or otherwise reach beyond the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// All threads'.
    Global,
    /// The thread's that began it.
    ThreadLocal,
    /// Nobody's.
    Relaxed,
}

/// A capture.
pub struct Capture {
    /// The stream in which it began.
    pub origin: u64,
    mode: Mode,
    thread: ThreadId,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    nodes: Vec<Work>,
    /// How many nodes each stream has added.
    counts: Clock,
    /// Streams that have joined it.
    streams: Vec<Weak<Stream>>,
    invalid: bool,
}

/// A graph that can be launched, or made into one.
pub struct Graph {
    pub nodes: Vec<Work>,
}

/// Graphs by their handles.
pub static GRAPHS: Handles<Graph> = Handles::new();
/// Executable graphs by their handles.
pub static EXECUTABLES: Handles<Graph> = Handles::new();

static CAPTURES: Mutex<Vec<Weak<Capture>>> = Mutex::new(Vec::new());

/// Holds a call that a capture may forbid; one that it does forbid ends the capture.
pub fn allow_unsafe_call() -> Outcome {
    let captures: Vec<Arc<Capture>> = {
        let mut captures = CAPTURES.lock().unwrap_or_else(PoisonError::into_inner);
        captures.retain(|capture| capture.strong_count() > 0);
        captures.iter().filter_map(Weak::upgrade).collect()
    };
    let forbids = |capture: &&Arc<Capture>| match capture.mode {
        Mode::Global => true,
        Mode::ThreadLocal => capture.thread == std::thread::current().id(),
        Mode::Relaxed => false,
    };
    match captures.iter().find(forbids) {
        Some(capture) => Err(capture.invalidate(Status::STREAM_CAPTURE_UNSUPPORTED)),
        None => Ok(()),
    }
}

impl Capture {
    /// A capture that begins in `origin`.
    pub fn begin(origin: &Stream, mode: Mode) -> Arc<Self> {
        let capture =
            Arc::new(Self { origin: origin.id, mode, thread: std::thread::current().id(), state: Mutex::default() });
        CAPTURES.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&capture));
        capture
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing can become of it any more, for this reason.
    pub fn invalidate(&self, status: Status) -> Status {
        self.lock().invalid = true;
        status
    }

    /// Adds a node of a stream.
    pub fn add(&self, stream: u64, clock: &mut Clock, work: Work) -> Outcome {
        let mut state = self.lock();
        if state.invalid {
            return Err(Status::STREAM_CAPTURE_INVALIDATED);
        }
        state.nodes.push(work);
        let count = state.counts.entry(stream).or_default();
        *count += 1;
        clock.insert(stream, *count);
        Ok(())
    }

    /// A stream joins it.
    pub fn add_stream(&self, stream: &Arc<Stream>) -> Outcome {
        let mut state = self.lock();
        if state.invalid {
            return Err(Status::STREAM_CAPTURE_INVALIDATED);
        }
        state.streams.push(Arc::downgrade(stream));
        Ok(())
    }

    /// Ends it. `clock` is the origin's.
    pub fn end(&self, origin: u64, clock: &Clock) -> Outcome<Vec<Work>> {
        let (nodes, invalid, streams, counts) = {
            let mut state = self.lock();
            let invalid = std::mem::replace(&mut state.invalid, true);
            (std::mem::take(&mut state.nodes), invalid, std::mem::take(&mut state.streams), state.counts.clone())
        };
        streams.iter().filter_map(Weak::upgrade).for_each(|stream| stream.leave_capture());
        if self.mode != Mode::Relaxed && self.thread != std::thread::current().id() {
            return Err(Status::STREAM_CAPTURE_WRONG_THREAD);
        }
        if invalid {
            return Err(Status::STREAM_CAPTURE_INVALIDATED);
        }
        let behind = |(stream, count): (&u64, &u64)| *stream != origin && clock.get(stream) != Some(count);
        if counts.iter().any(behind) {
            return Err(Status::STREAM_CAPTURE_UNJOINED);
        }
        Ok(nodes)
    }
}
