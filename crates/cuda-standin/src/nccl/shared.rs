//! What the ranks of a communicator share.

use super::{Failure, Outcome};
use rustix::fd::{AsRawFd, IntoRawFd, OwnedFd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::fs::OpenOptions;
use std::sync::atomic::{AtomicU32, Ordering};

/// Bytes that a rank moves at a time.
pub const SLOT_BYTES: usize = 1 << 20;
/// Ranks at most.
pub const RANKS_MAX: usize = 64;
const HEAD_BYTES: usize = 4096;
const FILE_BYTES: usize = HEAD_BYTES + RANKS_MAX * SLOT_BYTES;
const MAGIC: u64 = 0x6e63_636c_7374_616e;

/// `ncclUniqueId`: which file of which process.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct UniqueId {
    magic: u64,
    process: u64,
    file: u64,
    rest: [u64; 13],
}

impl UniqueId {
    /// A new one. Its file stays open as long as this process lives: other ranks may come at any time.
    pub fn new() -> Outcome<Self> {
        let file = memfd_create("cuda-standin-nccl", MemfdFlags::CLOEXEC).map_err(|_| Failure::SYSTEM)?;
        ftruncate(&file, FILE_BYTES as u64).map_err(|_| Failure::SYSTEM)?;
        Ok(Self { magic: MAGIC, process: std::process::id().into(), file: file.into_raw_fd() as u64, rest: [0; 13] })
    }
}

/// The beginning of the file.
#[repr(C)]
struct Head {
    /// How many ranks the first one said there are.
    ranks: AtomicU32,
    joined: AtomicU32,
    aborted: AtomicU32,
    arrived: AtomicU32,
    generation: AtomicU32,
    /// The device of each rank, and one; zero while it has not joined.
    devices: [AtomicU32; RANKS_MAX],
}

/// The file, mapped.
pub struct Shared {
    start: *mut u8,
}

// SAFETY: the head is atomics, and the slots are only reached through functions whose contract says who may.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: `open` mapped as many bytes there, and references into them borrow `self`.
        let unmapped = unsafe { munmap(self.start.cast::<c_void>(), FILE_BYTES) };
        debug_assert!(unmapped.is_ok());
    }
}

impl Shared {
    /// Maps the file of an id.
    pub fn open(id: &UniqueId) -> Outcome<Self> {
        if id.magic != MAGIC {
            return Err(Failure::INVALID_ARGUMENT);
        }
        let path = format!("/proc/{}/fd/{}", id.process, id.file);
        let file: OwnedFd = OpenOptions::new().read(true).write(true).open(path).map_err(|_| Failure::SYSTEM)?.into();
        debug_assert!(file.as_raw_fd() >= 0);
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses overlaps nothing; the file has `FILE_BYTES` bytes,
        // as only `UniqueId::new` makes such ids.
        let start = unsafe { mmap(std::ptr::null_mut(), FILE_BYTES, access, MapFlags::SHARED, &file, 0) };
        Ok(Self { start: start.map_err(|_| Failure::SYSTEM)?.cast() })
    }

    fn head(&self) -> &Head {
        // SAFETY: the mapping is aligned to pages and larger than the head, whose fields are atomics, for which any bits
        // are valid; it lives as long as `self`.
        unsafe { &*self.start.cast() }
    }

    /// A rank's slot.
    pub fn slot(&self, rank: usize) -> *mut u8 {
        assert!(rank < RANKS_MAX);
        // SAFETY: the slots of all ranks lie in the mapping.
        unsafe { self.start.add(HEAD_BYTES + rank * SLOT_BYTES) }
    }

    /// Takes a rank's place. Two ranks on one device, or two that are the same, are an error.
    pub fn join(&self, ranks: usize, rank: usize, device: usize) -> Outcome {
        let head = self.head();
        let known =
            head.ranks.compare_exchange(0, ranks as u32, Ordering::SeqCst, Ordering::SeqCst).unwrap_or_else(|n| n);
        if known != 0 && known != ranks as u32 {
            return Err(Failure::INVALID_ARGUMENT);
        }
        let mark = device as u32 + 1;
        if head.devices[rank].swap(mark, Ordering::SeqCst) != 0 {
            return Err(Failure::INVALID_USAGE);
        }
        let others = head.devices[..ranks].iter().filter(|other| other.load(Ordering::SeqCst) == mark).count();
        if others > 1 {
            self.abort();
            return Err(Failure::INVALID_USAGE);
        }
        head.joined.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// Whether all ranks have joined.
    pub fn is_complete(&self) -> bool {
        self.head().joined.load(Ordering::SeqCst) >= self.head().ranks.load(Ordering::SeqCst)
    }

    /// Ends all waiting, of all ranks.
    pub fn abort(&self) {
        self.head().aborted.store(1, Ordering::SeqCst);
    }

    /// Whether a rank has ended it.
    pub fn is_aborted(&self) -> bool {
        self.head().aborted.load(Ordering::SeqCst) != 0
    }

    /// Arrives at the barrier; gives what `has_passed` asks for, or none if this was the last rank to arrive.
    pub fn arrive(&self, ranks: usize) -> Option<u32> {
        let head = self.head();
        let generation = head.generation.load(Ordering::SeqCst);
        if head.arrived.fetch_add(1, Ordering::SeqCst) + 1 == ranks as u32 {
            head.arrived.store(0, Ordering::SeqCst);
            head.generation.fetch_add(1, Ordering::SeqCst);
            return None;
        }
        Some(generation)
    }

    /// Whether all ranks have arrived since.
    pub fn has_passed(&self, generation: u32) -> bool {
        self.head().generation.load(Ordering::SeqCst) != generation
    }
}
