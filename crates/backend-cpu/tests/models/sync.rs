//! What stands in for `backend_cpu::sync`: loom's, with orders that can be weakened.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

pub use loom::cell::UnsafeCell;
pub use loom::hint::spin_loop;
pub use loom::sync::{Arc, Mutex};
pub use std::sync::PoisonError;
pub use std::sync::atomic::Ordering;

/// The environment variable that says what is weakened: `acquire`, `release`, `fence`, or `wake` (nobody is woken).
pub const WEAKENED: &str = "PEREGRINE_MODEL_WEAKENED";

fn is_weakened(what: &str) -> bool {
    static WHAT: LazyLock<Option<String>> = LazyLock::new(|| std::env::var(WEAKENED).ok());
    WHAT.as_deref() == Some(what)
}

fn order(order: Ordering) -> Ordering {
    match order {
        Ordering::Acquire if is_weakened("acquire") => Ordering::Relaxed,
        Ordering::Release if is_weakened("release") => Ordering::Relaxed,
        Ordering::Acquire | Ordering::Release | Ordering::Relaxed => order,
        _ => panic!("loom's {order:?} is weaker than C11's: use a fence"),
    }
}

pub fn fence(order: Ordering) {
    if !is_weakened("fence") {
        loom::sync::atomic::fence(order);
    }
}

/// Time stands still in a model: no limit passes.
pub fn now() -> Instant {
    static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);
    *NOW
}

macro_rules! atomic {
    ($name:ident, $value:ty) => {
        pub struct $name(loom::sync::atomic::$name);

        impl $name {
            pub fn new(value: $value) -> Self {
                Self(loom::sync::atomic::$name::new(value))
            }

            pub fn load(&self, by: Ordering) -> $value {
                self.0.load(order(by))
            }

            pub fn store(&self, value: $value, by: Ordering) {
                self.0.store(value, order(by));
            }

            pub fn swap(&self, value: $value, by: Ordering) -> $value {
                self.0.swap(value, order(by))
            }
        }
    };
}

macro_rules! number {
    ($name:ident, $value:ty) => {
        atomic!($name, $value);

        impl $name {
            pub fn fetch_add(&self, value: $value, by: Ordering) -> $value {
                self.0.fetch_add(value, order(by))
            }

            pub fn fetch_sub(&self, value: $value, by: Ordering) -> $value {
                self.0.fetch_sub(value, order(by))
            }
        }
    };
}

atomic!(AtomicBool, bool);
number!(AtomicU32, u32);
number!(AtomicU64, u64);
number!(AtomicUsize, usize);

/// The system's: it compares the word and begins to sleep, or wakes the sleepers, under one lock.
pub struct Futex {
    word: AtomicU32,
    queue: Mutex<()>,
    sleepers: loom::sync::Condvar,
    /// Whether a sleep ends by itself.
    times_out: bool,
}

impl Futex {
    pub fn new(times_out: bool) -> Self {
        Self { word: AtomicU32::new(0), queue: Mutex::new(()), sleepers: loom::sync::Condvar::new(), times_out }
    }

    pub fn load(&self, order: Ordering) -> u32 {
        self.word.load(order)
    }

    pub fn store(&self, value: u32, order: Ordering) {
        self.word.store(value, order);
    }

    pub fn wait(&self, seen: u32, _time: Duration) {
        if self.times_out {
            return thread::yield_now();
        }
        let queue = self.queue.lock().expect("nobody panics with it");
        if self.word.load(Ordering::Relaxed) == seen {
            drop(self.sleepers.wait(queue));
        }
    }

    pub fn wake_all(&self) {
        if !is_weakened("wake") {
            let _queue = self.queue.lock().expect("nobody panics with it");
            self.sleepers.notify_all();
        }
    }
}

pub mod thread {
    //! loom's threads, which may lack a wake-up.

    use std::io;

    pub use loom::thread::{JoinHandle as Handle, park, yield_now};

    pub struct Thread(loom::thread::Thread);

    impl Clone for Thread {
        fn clone(&self) -> Self {
            Self(self.0.clone())
        }
    }

    impl Thread {
        pub fn unpark(&self) {
            if !super::is_weakened("wake") {
                self.0.unpark();
            }
        }
    }

    pub fn current() -> Thread {
        Thread(loom::thread::current())
    }

    pub struct JoinHandle<T>(Handle<T>, Thread);

    impl<T> JoinHandle<T> {
        pub fn thread(&self) -> &Thread {
            &self.1
        }

        pub fn join(self) -> std::thread::Result<T> {
            self.0.join()
        }
    }

    pub struct Builder(loom::thread::Builder);

    impl Builder {
        pub fn new() -> Self {
            Self(loom::thread::Builder::new())
        }

        pub fn name(self, name: String) -> Self {
            Self(self.0.name(name))
        }

        pub fn spawn<T: Send + 'static>(self, run: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
            let handle = self.0.spawn(run)?;
            let thread = Thread(handle.thread().clone());
            Ok(JoinHandle(handle, thread))
        }
    }
}
