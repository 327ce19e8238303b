//! The protocol by which ranks sum and gather over memory that they share.
//!
//! An operation is a sequence of *ticks*. At a tick a rank has filled its slot; it raises its tick counter (release)
//! and waits until the counters of all others are as high (acquire), and then their slots are its to read. Pieces of a
//! long message use a rank's two slots in turn. A rank fills a slot again only after all others have reached a tick of
//! the piece in between, that is, after they have read what was there.
//!
//! Short sums: everybody adds all slots. Long ones: at a first tick each rank adds its share of all slots and puts it
//! into its own slot, where nobody else reads that share; at a second tick everybody copies the shares. Either way each
//! element is added up in rank order.

use crate::sync::{AtomicU32, AtomicU64, Futex, Ordering, fence, now, spin_loop};
use backend::CollectiveError;
use std::ops::Range;
use std::time::Duration;
use timeouts::Stopwatch;

/// Slots of a rank: while others read from one, it fills the next.
pub const SLOTS: usize = 2;

/// A sleeper looks this often whether a rank has left, for the case that it fell asleep just after the leaver's call, and
/// whether the time is over.
const SLEEP_MAX: Duration = Duration::from_millis(20);

/// What one process tells the others. Zeros are its first state.
#[repr(C, align(64))]
pub struct Control {
    /// How many ticks the rank has reached; the others sleep on it.
    pub tick: Futex,
    /// How many others sleep on `tick`.
    pub sleepers: AtomicU32,
    /// Not 0 once the rank has left.
    pub left: AtomicU32,
    /// The process's id; 0 until it has joined.
    pub pid: AtomicU32,
    /// What the rank is doing, for each slot: the operation, and how many elements its result has.
    pub doing: [(AtomicU32, AtomicU64); SLOTS],
}

/// Memory that the ranks share: for each of them control words and [`SLOTS`] slots. Another line of control words, behind
/// those of the last rank, is that of the process which made the memory; it has a `pid` alone.
pub trait Memory {
    /// Elements of a slot.
    const SLOT_LEN: usize;
    /// Sums of so many elements, of more than two ranks, are shared out.
    const SHARED_OUT_FROM: usize;

    /// Control words.
    fn control(&self, rank: usize) -> &Control;

    /// Calls `read` with elements of a rank's slot.
    ///
    /// # Safety
    ///
    /// Nobody, in any process, writes these elements meanwhile.
    unsafe fn read<R>(&self, rank: usize, slot: usize, range: Range<usize>, read: impl FnOnce(&[f32]) -> R) -> R;

    /// Calls `write` with elements of a rank's slot.
    ///
    /// # Safety
    ///
    /// Nobody else, in any process, reads or writes these elements meanwhile.
    unsafe fn write(&self, rank: usize, slot: usize, range: Range<usize>, write: impl FnOnce(&mut [f32]));
}

/// `sum += term`, element by element.
pub type Add = Box<dyn Fn(&mut [f32], &[f32]) + Send>;

/// One rank's end.
pub struct Exchange<M: Memory> {
    memory: M,
    rank: usize,
    world: usize,
    /// How long an operation may wait for others.
    time_limit: Duration,
    /// How often a waiting rank looks before it sleeps.
    spins: u32,
    add: Add,
    /// Operations so far, the current one included.
    sequence: u64,
    /// Pieces so far; its parity chooses the slot.
    pieces: usize,
    /// What ended this rank's part. It must not fill a slot again: it has not waited for those who read there.
    failure: Option<CollectiveError>,
}

/// An operation, as ranks tell each other of it.
struct Operation {
    name: &'static str,
    code: u32,
    /// Elements of the result.
    length: usize,
    /// Since it had to sleep for the first time.
    clock: Option<Stopwatch>,
}

const OPERATIONS: [&str; 2] = ["all_reduce", "all_gather"];

impl<M: Memory> Exchange<M> {
    /// Takes a rank's place in the memory.
    pub fn new(memory: M, (rank, world): (usize, usize), time_limit: Duration, spins: u32, add: Add) -> Self {
        memory.control(rank).pid.store(std::process::id(), Ordering::Relaxed);
        Self { memory, rank, world, time_limit, spins, add, sequence: 0, pieces: 0, failure: None }
    }

    /// This rank, and how many there are.
    pub fn place(&self) -> (usize, usize) {
        (self.rank, self.world)
    }

    /// All processes that have joined, and the one that made the memory.
    pub fn processes(&self) -> Vec<u32> {
        let pids = (0..=self.world).map(|process| self.memory.control(process).pid.load(Ordering::Relaxed));
        pids.filter(|&pid| pid != 0).collect()
    }

