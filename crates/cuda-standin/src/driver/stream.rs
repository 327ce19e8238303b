//! Streams: threads that run what is submitted to them, in order.

use super::capture::{Capture, Clock, Mode};
use super::context::{self, Context};
use super::status::{Outcome, Status};
use crate::handles::Handles;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// One thing to do. A graph may do it again.
pub type Work = Arc<dyn Fn() -> Outcome + Send + Sync>;

/// A stream.
pub struct Stream {
    /// Of all streams of the process.
    pub id: u64,
    /// Whose it is.
    pub context: Arc<Context>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    work: VecDeque<Work>,
    submitted: u64,
    done: u64,
    ends: bool,
    capturing: Option<Capturing>,
}

/// What a stream that is being captured knows.
pub struct Capturing {
    pub capture: Arc<Capture>,
    /// The work of each stream that this one's next work comes after.
    pub clock: Clock,
}

static STREAMS: Handles<Stream> = Handles::new();
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Handles up to here are the default streams: null, legacy, and the thread's.
const DEFAULT_MAX: usize = 2;

/// The stream with a handle.
pub fn of_handle(handle: usize) -> Outcome<Arc<Stream>> {
    if handle <= DEFAULT_MAX {
        return context::current()?.default_stream();
    }
    let stream = STREAMS.get(handle).ok_or(Status::INVALID_HANDLE)?;
    stream.context.healthy()?;
    Ok(stream)
}

/// A new stream of the current context.
pub fn create() -> Outcome<usize> {
    Ok(STREAMS.add(Stream::start(context::current()?)?))
}

/// Ends a stream when what was submitted to it is done.
pub fn destroy(handle: usize) -> Outcome {
    let stream = STREAMS.remove(handle).ok_or(Status::INVALID_HANDLE)?;
    stream.lock().ends = true;
    stream.changed.notify_all();
    Ok(())
}

/// Whether a handle means a default stream, which cannot be captured.
pub fn is_default(handle: usize) -> bool {
    handle <= DEFAULT_MAX
}

impl Stream {
    /// Makes a stream and its thread.
    pub fn start(context: &Arc<Context>) -> Outcome<Arc<Self>> {
        let stream = Arc::new(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            context: context.clone(),
            queue: Mutex::default(),
            changed: Condvar::new(),
        });
        context.add_stream(&stream);
        let running = stream.clone();
        let thread = std::thread::Builder::new().name(format!("stream {}", stream.id)).spawn(move || running.run());
        thread.map_err(|_| Status::OUT_OF_MEMORY)?;
        Ok(stream)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut queue = self.lock();
        loop {
            if let Some(work) = queue.work.pop_front() {
                drop(queue);
                self.run_one(&work);
                queue = self.lock();
                queue.done += 1;
                self.changed.notify_all();
            } else if queue.ends {
                return;
            } else {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// After a failure nothing runs any more.
    fn run_one(&self, work: &Work) {
        if self.context.healthy().is_err() {
            return;
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work()));
        if let Err(status) = result.unwrap_or(Err(Status::UNKNOWN)) {
            self.context.fail(status);
        }
    }

    /// Adds work, or a node if the stream is being captured.
    pub fn submit(&self, work: Work) -> Outcome {
        let mut queue = self.lock();
        if let Some(capturing) = &mut queue.capturing {
            return capturing.capture.add(self.id, &mut capturing.clock, work);
        }
        queue.work.push_back(work);
        queue.submitted += 1;
        drop(queue);
        self.changed.notify_all();
        Ok(())
    }

    /// Submits work that a closure does.
    pub fn submit_fn(&self, work: impl Fn() -> Outcome + Send + Sync + 'static) -> Outcome {
        self.submit(Arc::new(work))
    }

    /// Waits for all that was submitted so far.
    pub fn synchronize(&self) -> Outcome {
        let mut queue = self.lock();
        if let Some(capturing) = &queue.capturing {
            return Err(capturing.capture.invalidate(Status::STREAM_CAPTURE_UNSUPPORTED));
        }
        let target = queue.submitted;
        while queue.done < target {
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        drop(queue);
        crate::report::write();
        self.context.healthy()
    }

    /// Whether all that was submitted so far is done.
    pub fn query(&self) -> Outcome {
        let queue = self.lock();
        if let Some(capturing) = &queue.capturing {
            return Err(capturing.capture.invalidate(Status::STREAM_CAPTURE_UNSUPPORTED));
        }
        self.context.healthy()?;
        if queue.done < queue.submitted { Err(Status::NOT_READY) } else { Ok(()) }
    }

    /// Whether it is being captured.
    pub fn is_capturing(&self) -> bool {
        self.lock().capturing.is_some()
    }

    /// The capture that it is part of, and the clock of its work in it.
    pub fn capturing(&self) -> Option<(Arc<Capture>, Clock)> {
        self.lock().capturing.as_ref().map(|capturing| (capturing.capture.clone(), capturing.clock.clone()))
    }

    /// Begins a capture.
    pub fn begin_capture(self: &Arc<Self>, mode: Mode) -> Outcome {
        let mut queue = self.lock();
        if queue.capturing.is_some() {
            return Err(Status::INVALID_VALUE);
        }
        let capture = Capture::begin(self, mode);
        queue.capturing = Some(Capturing { capture, clock: Clock::new() });
        Ok(())
    }

    /// Ends the capture that began here.
    pub fn end_capture(&self) -> Outcome<Vec<Work>> {
        let mut queue = self.lock();
        let capturing = queue.capturing.take().ok_or(Status::INVALID_VALUE)?;
        if capturing.capture.origin != self.id {
            let status = capturing.capture.invalidate(Status::STREAM_CAPTURE_UNMATCHED);
            queue.capturing = Some(capturing);
            return Err(status);
        }
        drop(queue);
        capturing.capture.end(self.id, &capturing.clock)
    }

    /// It has no part in a capture any more.
    pub fn leave_capture(&self) {
        self.lock().capturing = None;
    }

    /// What comes next comes after the work of a capture that an event has marked.
    pub fn join_capture(self: &Arc<Self>, capture: &Arc<Capture>, clock: &Clock) -> Outcome {
        let mut queue = self.lock();
        let capturing = match &mut queue.capturing {
            Some(capturing) if !Arc::ptr_eq(&capturing.capture, capture) => {
                capture.invalidate(Status::STREAM_CAPTURE_MERGE);
                return Err(capturing.capture.invalidate(Status::STREAM_CAPTURE_MERGE));
            }
            Some(capturing) => capturing,
            none => {
                capture.add_stream(self)?;
                none.insert(Capturing { capture: capture.clone(), clock: Clock::new() })
            }
        };
        for (stream, count) in clock {
            let known = capturing.clock.entry(*stream).or_default();
            *known = (*known).max(*count);
        }
        Ok(())
    }
}
