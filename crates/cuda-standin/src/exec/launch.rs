//! A grid over OS threads.
//!
//! A device holds as many blocks at a time as fit on its multiprocessors, and starts another one when one ends. So it is
//! here: blocks that are held take turns, so that blocks which wait for one another make progress, and blocks that are not
//! held yet do not, so that a kernel which waits for more blocks than fit hangs as it would on the device.

use super::Fault;
use super::block::{Block, Turn};
use super::counters::{KernelCounters, LaunchCounters};
use crate::ptx::Program;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// When asynchronous copies are carried out. A kernel is right only if it is right with both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyMode {
    /// When they are issued.
    Early,
    /// When they are waited for; those that never are, never.
    Late,
}

/// The allocations that a kernel may access.
pub trait GlobalMemory: Sync {
    /// The allocation that an address is in, or in words why there is none for this kernel.
    fn range_of(&self, address: u64) -> Result<Range<u64>, String>;
}

/// A kernel's launch.
pub struct Launch<'a> {
    pub program: &'a Program,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    /// Dynamic shared memory.
    pub shared_bytes: usize,
    pub params: &'a [u8],
    pub memory: &'a dyn GlobalMemory,
    pub copies: CopyMode,
    /// Of the order in which warps run; zero for one after the other.
    pub seed: u64,
    /// OS threads at most.
    pub threads: usize,
    /// Blocks that the device holds at a time.
    pub resident: usize,
    /// Multiprocessors of the device.
    pub sms: u32,
    /// Count what it does to memory.
    pub count: bool,
    /// How long it may run.
    pub time_limit: Option<Duration>,
}

/// Why a launch failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum LaunchError {
    /// The kernel did what it must not.
    #[error(transparent)]
    Fault(#[from] Box<Fault>),
    /// It ran for longer than it may.
    #[error("{kernel}: still running after {limit:?}, with {started} of {blocks} blocks started")]
    TimeLimit {
        kernel: String,
        /// How long it could run.
        limit: Duration,
        started: u64,
        blocks: u64,
    },
}

/// What one OS thread keeps from block to block.
pub(super) struct Worker {
    /// The allocation that each instruction last accessed.
    pub(super) ranges: Vec<Range<u64>>,
    pub(super) counters: Option<LaunchCounters>,
    pub(super) instructions: u64,
}

/// What a warp needs beside itself.
pub(super) struct Context<'a> {
    pub(super) launch: &'a Launch<'a>,
    pub(super) worker: &'a mut Worker,
    pub(super) shared: &'a mut [u8],
    /// How often it has looked at what others may write, since its turn began.
    pub(super) polls: u32,
}

impl Context<'_> {
    #[inline(always)]
    pub(super) fn count(&mut self, f: impl FnOnce(&mut LaunchCounters)) {
        if let Some(counters) = &mut self.worker.counters {
            f(counters);
        }
    }
}

/// The blocks of a grid.
#[derive(Default)]
struct Schedule {
    /// The next block that has not started.
    next: u64,
    /// Blocks that have started and are not done.
    held: usize,
    /// How often a thread has taken one.
    taken: u64,
    /// Of those, the ones that no thread runs.
    waiting: VecDeque<Box<Block>>,
    /// How many turns in sequence did nothing but poll.
    polls: usize,
    failed: Option<LaunchError>,
    counters: Option<LaunchCounters>,
    instructions: u64,
}

/// How many turns that only poll there are before a thread sleeps, for each block that is held.
const POLLS_BEFORE_SLEEP: usize = 4;
/// How long it sleeps: others may be waiting for the CPU to write what is polled.
const SLEEP: Duration = Duration::from_micros(50);
/// Instructions after which other threads are called in.
const INSTRUCTIONS_ALONE: u64 = 20_000;

