//! The memory that the ranks of one host share: a line of control words for each rank and one for whoever made the memory,
//! then two slots for each rank.

use crate::shm_exchange::{Control, Memory, SLOTS};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::mem::offset_of;
use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::Arc;

/// Elements of a slot. With two for each of 8 ranks, 8 MiB are shared.
const SLOT_LEN: usize = 128 << 10;

/// A mapping of the shared memory.
pub struct Region {
    base: NonNull<u8>,
    world: usize,
}

// SAFETY: the mapping belongs to no thread. Its control words are atomic, and slots are reached through unsafe
// functions whose callers answer for exclusion.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// How many bytes a world takes.
    pub fn len_bytes(world: usize) -> usize {
        Self::slots_at(world) + world * SLOTS * SLOT_LEN * size_of::<f32>()
    }

    /// Where the slots begin, behind the control lines.
    fn slots_at(world: usize) -> usize {
        (world + 1) * size_of::<Control>()
    }

    /// Bytes of the control lines, which come first.
    pub fn control_bytes(world: usize) -> usize {
        Self::slots_at(world)
    }

    /// Where in the memory of a world whoever makes it writes its process id.
    pub fn owner_pid_at(world: usize) -> u64 {
        (world * size_of::<Control>() + offset_of!(Control, pid)) as u64
    }

    /// Maps the memory behind `fd`, which must have [`Region::len_bytes`] bytes: to touch more would be fatal.
    pub fn map(fd: impl AsFd, world: usize) -> rustix::io::Result<Self> {
        let len = Self::len_bytes(world);
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: the system chooses an address where nothing is mapped.
        let base = unsafe { mmap(std::ptr::null_mut(), len, protection, flags, fd, 0)? };
        Ok(Self { base: NonNull::new(base.cast()).expect("a mapping is not at address 0"), world })
    }

    /// Where elements of a slot begin. Panics if they are not within it.
    fn slot_at(&self, rank: usize, slot: usize, range: &Range<usize>) -> NonNull<f32> {
        let inside = range.start <= range.end && range.end <= SLOT_LEN;
        assert!(rank < self.world && slot < SLOTS && inside, "slot out of bounds");
        let skipped = (rank * SLOTS + slot) * SLOT_LEN + range.start;
        // SAFETY: behind the control lines there are `world * SLOTS * SLOT_LEN` elements, and `skipped` is at most that
        // by the assertion.
        unsafe { self.base.add(Self::slots_at(self.world)).cast::<f32>().add(skipped) }
    }
}

impl Memory for Region {
    const SLOT_LEN: usize = SLOT_LEN;
    const SHARED_OUT_FROM: usize = 4096;

    fn control(&self, rank: usize) -> &Control {
        assert!(rank <= self.world, "rank {rank} of {}", self.world);
        // SAFETY: the lines come first, from a page boundary on, one for each rank and another; they are atomics, for
        // which every bit pattern is valid and which all may change at once. The mapping lives as long as `self`.
        unsafe { self.base.cast::<Control>().add(rank).as_ref() }
    }

    unsafe fn read<R>(&self, rank: usize, slot: usize, range: Range<usize>, read: impl FnOnce(&[f32]) -> R) -> R {
        let start = self.slot_at(rank, slot, &range);
        // SAFETY: `slot_at` has checked the bounds; the caller keeps writers away; every bit pattern is an f32.
        read(unsafe { std::slice::from_raw_parts(start.as_ptr(), range.len()) })
    }

    unsafe fn write(&self, rank: usize, slot: usize, range: Range<usize>, write: impl FnOnce(&mut [f32])) {
        let start = self.slot_at(rank, slot, &range);
        // SAFETY: `slot_at` has checked the bounds; the caller keeps all others away; every bit pattern is an f32.
        write(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), range.len()) });
    }
}

impl<M: Memory> Memory for Arc<M> {
    const SLOT_LEN: usize = M::SLOT_LEN;
    const SHARED_OUT_FROM: usize = M::SHARED_OUT_FROM;

    fn control(&self, rank: usize) -> &Control {
        (**self).control(rank)
    }

    unsafe fn read<R>(&self, rank: usize, slot: usize, range: Range<usize>, read: impl FnOnce(&[f32]) -> R) -> R {
        // SAFETY: the caller's promise.
        unsafe { (**self).read(rank, slot, range, read) }
    }

    unsafe fn write(&self, rank: usize, slot: usize, range: Range<usize>, write: impl FnOnce(&mut [f32])) {
        // SAFETY: the caller's promise.
        unsafe { (**self).write(rank, slot, range, write) };
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this length, and what borrows from it borrows `self`.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), Self::len_bytes(self.world)) };
        debug_assert!(unmapped.is_ok(), "a mapping can be unmapped");
    }
}
