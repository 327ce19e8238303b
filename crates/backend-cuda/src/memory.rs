//! Memory of the device, and pinned memory of the host.

use crate::device::Device;
use crate::packing::{ALIGN, Packing, Place};
use backend::BackendError;
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaEvent, result};
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::rc::Rc;

/// Hands out memory of the device, from large pieces.
pub(crate) struct Arena {
    device: Rc<Device>,
    packing: RefCell<Packing>,
    /// The pieces from which small buffers are handed out.
    chunks: RefCell<Vec<Rc<Chunk>>>,
}

/// Memory of the device: a part of an allocation, which it keeps.
#[derive(Clone)]
pub(crate) struct Buffer {
    at: u64,
    bytes: usize,
    _chunk: Rc<Chunk>,
}

/// One allocation.
pub(crate) struct Chunk {
    device: Rc<Device>,
    at: u64,
}

impl Arena {
    pub(crate) fn new(device: Rc<Device>, chunk_bytes: usize) -> Self {
        Self { device, packing: RefCell::new(Packing::new(chunk_bytes)), chunks: RefCell::default() }
    }

    /// Memory of `bytes`; its contents are not defined. `what` is named where there is no room.
    ///
    /// # Panics
    ///
    /// If the device is sealed: steps allocate nothing.
    pub(crate) fn buffer(&self, what: &'static str, bytes: usize) -> Result<Buffer, BackendError> {
        self.device.may_allocate(what, bytes);
        let mut packing = self.packing.borrow().clone();
        let mut chunks = self.chunks.borrow_mut();
        let buffer = match packing.place(bytes) {
            Place::Own { bytes } => {
                let chunk = Rc::new(Chunk::new(&self.device, what, bytes)?);
                Buffer { at: chunk.at, bytes, _chunk: chunk }
            }
            Place::In { chunk, offset, bytes } => {
                if chunk == chunks.len() {
                    chunks.push(Rc::new(Chunk::new(&self.device, what, packing.chunk_bytes)?));
                }
                let chunk = &chunks[chunk];
                Buffer { at: chunk.at + offset as u64, bytes, _chunk: Rc::clone(chunk) }
            }
        };
        *self.packing.borrow_mut() = packing;
        Ok(buffer)
    }

    /// As [`Arena::buffer`], filled with zeros.
    pub(crate) fn zeros(&self, what: &'static str, bytes: usize) -> Result<Buffer, BackendError> {
        let buffer = self.buffer(what, bytes)?;
        // SAFETY: the buffer is as long; the stream runs this before whatever uses the buffer, and memory is given back
        // only after the stream has run all.
        unsafe { self.device.zero(buffer.at, buffer.bytes) }?;
        Ok(buffer)
    }
}

impl Buffer {
    /// Its address.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// Its length.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Chunk {
    /// An allocation that other processes can map, too.
    pub(crate) fn new(device: &Rc<Device>, what: &'static str, bytes: usize) -> Result<Self, BackendError> {
        device.may_allocate(what, bytes);
        // SAFETY: the context is current on this thread, which made it. The memory is not read before it is written.
        match unsafe { result::malloc_sync(bytes) } {
            Ok(at) => Ok(Self { device: Rc::clone(device), at }),
            Err(error) if error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                Err(BackendError::OutOfMemory { what, bytes })
            }
            Err(error) => Err(device.fault(what, error)),
        }
    }

    /// Its address.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // After an error the stream may never come to rest; the memory goes with the process.
        if self.device.is_broken() || self.device.wait("giving memory back").is_err() {
            return;
        }
        // SAFETY: nothing on the stream uses the memory any more, and all buffers in it are gone, as each keeps it.
        // A failure could only be reported by the next call of the driver, which gives it again.
        let _ = unsafe { result::free_sync(self.at) };
    }
}

/// Rows of `T` in memory of the device.
#[derive(Debug)]
pub(crate) struct View<T> {
    pub(crate) at: u64,
    /// The most rows that it can hold.
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Elements from one row to the next.
    pub(crate) stride: usize,
    element: PhantomData<T>,
}

