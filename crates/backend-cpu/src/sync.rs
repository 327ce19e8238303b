//! What threads and processes synchronise with. The models in `tests/models` put loom's in its place.

use rustix::thread::futex;
use std::cell;
use std::time::{Duration, Instant};

pub use std::hint::spin_loop;
pub use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
pub use std::sync::{Arc, Mutex, PoisonError};
pub use std::thread;

/// How often a waiting thread looks before it sleeps, where each has a core: for some 20 to 50 µs, which is longer than what
/// lies between two operations.
pub const SPINS: u32 = 1000;

/// The monotonic clock; loom has one of its own.
pub fn now() -> Instant {
    Instant::now()
}

/// Memory that its users share out among themselves.
pub struct UnsafeCell<T>(cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub fn new(value: T) -> Self {
        Self(cell::UnsafeCell::new(value))
    }

    /// Calls `read` with the place, from which it may read if nobody writes there.
    pub fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
        read(self.0.get())
    }

    /// Calls `write` with the place, to which it may write if nobody else uses it.
    pub fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
        write(self.0.get())
    }
}

/// A word on which threads of several processes can sleep. Zero bytes are one.
#[repr(transparent)]
pub struct Futex(AtomicU32);

impl Futex {
    pub fn load(&self, order: Ordering) -> u32 {
        self.0.load(order)
    }

    pub fn store(&self, value: u32, order: Ordering) {
        self.0.store(value, order);
    }

    /// Sleeps while the word is `seen`, until somebody wakes the sleepers or the time is over; or less.
    pub fn wait(&self, seen: u32, time: Duration) {
        let time = futex::Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() };
        // However it ends, the caller looks again.
        let _ = futex::wait(&self.0, futex::Flags::empty(), seen, Some(&time));
    }

    /// Wakes everybody who sleeps on the word.
    pub fn wake_all(&self) {
        // It fails only for an address that is not mapped.
        let _ = futex::wake(&self.0, futex::Flags::empty(), i32::MAX as u32);
    }
}
