//! Device memory and pinned host memory, which are ranges of this process's address space.
//!
//! An allocation ends where a page ends, with an unmapped page behind it, and is NaN until it is written. What
//! `cuMemAlloc` gives lies in a memory file, which other processes can map; large allocations are copies of one page file,
//! so that they take no memory until they are written.

use super::context::Context;
use super::status::{Outcome, Status};
use crate::config::config;
use crate::exec::launch::GlobalMemory;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Allocations start at multiples of this.
const ALIGN: usize = 256;
const PAGE: usize = 4096;
/// Allocations of this size and more are made of [`page_file`].
const LARGE_BYTES: usize = 256 << 20;
/// The size of the page file.
const PAGE_FILE_BYTES: usize = 64 << 20;

/// What memory is for, which decides what may be done with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `cuMemAlloc`: other processes may map it.
    Device,
    /// `cuMemAllocAsync`: other processes may not.
    Pool,
    /// `cuMemHostAlloc`: every device may access it.
    Host,
    /// Of another process.
    Imported,
    /// A variable of a module.
    Module,
}

/// One allocation.
pub struct Allocation {
    pub kind: Kind,
    pub device: usize,
    /// Bytes that were asked for.
    pub bytes: usize,
    mapping: Mapping,
    /// What it lies in, if another process may map it.
    pub file: Option<OwnedFd>,
}

impl Allocation {
    /// Where its first byte is in its file.
    pub fn file_offset(&self, address: u64) -> u64 {
        address - self.mapping.start as u64
    }

    /// Bytes of its file.
    pub fn file_bytes(&self) -> usize {
        self.mapping.len - PAGE
    }
}

/// A range of address space; its last page is never accessible.
struct Mapping {
    start: usize,
    len: usize,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `Mapping::new`, and is unmapped once. Device addresses into it are numbers,
        // which are looked up in the table of allocations before each use; the allocation has left it.
        let unmapped = unsafe { munmap(self.start as *mut c_void, self.len) };
        debug_assert!(unmapped.is_ok());
    }
}

impl Mapping {
    /// Reserves `len` bytes and a page, none of them accessible.
    fn new(len: usize) -> Outcome<Self> {
        let len = len + PAGE;
        // SAFETY: a new mapping at an address that the kernel chooses overlaps nothing.
        let start = unsafe {
            mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE)
        };
        Ok(Self { start: start.map_err(|_| Status::OUT_OF_MEMORY)? as usize, len })
    }

    /// Puts `len` bytes of a file at `offset` of the range.
    fn put(&self, offset: usize, len: usize, file: impl AsFd, flags: MapFlags) -> Outcome {
        assert!(offset + len <= self.len - PAGE);
        let at = (self.start + offset) as *mut c_void;
        // SAFETY: the range lies in this mapping, whose pages are replaced; nobody has an address into it yet.
        let put = unsafe { mmap(at, len, ProtFlags::READ | ProtFlags::WRITE, flags | MapFlags::FIXED, file, 0) };
        put.map(drop).map_err(|_| Status::OUT_OF_MEMORY)
    }
}

type Table = BTreeMap<u64, Allocation>;

static ALLOCATIONS: RwLock<Table> = RwLock::new(BTreeMap::new());

/// All allocations, by their first address.
pub fn allocations() -> RwLockReadGuard<'static, Table> {
    ALLOCATIONS.read().unwrap_or_else(PoisonError::into_inner)
}

fn allocations_mut() -> RwLockWriteGuard<'static, Table> {
    ALLOCATIONS.write().unwrap_or_else(PoisonError::into_inner)
}

/// The allocation that an address is in.
pub fn find(table: &Table, address: u64) -> Option<(u64, &Allocation)> {
    let (start, allocation) = table.range(..=address).next_back()?;
    (address - start < allocation.bytes as u64).then_some((*start, allocation))
}

/// Bytes in use on a device.
pub fn used_bytes(device: usize) -> u64 {
    let counts = |allocation: &&Allocation| {
        allocation.device == device && matches!(allocation.kind, Kind::Device | Kind::Pool | Kind::Module)
    };
    allocations().values().filter(counts).map(|allocation| allocation.bytes as u64).sum()
}

/// Allocates memory that holds NaN.
pub fn allocate(kind: Kind, device: usize, bytes: usize) -> Outcome<u64> {
    if bytes == 0 {
        return Err(Status::INVALID_VALUE);
    }
    if kind != Kind::Host && used_bytes(device) + bytes as u64 > config().memory_bytes {
        return Err(Status::OUT_OF_MEMORY);
    }
    let used = bytes.next_multiple_of(ALIGN);
    let len = used.next_multiple_of(PAGE);
    let mapping = Mapping::new(len)?;
    let file = if bytes < LARGE_BYTES {
        let file = File::from(memory_file(len)?);
        mapping.put(0, len, &file, MapFlags::SHARED)?;
        // SAFETY: these `len` bytes were mapped just now, for reading and writing, and nobody else knows of them.
        unsafe { std::ptr::write_bytes(mapping.start as *mut u8, 0xff, len) };
        Some(OwnedFd::from(file))
    } else {
        for offset in (0..len).step_by(PAGE_FILE_BYTES) {
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            mapping.put(offset, PAGE_FILE_BYTES.min(len - offset), page_file()?, flags)?;
        }
        None
    };
    let start = (mapping.start + len - used) as u64;
    let file = file.filter(|_| kind == Kind::Device);
    allocations_mut().insert(start, Allocation { kind, device, bytes, mapping, file });
    Ok(start)
}

