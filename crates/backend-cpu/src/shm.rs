//! The collective between the ranks of one host: memory that they share, without a name in any file system.
//!
//! An operation is a sequence of *ticks*. At a tick a rank has filled its slot; it raises its tick counter (release)
//! and waits until the counters of all others are as high (acquire), and then their slots are its to read. Pieces of a
//! long message use a rank's two slots in turn. A rank fills a slot again only after all others have reached a tick of
//! the piece in between, that is, after they have read what was there.
//!
//! Short sums: everybody adds all slots. Long ones: at a first tick each rank adds its share of all slots and puts it
//! into its own slot, where nobody else reads that share; at a second tick everybody copies the shares. Either way each
//! element is added up in rank order.

use crate::Isa;
use crate::kernels::simd::dispatch;
use crate::kernels::sum::AddTo;
use crate::shm_region::{Control, Region, SLOT_LEN, SLOTS};
use backend::{Collective, CollectiveError};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create, open};
use rustix::thread::futex;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

/// Keeps the memory of a world until all ranks have joined.
#[derive(Debug)]
pub struct SharedMemoryOwner {
    fd: OwnedFd,
}

impl SharedMemoryOwner {
    /// Where ranks of this user find the memory, as long as this owner lives: a path below `/proc`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd())
    }
}

/// One rank's end.
pub struct SharedMemory {
    region: Region,
    rank: usize,
    world: usize,
    isa: Isa,
    time_limit: Duration,
    /// How often a waiting rank looks before it sleeps.
    spins: u32,
    /// Operations so far, the current one included.
    sequence: u64,
    /// Pieces so far; its parity chooses the slot.
    pieces: usize,
    /// What ended this rank's part. It must not fill a slot again: it has not waited for those who read there.
    failure: Option<CollectiveError>,
}

/// Sums longer than this are shared out, if there are more than two ranks: with two it saves nothing.
const SHARED_OUT_FROM: usize = 4096;
/// Looks before sleep: some 50 µs where each rank has a core, a few otherwise, since then the awaited one may need
/// this.
const SPINS: u32 = 1000;
const SPINS_ON_SHARED_CORES: u32 = 50;
/// A sleeper looks this often whether a rank has left, for the case that it fell asleep just after the leaver's call.
const SLEEP_MAX: Duration = Duration::from_millis(20);

/// An operation, as ranks tell each other of it.
#[derive(Clone, Copy)]
struct Operation {
    name: &'static str,
    code: u32,
    /// Elements of the result.
    length: usize,
}

const OPERATIONS: [&str; 2] = ["all_reduce", "all_gather"];

impl SharedMemory {
    /// Makes the memory for `world` ranks.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Setup`], of rank 0, with what the system says.
    pub fn create(world: usize) -> Result<SharedMemoryOwner, CollectiveError> {
        let create = || {
            let fd = memfd_create("peregrine-collective", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
            ftruncate(&fd, Region::len_bytes(world) as u64)?;
            // A smaller file would fault whoever reads the part that is gone.
            fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
            Ok(SharedMemoryOwner { fd })
        };
        create().map_err(|error: rustix::io::Errno| CollectiveError::Setup { rank: 0, message: error.to_string() })
    }

    /// Takes a rank's place. `path` is the owner's; a wait for another rank ends after `time_limit`.
    ///
    /// # Errors
    ///
    /// [`CollectiveError::Setup`]: there is no such memory, or it was made for another world.
    pub fn join(path: &Path, rank: usize, world: usize, time_limit: Duration) -> Result<Self, CollectiveError> {
        let setup = |message: String| CollectiveError::Setup { rank, message };
        let system = |error: rustix::io::Errno| setup(format!("{}: {error}", path.display()));
        if rank >= world {
            return Err(setup(format!("there is no such rank among {world}")));
        }
        let fd = open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(system)?;
        let (found, expected) = (fstat(&fd).map_err(system)?.st_size, Region::len_bytes(world));
        if usize::try_from(found) != Ok(expected) {
            let message = format!("{} has {found} bytes, and {world} ranks need {expected}", path.display());
            return Err(setup(message));
        }
        let region = Region::map(&fd, world).map_err(system)?;
        let cores = available_parallelism().map_or(1, usize::from);
        let spins = if world <= cores { SPINS } else { SPINS_ON_SHARED_CORES };
        Ok(Self { region, rank, world, isa: Isa::detect(), time_limit, spins, sequence: 0, pieces: 0, failure: None })
    }

    fn begin(&mut self, code: u32, length: usize) -> Result<Operation, CollectiveError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.sequence += 1;
        Ok(Operation { name: OPERATIONS[code as usize], code, length })
    }

