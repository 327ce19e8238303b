//! Communicators.

use super::shared::{RANKS_MAX, Shared, UniqueId};
use super::{Failure, Outcome};
use crate::config::{Count, config};
use crate::driver::complain;
use crate::driver::context;
use crate::handles::Handles;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// One rank's end of a communicator.
pub struct Comm {
    pub ranks: usize,
    pub rank: usize,
    pub device: usize,
    pub shared: Shared,
    /// Collectives so far.
    pub collectives: Count,
    error: AtomicU32,
    aborted: AtomicBool,
}

/// Communicators by their handles.
pub static COMMS: Handles<Comm> = Handles::new();

/// How a wait goes: spin, then give way, then sleep, as there may be more ranks than CPUs.
const SPINS: u32 = 200;
const YIELDS: u32 = 2000;
const SLEEP: Duration = Duration::from_micros(50);

/// The communicator with a handle.
pub fn of_handle(handle: usize) -> Outcome<Arc<Comm>> {
    COMMS.get(handle).ok_or(Failure::INVALID_ARGUMENT)
}

impl Comm {
    /// Joins, and waits for the others.
    pub fn join(id: &UniqueId, ranks: usize, rank: usize) -> Outcome<Arc<Self>> {
        if ranks == 0 || ranks > RANKS_MAX || rank >= ranks {
            return Err(Failure::INVALID_ARGUMENT);
        }
        let device = context::current().map_err(|_| Failure::UNHANDLED_CUDA)?.device;
        let shared = Shared::open(id)?;
        shared.join(ranks, rank, device)?;
        let comm = Self {
            ranks,
            rank,
            device,
            shared,
            collectives: Count::default(),
            error: AtomicU32::new(0),
            aborted: AtomicBool::new(false),
        };
        comm.wait("the other ranks to join", || comm.shared.is_complete())?;
        Ok(Arc::new(comm))
    }

    /// Waits until something holds, the communicator is aborted, or the time is over.
    pub fn wait(&self, what: &str, holds: impl Fn() -> bool) -> Outcome {
        let start = Instant::now();
        let mut turns = 0;
        while !holds() {
            if self.aborted.load(Ordering::Relaxed) || self.shared.is_aborted() {
                return Err(self.fail(Failure::REMOTE));
            }
            if start.elapsed() > config().nccl_timeout {
                complain(&format!("rank {}: waited {:?} for {what}", self.rank, start.elapsed()));
                return Err(self.fail(Failure::REMOTE));
            }
            turns += 1;
            match turns {
                ..SPINS => std::hint::spin_loop(),
                SPINS..YIELDS => std::thread::yield_now(),
                _ => std::thread::sleep(SLEEP),
            }
        }
        Ok(())
    }

    /// Waits for all ranks.
    pub fn barrier(&self, what: &str) -> Outcome {
        match self.shared.arrive(self.ranks) {
            Some(generation) => self.wait(what, || self.shared.has_passed(generation)),
            None => Ok(()),
        }
    }

    /// The first failure is the one that `ncclCommGetAsyncError` gives.
    pub fn fail(&self, failure: Failure) -> Failure {
        // If there is one already, that one stays.
        let _ = self.error.compare_exchange(0, failure.0, Ordering::SeqCst, Ordering::SeqCst);
        failure
    }

    /// The code of the failure, or zero.
    pub fn error(&self) -> u32 {
        self.error.load(Ordering::SeqCst)
    }

    /// Ends this rank's waiting.
    pub fn abort(&self) {
        self.aborted.store(true, Ordering::SeqCst);
    }
}