impl<T> Clone for View<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<T> {}

impl<T> View<T> {
    /// Rows at an address.
    pub(crate) fn new(at: u64, rows: usize, columns: usize, stride: usize) -> Self {
        assert!(columns <= stride || rows <= 1, "{columns} columns in rows of {stride}");
        Self { at, rows, columns, stride, element: PhantomData }
    }

    /// The address of a row.
    pub(crate) fn row(&self, row: usize) -> u64 {
        self.at + (row * self.stride * size_of::<T>()) as u64
    }

    /// The rows from `first` on.
    pub(crate) fn from(&self, first: usize) -> Self {
        Self { at: self.row(first), rows: self.rows - first, ..*self }
    }

    /// Asserts what kernels need: an address that is a multiple of 16 bytes, and a stride of 16 bytes or of `multiple`
    /// elements.
    pub(crate) fn check(&self, what: &str, multiple: usize) {
        assert!(self.at.is_multiple_of(16), "{what} at {:#x}: expected a multiple of 16 bytes", self.at);
        assert!(self.stride.is_multiple_of(multiple), "{what}: a stride of {}, expected {multiple}·n", self.stride);
    }
}

/// Memory that grows while a model is loaded, and is never smaller than any operation asks for.
pub(crate) struct Scratch {
    what: &'static str,
    buffer: Option<Buffer>,
    /// Must be zeros when it is new.
    zeros: bool,
}

impl Scratch {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, buffer: None, zeros: false }
    }

    pub(crate) fn zeros(what: &'static str) -> Self {
        Self { what, buffer: None, zeros: true }
    }

    /// Its address; 0 where there is none.
    pub(crate) fn at(&self) -> u64 {
        self.buffer.as_ref().map_or(0, Buffer::at)
    }

    /// Its length.
    pub(crate) fn bytes(&self) -> usize {
        self.buffer.as_ref().map_or(0, Buffer::bytes)
    }

    /// Zeros, where it must be zeros when it is new.
    pub(crate) fn renew(&self, device: &Device) -> Result<(), BackendError> {
        match &self.buffer {
            // SAFETY: the buffer is as long, and lives as long as the backend.
            Some(buffer) if self.zeros => unsafe { device.zero(buffer.at, buffer.bytes) },
            _ => Ok(()),
        }
    }

    /// Memory of at least `bytes`.
    pub(crate) fn at_least(&mut self, arena: &Arena, bytes: usize) -> Result<&Buffer, BackendError> {
        if self.buffer.as_ref().is_none_or(|buffer| buffer.bytes() < bytes) {
            let buffer = if self.zeros { arena.zeros(self.what, bytes) } else { arena.buffer(self.what, bytes) };
            self.buffer = Some(buffer?);
        }
        Ok(self.buffer.as_ref().expect("it was just made"))
    }
}

/// Pinned memory of the host, which the CPU may read and write at full speed.
pub(crate) struct Pinned {
    at: *mut u8,
    bytes: usize,
    device: Rc<Device>,
}

impl Pinned {
    pub(crate) fn new(device: &Rc<Device>, bytes: usize) -> Result<Self, BackendError> {
        let bytes = bytes.max(1);
        device.may_allocate("pinned memory", bytes);
        // SAFETY: the context is current. Without flags the memory is cached, not write-combined.
        let at = unsafe { result::malloc_host(bytes, 0) }.map_err(|error| device.fault("pinning memory", error))?;
        // SAFETY: it is `bytes` long, and nobody else knows of it.
        unsafe { at.cast::<u8>().write_bytes(0, bytes) };
        Ok(Self { at: at.cast(), bytes, device: Rc::clone(device) })
    }

    /// Where bytes of it are, for copies by the device. Panics if it does not have them.
    pub(crate) fn at(&self, range: &Range<usize>) -> *mut u8 {
        assert!(range.start <= range.end && range.end <= self.bytes, "bytes {range:?} of {}", self.bytes);
        // SAFETY: the start is within the allocation, or just behind it.
        unsafe { self.at.add(range.start) }
    }