/// Ends an allocation of one of the kinds.
pub fn free(address: u64, kinds: &[Kind]) -> Outcome {
    let mut table = allocations_mut();
    match table.get(&address) {
        Some(allocation) if kinds.contains(&allocation.kind) => {
            table.remove(&address);
            Ok(())
        }
        _ => Err(Status::INVALID_VALUE),
    }
}

/// Maps memory of another process: `bytes` at `offset` of `file`.
pub fn import(device: usize, file: &OwnedFd, file_bytes: usize, offset: u64, bytes: usize) -> Outcome<u64> {
    if offset.checked_add(bytes as u64).is_none_or(|end| end > file_bytes as u64) {
        return Err(Status::INVALID_VALUE);
    }
    let mapping = Mapping::new(file_bytes)?;
    mapping.put(0, file_bytes, file, MapFlags::SHARED)?;
    let start = mapping.start as u64 + offset;
    allocations_mut().insert(start, Allocation { kind: Kind::Imported, device, bytes, mapping, file: None });
    Ok(start)
}

fn memory_file(len: usize) -> Outcome<OwnedFd> {
    let file = memfd_create("cuda-standin", MemfdFlags::CLOEXEC).map_err(|_| Status::OUT_OF_MEMORY)?;
    ftruncate(&file, len as u64).map_err(|_| Status::OUT_OF_MEMORY)?;
    Ok(file)
}

/// A file of NaN, of which large allocations are made.
fn page_file() -> Outcome<&'static File> {
    static FILE: OnceLock<Option<File>> = OnceLock::new();
    let make = || {
        let file = File::from(memory_file(PAGE_FILE_BYTES).ok()?);
        let chunk = vec![0xff; 1 << 20];
        for offset in (0..PAGE_FILE_BYTES).step_by(chunk.len()) {
            file.write_all_at(&chunk, offset as u64).ok()?;
        }
        Some(file)
    };
    FILE.get_or_init(make).as_ref().ok_or(Status::OUT_OF_MEMORY)
}

/// Holds a copy by the driver to what is allocated.
pub fn check(address: u64, bytes: usize) -> Outcome {
    let table = allocations();
    match find(&table, address) {
        Some((start, allocation)) if address - start + bytes as u64 <= allocation.bytes as u64 => Ok(()),
        None if bytes == 0 => Ok(()),
        _ => Err(Status::INVALID_VALUE),
    }
}

/// Whether the driver knows the memory: if not, it is pageable memory of the host.
pub fn is_known(address: u64, bytes: usize) -> bool {
    check(address, bytes.max(1)).is_ok()
}

/// What kernels on a device may access.
pub struct View {
    pub context: Arc<Context>,
}

impl GlobalMemory for View {
    fn range_of(&self, address: u64) -> Result<Range<u64>, String> {
        let table = allocations();
        let Some((start, allocation)) = find(&table, address) else {
            let below = table.range(..=address).next_back();
            return Err(match below {
                Some((start, below)) if address - start < below.bytes as u64 + (PAGE as u64) => {
                    format!(
                        "{} past the end of an allocation of {} bytes",
                        address - start - below.bytes as u64,
                        below.bytes
                    )
                }
                _ => "where nothing is allocated".to_owned(),
            });
        };
        let device = self.context.device;
        let everyone = matches!(allocation.kind, Kind::Host | Kind::Imported);
        if !everyone && allocation.device != device && !self.context.can_access(allocation.device) {
            return Err(format!("on device {}, to which device {device} has no peer access", allocation.device));
        }
        Ok(start..start + allocation.bytes as u64)
    }
}

/// Copies between ranges that may overlap.
///
/// # Safety
///
/// Both ranges are mapped, for as long as it takes. Others may race for them, as on a device: what is copied then is
/// either value of each byte.
pub unsafe fn copy(to: u64, from: u64, bytes: usize) {
    // SAFETY: of the caller.
    unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) }
}

/// Sets bytes of device memory.
///
/// # Safety
///
/// As for [`copy`].
pub unsafe fn fill(to: u64, value: u8, bytes: usize) {
    // SAFETY: of the caller.
    unsafe { std::ptr::write_bytes(to as *mut u8, value, bytes) }
}