    /// Leaves after an error, so that the others need not wait.
    fn end(&mut self, result: Result<(), CollectiveError>) -> Result<(), CollectiveError> {
        if let Err(failure) = &result {
            self.failure = Some(failure.clone());
            self.leave();
        }
        result
    }

    fn leave(&self) {
        self.region.control(self.rank).left.store(1, Ordering::Release);
        (0..self.world).for_each(|rank| wake(self.region.control(rank)));
    }

    /// Fills the next slot of this rank, tells the others, and waits for theirs. Returns which slot it was.
    fn exchange(&mut self, operation: Operation, mine: &[f32]) -> Result<usize, CollectiveError> {
        let slot = self.pieces % SLOTS;
        self.pieces += 1;
        // SAFETY: others read this slot at the ticks of the piece before the last. This rank has since waited for all
        // of them to reach a tick of the last piece (acquire), before which they had done with it (release); where such
        // a wait failed, `begin` lets nothing follow.
        unsafe { self.region.slot_mut(self.rank, slot, 0, mine.len()) }.copy_from_slice(mine);
        let doing = &self.region.control(self.rank).doing[slot];
        doing.0.store(operation.code, Ordering::Relaxed);
        doing.1.store(operation.length as u64, Ordering::Relaxed);
        self.tick(operation)?;
        for other in 0..self.world {
            let doing = &self.region.control(other).doing[slot];
            let (code, length) = (doing.0.load(Ordering::Relaxed), doing.1.load(Ordering::Relaxed));
            if (code, length) != (operation.code, operation.length as u64) {
                return Err(CollectiveError::Mismatch {
                    rank: self.rank,
                    operation: operation.name,
                    sequence: self.sequence,
                    length: operation.length,
                    other,
                    other_operation: OPERATIONS.get(code as usize).copied().unwrap_or("something unknown"),
                    other_length: usize::try_from(length).unwrap_or(usize::MAX),
                });
            }
        }
        Ok(slot)
    }

    /// Reaches the next tick, and waits until all others have.
    fn tick(&self, operation: Operation) -> Result<(), CollectiveError> {
        let mine = self.region.control(self.rank);
        // Only this rank writes its counter. Release: what it has written to its slot, and read from others', comes
        // before. Sequentially consistent with the sleepers' count: either this rank sees the sleeper, or the sleeper
        // the tick.
        let tick = mine.tick.load(Ordering::Relaxed).wrapping_add(1);
        mine.tick.store(tick, Ordering::SeqCst);
        if mine.sleepers.load(Ordering::SeqCst) > 0 {
            wake(mine);
        }
        (0..self.world).filter(|&other| other != self.rank).try_for_each(|other| self.wait(operation, other, tick))
    }