impl Launch<'_> {
    /// The number of a block.
    pub(super) fn linear(&self, block: [u32; 3]) -> u64 {
        let [x, y, z] = block.map(u64::from);
        x + u64::from(self.grid[0]) * (y + u64::from(self.grid[1]) * z)
    }

    fn blocks(&self) -> u64 {
        self.grid.iter().map(|size| u64::from(*size)).product()
    }

    /// Runs the kernel to its end.
    pub fn run(&self) -> Result<KernelCounters, LaunchError> {
        let schedule = Mutex::new(Schedule::default());
        let deadline = self.time_limit.map(|limit| Instant::now() + limit);
        std::thread::scope(|scope| {
            let helpers = self.threads.min(self.blocks() as usize).saturating_sub(1);
            let mut call = Some(|| {
                for _ in 0..helpers {
                    scope.spawn(|| self.work(&schedule, deadline, || {}));
                }
            });
            self.work(&schedule, deadline, || {
                if let Some(call) = call.take() {
                    call();
                }
            });
        });
        let schedule = schedule.into_inner().expect("no thread panics");
        match schedule.failed {
            Some(error) => Err(error),
            None => Ok(match schedule.counters {
                Some(counters) => counters.total(schedule.instructions),
                None => KernelCounters { launches: 1, instructions: schedule.instructions, ..Default::default() },
            }),
        }
    }

    /// Runs blocks until none is left for this thread. Calls `long` when the kernel turns out to be long.
    fn work(&self, schedule: &Mutex<Schedule>, deadline: Option<Instant>, mut long: impl FnMut()) {
        let lock = || schedule.lock().expect("no thread panics");
        let mut worker = Worker {
            ranges: vec![0..0; self.program.code.len()],
            counters: self.count.then(LaunchCounters::default),
            instructions: 0,
        };
        let (mut spare, mut long_turn) = (None, false);
        loop {
            let taken = self.take(&mut lock(), &mut spare, long_turn);
            let Some(mut block) = taken else { break };
            let turn = block.run(self, &mut worker);
            let mut guard = lock();
            long_turn = false;
            let mut sleep = false;
            match turn {
                Ok(Turn::Done) => {
                    guard.held -= 1;
                    guard.polls = 0;
                    spare = Some(block);
                }
                Ok(Turn::Again { polling }) => {
                    long_turn = !polling;
                    guard.waiting.push_back(block);
                    guard.polls = if polling { guard.polls + 1 } else { 0 };
                    sleep = guard.polls > POLLS_BEFORE_SLEEP * guard.held;
                }
                Err(fault) => guard.failed = guard.failed.take().or(Some(LaunchError::Fault(fault))),
            }
            if deadline.is_some_and(|deadline| Instant::now() > deadline) && guard.failed.is_none() {
                guard.failed = Some(LaunchError::TimeLimit {
                    kernel: self.program.name.clone(),
                    limit: self.time_limit.unwrap_or_default(),
                    started: guard.next,
                    blocks: self.blocks(),
                });
            }
            drop(guard);
            if worker.instructions > INSTRUCTIONS_ALONE {
                long();
            }
            if sleep {
                std::thread::sleep(SLEEP);
            }
        }
        let mut guard = lock();
        guard.instructions += worker.instructions;
        if let Some(counters) = worker.counters {
            match &mut guard.counters {
                Some(sum) => sum.merge(counters),
                none => *none = Some(counters),
            }
        }
    }

    /// The next block for a thread: a new one while the device can hold it, else the one that has waited longest. After a
    /// long turn the ones that wait go first every other time, so that not all blocks are begun at once.
    fn take(&self, schedule: &mut Schedule, spare: &mut Option<Box<Block>>, long_turn: bool) -> Option<Box<Block>> {
        if schedule.failed.is_some() {
            return None;
        }
        schedule.taken += 1;
        let can_start = schedule.next < self.blocks() && schedule.held < self.resident;
        if (!can_start || long_turn && schedule.taken.is_multiple_of(2))
            && let Some(block) = schedule.waiting.pop_front()
        {
            return Some(block);
        }
        if !can_start {
            return None;
        }
        let mut block = spare.take().unwrap_or_else(|| Box::new(Block::new(self)));
        block.start(self, schedule.next);
        schedule.next += 1;
        schedule.held += 1;
        Some(block)
    }
}
