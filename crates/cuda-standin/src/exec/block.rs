//! One block: its warps take turns, and meet at its barriers.

use super::launch::{Context, Launch, Worker};
use super::warp::{Pause, Warp};
use super::{Fault, FaultKind, LaneFault};

/// How many instructions a warp runs before another one's turn.
const WARP_INSTRUCTIONS_MAX: u64 = 100_000;
/// How many instructions a block runs before another one's turn.
const BLOCK_INSTRUCTIONS_MAX: u64 = 4_000_000;

pub(super) struct Block {
    index: [u32; 3],
    warps: Vec<Warp>,
    shared: Vec<Line>,
    shared_bytes: usize,
    barriers: [Barrier; 16],
    random: u64,
}

/// Shared memory, aligned as far as a kernel can ask for.
#[derive(Clone, Copy)]
#[repr(C, align(128))]
struct Line([u8; 128]);

#[derive(Clone, Copy, Default)]
struct Barrier {
    /// Threads that have come since it was last released.
    arrived: u32,
    /// How many release it; all threads of the block if it is none.
    expected: Option<u32>,
    /// Warps that wait.
    waiting: u32,
    /// Of a reduction: for how many threads the predicate holds, and whether it does for all.
    holds: u32,
    fails: u32,
}

/// How a block's turn ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    Done,
    /// It wants to go on.
    Again {
        /// All that it did was to look at what others may write.
        polling: bool,
    },
}

impl Block {
    pub(super) fn new(launch: &Launch<'_>) -> Self {
        let threads = launch.block.iter().product::<u32>() as usize;
        let shared_bytes = launch.program.shared_bytes + launch.shared_bytes;
        Self {
            index: [0; 3],
            warps: (0..threads.div_ceil(32)).map(|index| Warp::new(launch, index)).collect(),
            shared: vec![Line([0; 128]); shared_bytes.div_ceil(128)],
            shared_bytes,
            barriers: [Barrier::default(); 16],
            random: 0,
        }
    }

    /// Makes it ready to run as block number `linear` of the grid.
    pub(super) fn start(&mut self, launch: &Launch<'_>, linear: u64) {
        let (x, y) = (u64::from(launch.grid[0]), u64::from(launch.grid[1]));
        self.index = [linear % x, linear / x % y, linear / (x * y)].map(|index| index as u32);
        self.shared.fill(Line([0xff; 128]));
        self.barriers = [Barrier::default(); 16];
        self.random = launch.seed.wrapping_add(linear).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        for warp in &mut self.warps {
            warp.start(launch, self.index);
        }
    }

    /// Runs until the block is done, all that is left to do is polling, or its turn has lasted long enough.
    pub(super) fn run(&mut self, launch: &Launch<'_>, worker: &mut Worker) -> Result<Turn, Box<Fault>> {
        let end = worker.instructions + BLOCK_INSTRUCTIONS_MAX;
        loop {
            let (mut ran, mut polling) = (false, true);
            for turn in 0..self.warps.len() {
                let (nth, budget) = self.choose(launch, turn);
                let warp = &self.warps[nth];
                if warp.alive == 0 || warp.barrier.is_some() {
                    continue;
                }
                ran = true;
                polling &= self.run_warp(launch, worker, nth, budget)? == Pause::Polling;
            }
            if self.warps.iter().all(|warp| warp.alive == 0) {
                return Ok(Turn::Done);
            }
            if !ran && self.warps.iter().all(|warp| warp.alive == 0 || warp.barrier.is_some()) {
                return Err(self.deadlock(launch));
            }
            if ran && polling {
                return Ok(Turn::Again { polling: true });
            }
            if worker.instructions >= end {
                return Ok(Turn::Again { polling: false });
            }
        }
    }

    /// The warps in order; or, with a seed, in any order, and for a few instructions each.
    fn choose(&mut self, launch: &Launch<'_>, turn: usize) -> (usize, u64) {
        if launch.seed == 0 {
            return (turn, WARP_INSTRUCTIONS_MAX);
        }
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        ((self.random >> 20) as usize % self.warps.len(), 1 + (self.random >> 58))
    }