    /// Waits until `other` has reached `tick`.
    fn wait(&self, operation: Operation, other: usize, tick: u32) -> Result<(), CollectiveError> {
        let control = self.region.control(other);
        // Counters wrap, and are at most a piece's ticks apart.
        let reached = |at: u32| at.wrapping_sub(tick) as i32 >= 0;
        for _ in 0..self.spins {
            // Acquire: what the other wrote before this tick can be read after it.
            if reached(control.tick.load(Ordering::Acquire)) {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        let (rank, sequence, operation) = (self.rank, self.sequence, operation.name);
        let deadline = Instant::now() + self.time_limit;
        loop {
            let left = (0..self.world).find(|&by| self.region.control(by).left.load(Ordering::Acquire) != 0);
            control.sleepers.fetch_add(1, Ordering::SeqCst);
            let seen = control.tick.load(Ordering::SeqCst);
            let time = deadline.saturating_duration_since(Instant::now());
            if !reached(seen) && left.is_none() && !time.is_zero() {
                sleep(control, seen, time.min(SLEEP_MAX));
            }
            control.sleepers.fetch_sub(1, Ordering::Relaxed);
            // A rank that left after its last operation has seen everybody at that operation's last tick; so this look,
            // which comes after the one at who has left, sees it too.
            if reached(control.tick.load(Ordering::Acquire)) {
                return Ok(());
            }
            if let Some(by) = left {
                return Err(CollectiveError::Aborted { rank, operation, sequence, by });
            }
            if time.is_zero() {
                let limit_ms = u64::try_from(self.time_limit.as_millis()).unwrap_or(u64::MAX);
                return Err(CollectiveError::Timeout { rank, operation, sequence, missing: other, limit_ms });
            }
        }
    }

    fn reduce_piece(&mut self, operation: Operation, x: &mut [f32]) -> Result<(), CollectiveError> {
        let slot = self.exchange(operation, x)?;
        if self.world <= 2 || x.len() < SHARED_OUT_FROM {
            self.add_slots(slot, 0..x.len(), x);
            return Ok(());
        }
        let (len, world) = (x.len(), self.world);
        let share = |rank: usize| rank * len / world..(rank + 1) * len / world;
        let own = share(self.rank);
        self.add_slots(slot, own.clone(), &mut x[own.clone()]);
        // SAFETY: at this tick nobody but this rank reads this share, and it has done so; nobody else writes its slot.
        unsafe { self.region.slot_mut(self.rank, slot, own.start, own.len()) }.copy_from_slice(&x[own]);
        self.tick(operation)?;
        for other in (0..world).filter(|&other| other != self.rank) {
            let range = share(other);
            // SAFETY: after the second tick the share is written, until its rank fills the slot again, which it does
            // after this rank has reached a tick of the next piece.
            let sum = unsafe { self.region.slot(other, slot, range.start, range.len()) };
            x[range].copy_from_slice(sum);
        }
        Ok(())
    }

    /// `sums = Σ` over all ranks of a range of their slots.
    fn add_slots(&self, slot: usize, range: Range<usize>, sums: &mut [f32]) {
        for rank in 0..self.world {
            // SAFETY: every rank has reached the tick at which its slot is filled. It fills it again after this rank
            // has reached a tick of the next piece, and at the second tick of a long sum it writes its own share alone,
            // which only itself adds.
            let term = unsafe { self.region.slot(rank, slot, range.start, range.len()) };
            match rank {
                0 => sums.copy_from_slice(term),
                _ => dispatch(self.isa, AddTo { sum: sums, term }),
            }
        }
    }

    fn gather_pieces(
        &mut self,
        operation: Operation,
        mine: &[f32],
        counts: &[usize],
        all: &mut [f32],
    ) -> Result<(), CollectiveError> {
        let longest = counts.iter().copied().max().unwrap_or(0);
        let piece = |count: usize, start: usize| start.min(count)..count.min(start + SLOT_LEN);
        // An empty operation has one piece, too, so that ranks learn whether they agree.
        for start in (0..longest.max(1)).step_by(SLOT_LEN) {
            let slot = self.exchange(operation, &mine[piece(mine.len(), start)])?;
            let mut rest = &mut *all;
            for (rank, &count) in counts.iter().enumerate() {
                let (part, behind) = rest.split_at_mut(count);
                let range = piece(count, start);
                // SAFETY: the rank has filled its slot, and fills it again after this rank has reached a tick of the
                // next piece.
                part[range.clone()].copy_from_slice(unsafe { self.region.slot(rank, slot, 0, range.len()) });
                rest = behind;
            }
        }
        Ok(())
    }
}

impl Collective for SharedMemory {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn all_reduce(&mut self, x: &mut [f32]) -> Result<(), CollectiveError> {
        let operation = self.begin(0, x.len())?;
        let result = match x.len() {
            0 => self.reduce_piece(operation, x),
            _ => x.chunks_mut(SLOT_LEN).try_for_each(|piece| self.reduce_piece(operation, piece)),
        };
        self.end(result)
    }

    fn all_gather(&mut self, mine: &[f32], counts: &[usize], all: &mut [f32]) -> Result<(), CollectiveError> {
        assert_eq!(counts.len(), self.world, "one count for each rank");
        assert_eq!(counts[self.rank], mine.len(), "a rank gives what it announced");
        assert_eq!(counts.iter().sum::<usize>(), all.len(), "the counts make up the whole");
        let operation = self.begin(1, all.len())?;
        let result = self.gather_pieces(operation, mine, counts, all);
        self.end(result)
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Sleeps until the rank's tick is no longer `seen`, or somebody calls, or the time is over.
fn sleep(control: &Control, seen: u32, time: Duration) {
    let time = futex::Timespec { tv_sec: time.as_secs().cast_signed(), tv_nsec: time.subsec_nanos().into() };
    // However it ends, the caller looks again.
    let _ = futex::wait(&control.tick, futex::Flags::empty(), seen, Some(&time));
}

/// Calls everybody who sleeps on the rank's tick.
fn wake(control: &Control) {
    // It fails only for an address that is not mapped.
    let _ = futex::wake(&control.tick, futex::Flags::empty(), i32::MAX as u32);
}