    /// Some of its bytes; others may be written meanwhile, also by the device.
    ///
    /// # Safety
    ///
    /// As long as the slice lives, nobody writes these bytes: no copy of the device to them is under way or begins.
    pub(crate) unsafe fn range(&self, range: Range<usize>) -> &[u8] {
        // SAFETY: `at` has checked the bounds; all was filled with zeros; the caller keeps writers away.
        unsafe { std::slice::from_raw_parts(self.at(&range), range.len()) }
    }

    /// Some of its bytes, to be written; others may be in use meanwhile, also by the device.
    ///
    /// # Safety
    ///
    /// As long as the slice lives, nobody else reads or writes these bytes: no copy of the device from or to them is under way
    /// or begins.
    pub(crate) unsafe fn range_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        // SAFETY: as in `range`, and the caller keeps all others away.
        unsafe { std::slice::from_raw_parts_mut(self.at(&range), range.len()) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.device.is_broken() || self.device.wait("giving memory back").is_err() {
            return;
        }
        // SAFETY: it was allocated so, and no copy is under way.
        let _ = unsafe { result::free_host(self.at.cast()) };
    }
}

/// The way of data to the device: two buffers of pinned memory in turns, so that one is filled while the other is copied.
pub(crate) struct Staging {
    device: Rc<Device>,
    buffers: [StagingBuffer; 2],
    /// Which is being filled.
    current: usize,
}

struct StagingBuffer {
    pinned: Pinned,
    /// Bytes that have been filled since the buffer was begun.
    used: usize,
    /// The last copy from it; it may be begun again behind that.
    copied: CudaEvent,
}

impl Staging {
    /// With buffers of `bytes`.
    pub(crate) fn new(device: &Rc<Device>, bytes: usize) -> Result<Self, BackendError> {
        let event = || device.context.new_event(None).map_err(|error| device.fault("making an event", error));
        let buffer =
            || Ok::<_, BackendError>(StagingBuffer { pinned: Pinned::new(device, bytes)?, used: 0, copied: event()? });
        Ok(Self { device: Rc::clone(device), buffers: [buffer()?, buffer()?], current: 0 })
    }

    /// Makes the buffers large enough for `bytes` at once.
    pub(crate) fn reserve(&mut self, bytes: usize) -> Result<(), BackendError> {
        for buffer in &mut self.buffers {
            if buffer.pinned.bytes < bytes {
                buffer.pinned = Pinned::new(&self.device, bytes)?;
                buffer.used = 0;
            }
        }
        Ok(())
    }

    /// Sends `bytes`, which `fill` writes, to `to`, in the stream's order. It waits only where both buffers are full.
    ///
    /// # Safety
    ///
    /// `to` must be memory of the device with room for them until the stream has run this.
    pub(crate) unsafe fn send(
        &mut self,
        to: u64,
        bytes: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), BackendError> {
        let operation = "sending data to the device";
        self.reserve(bytes)?;
        if self.buffers[self.current].used + bytes > self.buffers[self.current].pinned.bytes {
            self.current = 1 - self.current;
            self.device.wait_for(operation, &self.buffers[self.current].copied)?;
            self.buffers[self.current].used = 0;
        }
        let buffer = &mut self.buffers[self.current];
        let place = buffer.used..buffer.used + bytes;
        buffer.used = place.end.next_multiple_of(ALIGN).min(buffer.pinned.bytes);
        // SAFETY: copies from here have ended: the buffer was begun again behind `copied`, since when this place has not been
        // used. Those under way are from other places.
        fill(unsafe { buffer.pinned.range_mut(place.clone()) });
        // SAFETY: the caller's promise for `to`. The place is written again, or given back, only after `copied`, or after the
        // stream has come to rest.
        unsafe { self.device.upload_later(operation, to, buffer.pinned.at(&place), bytes) }?;
        buffer.copied.record(&self.device.stream).map_err(|error| self.device.fault(operation, error))
    }
}
