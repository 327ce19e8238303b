//! Large zeroed buffers.

use bytemuck::Pod;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Elements in host memory that begin at a page, zero at first. A page is taken from the system when it is first written,
/// so by the thread that fills it.
pub struct Buffer<T> {
    start: NonNull<T>,
    len: usize,
    /// Where the mapping begins, and its bytes.
    mapping: (NonNull<u8>, usize),
    of: PhantomData<T>,
}

/// Bytes of all buffers of this process.
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

/// Bytes of all buffers of this process that are there now.
#[must_use]
pub fn allocated_bytes() -> usize {
    ALLOCATED.load(Ordering::Relaxed)
}

/// Walks of the page table cost a stream of weights about a tenth, so buffers take pages of this size where they have
/// room for some. The odd rest at their end takes small ones.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// Buffers from this size on begin at a huge page.
const HUGE_FROM_BYTES: usize = 4 << 20;

// SAFETY: a buffer owns its mapping as a vector owns its elements.
unsafe impl<T: Send> Send for Buffer<T> {}
// SAFETY: likewise.
unsafe impl<T: Sync> Sync for Buffer<T> {}

impl<T: Pod> Buffer<T> {
    /// `len` zeros; `None` if the system has no room for them.
    pub fn zeroed(len: usize) -> Option<Self> {
        let bytes = len.checked_mul(size_of::<T>())?;
        let is_huge = bytes >= HUGE_FROM_BYTES;
        // What is skipped at the beginning is never touched, and so takes no memory.
        let mapped = bytes.checked_add(if is_huge { HUGE_PAGE_BYTES } else { 0 })?.max(1);
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: the system chooses an address where nothing is mapped.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), mapped, protection, flags) }.ok()?;
        let base = NonNull::new(base.cast::<u8>()).expect("a mapping is not at address 0");
        let skipped = if is_huge { base.align_offset(HUGE_PAGE_BYTES) } else { 0 };
        // SAFETY: less than a huge page is skipped, by which the mapping is longer than the buffer.
        let start = unsafe { base.add(skipped) };
        if is_huge {
            let huge = bytes / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
            // SAFETY: the range lies within the mapping, and the advice changes no contents. A system without huge pages
            // says no, and nothing is lost.
            let _ = unsafe { madvise(start.as_ptr().cast(), huge, Advice::LinuxHugepage) };
        }
        ALLOCATED.fetch_add(bytes, Ordering::Relaxed);
        Some(Self { start: start.cast(), len, mapping: (base, mapped), of: PhantomData })
    }
}

impl<T: Pod> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: from `start`, a page's beginning, on the mapping has `len` elements; they were zeros at first, which like
        // all bits are values of a `Pod`, and are borrowed like the buffer.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Pod> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; the buffer is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        ALLOCATED.fetch_sub(self.len * size_of::<T>(), Ordering::Relaxed);
        let (base, bytes) = self.mapping;
        // SAFETY: the mapping was made with this length, and what borrows from it borrows `self`.
        let unmapped = unsafe { munmap(base.as_ptr().cast(), bytes) };
        debug_assert!(unmapped.is_ok(), "a mapping can be unmapped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zero_and_hold_what_is_written() {
        for len in [0, 1, 1000, (4 << 20) / 8, (9 << 20) / 8 + 3] {
            let mut buffer = Buffer::<u64>::zeroed(len).expect("room");
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|&x| x == 0) && buffer.as_ptr().addr().is_multiple_of(64));
            buffer.iter_mut().zip(0..).for_each(|(x, i)| *x = i);
            assert!(buffer.iter().zip(0..).all(|(&x, i)| x == i));
        }
        assert!(Buffer::<u64>::zeroed(usize::MAX / 8).is_none(), "more than there is");
        assert!(Buffer::<u64>::zeroed(usize::MAX).is_none(), "more than can be counted");
    }
}