    /// [`backend::Collective::all_reduce`].
    pub fn all_reduce(&mut self, x: &mut [f32]) -> Result<(), CollectiveError> {
        let mut operation = self.begin(0, x.len())?;
        let result = match x.len() {
            0 => self.reduce_piece(&mut operation, x),
            _ => x.chunks_mut(M::SLOT_LEN).try_for_each(|piece| self.reduce_piece(&mut operation, piece)),
        };
        self.end(result)
    }

    /// [`backend::Collective::all_gather`].
    pub fn all_gather(&mut self, mine: &[f32], counts: &[usize], all: &mut [f32]) -> Result<(), CollectiveError> {
        assert_eq!(counts.len(), self.world, "one count for each rank");
        assert_eq!(counts[self.rank], mine.len(), "a rank gives what it announced");
        assert_eq!(counts.iter().sum::<usize>(), all.len(), "the counts make up the whole");
        let mut operation = self.begin(1, all.len())?;
        let result = self.gather_pieces(&mut operation, mine, counts, all);
        self.end(result)
    }

    /// Takes the place anew in memory whose control words are zeros again. Nobody is in the middle of an operation.
    pub fn rejoin(&mut self) {
        self.memory.control(self.rank).pid.store(std::process::id(), Ordering::Relaxed);
        (self.sequence, self.pieces, self.failure) = (0, 0, None);
    }

    /// How long operations may wait for others from now on.
    pub fn set_time_limit(&mut self, time_limit: Duration) {
        self.time_limit = time_limit;
    }