    fn run_warp(
        &mut self,
        launch: &Launch<'_>,
        worker: &mut Worker,
        nth: usize,
        budget: u64,
    ) -> Result<Pause, Box<Fault>> {
        let shared = bytes_of(&mut self.shared, self.shared_bytes);
        let mut cx = Context { launch, worker, shared, polls: 0 };
        let pause = self.warps[nth].run(&mut cx, budget).map_err(|fault| self.locate(launch, nth, *fault, 0))?;
        let result = match pause {
            Pause::Exited => (0..16).try_for_each(|id| self.release(id)),
            Pause::Barrier { id, count } => self.arrive(id, count, 1 << nth),
            Pause::Arrived { id, count } => self.arrive(id, Some(count), 0),
            Pause::Reduce { id, holds, lanes } => self.check_id(id).and_then(|id| {
                self.barriers[id].holds += holds.count_ones();
                self.barriers[id].fails += (lanes & !holds).count_ones();
                self.arrive(id as u32, None, 1 << nth)
            }),
            Pause::Budget | Pause::Polling => Ok(()),
        };
        result.map_err(|why| {
            let lane = self.warps[nth].alive.trailing_zeros().min(31) as usize;
            self.locate(launch, nth, LaneFault { kind: FaultKind::Synchronization, lane, why }, 1)
        })?;
        Ok(pause)
    }

    fn check_id(&self, id: u32) -> Result<usize, String> {
        if id < 16 { Ok(id as usize) } else { Err(format!("barrier {id}: there are 16")) }
    }

    /// A warp comes to a barrier; `waiting` is its bit if it waits there.
    fn arrive(&mut self, id: u32, count: Option<u32>, waiting: u32) -> Result<(), String> {
        let id = self.check_id(id)?;
        let barrier = &mut self.barriers[id];
        if let Some(count) = count.filter(|count| *count == 0 || !count.is_multiple_of(32)) {
            return Err(format!("barrier {id} with {count} threads: expected a multiple of 32"));
        }
        if barrier.arrived > 0 && barrier.expected != count {
            return Err(format!("barrier {id} is for {:?} threads, and for {count:?} here", barrier.expected));
        }
        barrier.expected = count;
        barrier.arrived += 32;
        barrier.waiting |= waiting;
        self.release(id)
    }

    /// Releases a barrier for which all have come that must.
    fn release(&mut self, id: usize) -> Result<(), String> {
        let barrier = self.barriers[id];
        if barrier.arrived == 0 {
            return Ok(());
        }
        let complete = match barrier.expected {
            Some(count) if barrier.arrived > count => {
                return Err(format!("{} threads came to barrier {id}, which is for {count}", barrier.arrived));
            }
            Some(count) => barrier.arrived == count,
            None => (0..self.warps.len()).all(|nth| self.warps[nth].alive == 0 || barrier.waiting >> nth & 1 == 1),
        };
        if complete {
            for (nth, warp) in self.warps.iter_mut().enumerate() {
                if barrier.waiting >> nth & 1 == 1 {
                    warp.barrier = None;
                    warp.finish_reduce(barrier.holds, barrier.fails == 0);
                }
            }
            self.barriers[id] = Barrier::default();
        }
        Ok(())
    }

    /// All warps that are left wait at barriers.
    #[cold]
    fn deadlock(&self, launch: &Launch<'_>) -> Box<Fault> {
        let waits: Vec<String> = self
            .warps
            .iter()
            .enumerate()
            .filter_map(|(nth, warp)| warp.barrier.map(|id| format!("warp {nth} at barrier {id}")))
            .collect();
        let nth = self.warps.iter().position(|warp| warp.barrier.is_some()).expect("one of them waits");
        let lane = self.warps[nth].alive.trailing_zeros() as usize;
        let why = format!("no warp can go on: {}, the others have exited", waits.join(", "));
        self.locate(launch, nth, LaneFault { kind: FaultKind::Synchronization, lane, why }, 1)
    }

    /// The fault of a warp whose program counter is `ahead` of the instruction that failed.
    fn locate(&self, launch: &Launch<'_>, nth: usize, fault: LaneFault, ahead: usize) -> Box<Fault> {
        let warp = &self.warps[nth];
        let pc = warp.at(fault.lane).saturating_sub(ahead).min(launch.program.texts.len() - 1);
        Box::new(Fault {
            kind: fault.kind,
            kernel: launch.program.name.clone(),
            block: self.index,
            thread: warp.thread(launch.block, fault.lane),
            why: fault.why,
            text: launch.program.texts[pc].clone(),
        })
    }
}

/// The first `len` bytes.
fn bytes_of(lines: &mut [Line], len: usize) -> &mut [u8] {
    assert!(len <= 128 * lines.len());
    // SAFETY: the lines are `128 * lines.len()` bytes in sequence, any of which are valid, and the borrow is kept.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), len) }
}
