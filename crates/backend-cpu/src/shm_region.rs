//! The memory that the ranks of one host share: a line of control words for each rank, then two slots for each.

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// Elements of a slot. With two for each of 8 ranks, 8 MiB are shared.
pub const SLOT_LEN: usize = 128 << 10;
/// Slots of a rank: while others read from one, it fills the next.
pub const SLOTS: usize = 2;

/// What one rank tells the others. The system's zeros are its first state.
#[repr(C, align(64))]
pub struct Control {
    /// How many ticks the rank has reached; the others sleep on it.
    pub tick: AtomicU32,
    /// How many others sleep on `tick`.
    pub sleepers: AtomicU32,
    /// Not 0 once the rank has left.
    pub left: AtomicU32,
    /// What the rank is doing, for each slot: the operation, and how many elements its result has.
    pub doing: [(AtomicU32, AtomicU64); SLOTS],
}

/// A mapping of the shared memory.
pub struct Region {
    base: NonNull<u8>,
    world: usize,
}

// SAFETY: the mapping belongs to no thread. Its control words are atomic, and slots are reached through unsafe
// functions whose callers answer for exclusion.
unsafe impl Send for Region {}

impl Region {
    /// How many bytes a world takes.
    pub fn len_bytes(world: usize) -> usize {
        world * (size_of::<Control>() + SLOTS * SLOT_LEN * size_of::<f32>())
    }

    /// Maps the memory behind `fd`, which must have [`Region::len_bytes`] bytes: to touch more would be fatal.
    pub fn map(fd: impl AsFd, world: usize) -> rustix::io::Result<Self> {
        let len = Self::len_bytes(world);
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: the system chooses an address where nothing is mapped.
        let base = unsafe { mmap(std::ptr::null_mut(), len, protection, flags, fd, 0)? };
        Ok(Self { base: NonNull::new(base.cast()).expect("a mapping is not at address 0"), world })
    }

    /// A rank's control words.
    pub fn control(&self, rank: usize) -> &Control {
        assert!(rank < self.world, "rank {rank} of {}", self.world);
        // SAFETY: the lines come first, from a page boundary on, one for each rank; they are atomics, for which every
        // bit pattern is valid and which all may change at once. The mapping lives as long as `self`.
        unsafe { self.base.cast::<Control>().add(rank).as_ref() }
    }

    /// Elements `from..from + len` of a rank's slot.
    ///
    /// # Safety
    ///
    /// Nobody, in any process, writes these elements while the slice lives.
    pub unsafe fn slot(&self, rank: usize, slot: usize, from: usize, len: usize) -> &[f32] {
        let start = self.slot_at(rank, slot, from, len);
        // SAFETY: `slot_at` has checked the bounds; the caller keeps writers away; every bit pattern is an f32.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), len) }
    }

    /// Elements `from..from + len` of a rank's slot, to be written.
    ///
    /// # Safety
    ///
    /// Nobody, in any process, reads or writes these elements while the slice lives.
    #[allow(clippy::mut_from_ref, reason = "what is exclusive is shared between processes, so no `&mut` could say it")]
    pub unsafe fn slot_mut(&self, rank: usize, slot: usize, from: usize, len: usize) -> &mut [f32] {
        let start = self.slot_at(rank, slot, from, len);
        // SAFETY: `slot_at` has checked the bounds; the caller keeps all others away; every bit pattern is an f32.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), len) }
    }

    /// Where elements of a slot begin. Panics if they are not within it.
    fn slot_at(&self, rank: usize, slot: usize, from: usize, len: usize) -> NonNull<f32> {
        assert!(rank < self.world && slot < SLOTS && from <= SLOT_LEN && len <= SLOT_LEN - from, "slot out of bounds");
        let skipped = (rank * SLOTS + slot) * SLOT_LEN + from;
        // SAFETY: behind the control lines there are `world * SLOTS * SLOT_LEN` elements, and `skipped` is at most that
        // by the assertion.
        unsafe { self.base.add(self.world * size_of::<Control>()).cast::<f32>().add(skipped) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and what borrows from it borrows `self`.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), Self::len_bytes(self.world)) };
        debug_assert!(unmapped.is_ok(), "a mapping can be unmapped");
    }
}