    fn begin(&mut self, code: u32, length: usize) -> Result<Operation, CollectiveError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        self.sequence += 1;
        Ok(Operation { name: OPERATIONS[code as usize], code, length, clock: None })
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
        leave(&self.memory, self.rank, self.world);
    }

    /// Fills the next slot of this rank, tells the others, and waits for theirs. Returns which slot it was.
    fn exchange(&mut self, operation: &mut Operation, mine: &[f32]) -> Result<usize, CollectiveError> {
        let slot = self.pieces % SLOTS;
        self.pieces += 1;
        // SAFETY: others read this slot at the ticks of the piece before the last. This rank has since waited for all
        // of them to reach a tick of the last piece (acquire), before which they had done with it (release); where such
        // a wait failed, `begin` lets nothing follow.
        unsafe { self.memory.write(self.rank, slot, 0..mine.len(), |to| to.copy_from_slice(mine)) };
        let doing = &self.memory.control(self.rank).doing[slot];
        doing.0.store(operation.code, Ordering::Relaxed);
        doing.1.store(operation.length as u64, Ordering::Relaxed);
        self.tick(operation)?;
        for other in 0..self.world {
            let doing = &self.memory.control(other).doing[slot];
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
    fn tick(&self, operation: &mut Operation) -> Result<(), CollectiveError> {
        let mine = self.memory.control(self.rank);
        // Only this rank writes its counter. Release: what it has written to its slot, and read from others', comes
        // before.
        let tick = mine.tick.load(Ordering::Relaxed).wrapping_add(1);
        mine.tick.store(tick, Ordering::Release);
        // With the fence of a sleeper: either this rank sees the sleeper, or the sleeper the tick.
        fence(Ordering::SeqCst);
        if mine.sleepers.load(Ordering::Relaxed) > 0 {
            mine.tick.wake_all();
        }
        (0..self.world).filter(|&other| other != self.rank).try_for_each(|other| self.wait(operation, other, tick))
    }

    /// Waits until `other` has reached `tick`.
    fn wait(&self, operation: &mut Operation, other: usize, tick: u32) -> Result<(), CollectiveError> {
        let control = self.memory.control(other);
        // Counters wrap, and are at most a piece's ticks apart.
        let reached = |at: u32| at.wrapping_sub(tick) as i32 >= 0;
        for _ in 0..self.spins {
            // Acquire: what the other wrote before this tick can be read after it.
            if reached(control.tick.load(Ordering::Acquire)) {
                return Ok(());
            }
            spin_loop();
        }
        let (rank, sequence) = (self.rank, self.sequence);
        let clock = operation.clock.get_or_insert_with(|| Stopwatch::start(now()));
        loop {
            let left = (0..self.world).find(|&by| self.memory.control(by).left.load(Ordering::Acquire) != 0);
            let is_late = clock.elapsed(now(), || self.is_stopped()) > self.time_limit;
            control.sleepers.fetch_add(1, Ordering::Relaxed);
            // With the fence of the other's tick.
            fence(Ordering::SeqCst);
            let seen = control.tick.load(Ordering::Relaxed);
            if !reached(seen) && left.is_none() && !is_late {
                control.tick.wait(seen, SLEEP_MAX);
            }
            control.sleepers.fetch_sub(1, Ordering::Relaxed);
            // A rank that left after its last operation has seen everybody at that operation's last tick; so this look,
            // which comes after the one at who has left, sees it too.
            if reached(control.tick.load(Ordering::Acquire)) {
                return Ok(());
            }
            let operation = operation.name;
            if let Some(by) = left {
                return Err(CollectiveError::Aborted { rank, operation, sequence, by });
            }
            if is_late {
                let limit_ms = u64::try_from(self.time_limit.as_millis()).unwrap_or(u64::MAX);
                return Err(CollectiveError::Timeout { rank, operation, sequence, missing: other, limit_ms });
            }
        }
    }

    /// Whether a process on which an operation depends is stopped: a rank, or the one that tells the ranks what to do.
    fn is_stopped(&self) -> bool {
        self.processes().into_iter().any(timeouts::is_stopped)
    }

    fn reduce_piece(&mut self, operation: &mut Operation, x: &mut [f32]) -> Result<(), CollectiveError> {
        let slot = self.exchange(operation, x)?;
        if self.world <= 2 || x.len() < M::SHARED_OUT_FROM {
            self.add_slots(slot, 0..x.len(), x);
            return Ok(());
        }
        let (len, world) = (x.len(), self.world);
        let share = |rank: usize| rank * len / world..(rank + 1) * len / world;
        let own = share(self.rank);
        self.add_slots(slot, own.clone(), &mut x[own.clone()]);
        // SAFETY: at this tick nobody but this rank reads this share, and it has done so; nobody else writes its slot.
        unsafe { self.memory.write(self.rank, slot, own.clone(), |to| to.copy_from_slice(&x[own])) };
        self.tick(operation)?;
        for other in (0..world).filter(|&other| other != self.rank) {
            let sums = &mut x[share(other)];
            // SAFETY: after the second tick the share is written, until its rank fills the slot again, which it does
            // after this rank has reached a tick of the next piece.
            unsafe { self.memory.read(other, slot, share(other), |from| sums.copy_from_slice(from)) };
        }
        Ok(())
    }

    /// `sums = Σ` over all ranks of a range of their slots.
    fn add_slots(&self, slot: usize, range: Range<usize>, sums: &mut [f32]) {
        for rank in 0..self.world {
            let add = |term: &[f32]| match rank {
                0 => sums.copy_from_slice(term),
                _ => (self.add)(sums, term),
            };
            // SAFETY: every rank has reached the tick at which its slot is filled. It fills it again after this rank
            // has reached a tick of the next piece, and at the second tick of a long sum it writes its own share alone,
            // which only itself adds.
            unsafe { self.memory.read(rank, slot, range.clone(), add) };
        }
    }

    fn gather_pieces(
        &mut self,
        operation: &mut Operation,
        mine: &[f32],
        counts: &[usize],
        all: &mut [f32],
    ) -> Result<(), CollectiveError> {
        let longest = counts.iter().copied().max().unwrap_or(0);
        let piece = |count: usize, start: usize| start.min(count)..count.min(start + M::SLOT_LEN);
        // An empty operation has one piece, too, so that ranks learn whether they agree.
        for start in (0..longest.max(1)).step_by(M::SLOT_LEN) {
            let slot = self.exchange(operation, &mine[piece(mine.len(), start)])?;
            let mut rest = &mut *all;
            for (rank, &count) in counts.iter().enumerate() {
                let (part, behind) = rest.split_at_mut(count);
                let range = piece(count, start);
                let to = &mut part[range.clone()];
                // SAFETY: the rank has filled its slot, and fills it again after this rank has reached a tick of the
                // next piece.
                unsafe { self.memory.read(rank, slot, 0..range.len(), |from| to.copy_from_slice(from)) };
                rest = behind;
            }
        }
        Ok(())
    }
}

/// A rank leaves: nobody waits for it any more, and it waits for nobody.
pub fn leave(memory: &impl Memory, rank: usize, world: usize) {
    memory.control(rank).left.store(1, Ordering::Release);
    (0..world).for_each(|rank| memory.control(rank).tick.wake_all());
}

impl<M: Memory> Drop for Exchange<M> {
    fn drop(&mut self) {
        self.leave();
    }
}
