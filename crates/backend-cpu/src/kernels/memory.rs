//! Large zeroed buffers.

use bytemuck::{Pod, Zeroable};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// Elements in host memory that begin at a cache line, zero at first. A page is taken from the system when it is first
/// written, so by the thread that fills it.
pub struct Buffer<T> {
    lines: Vec<Line>,
    len: usize,
    of: PhantomData<T>,
}

#[repr(C, align(64))]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Line([u8; 64]);

/// Buffers from this size on ask for huge pages: walks of the page table cost a stream of weights about a tenth.
const HUGE_FROM_BYTES: usize = 4 << 20;

impl<T: Pod> Buffer<T> {
    /// `len` zeros; `None` if the system has no room for them.
    pub fn zeroed(len: usize) -> Option<Self> {
        let bytes = len.checked_mul(size_of::<T>())?;
        let lines = bytemuck::allocation::try_zeroed_vec::<Line>(bytes.div_ceil(size_of::<Line>())).ok()?;
        if bytes >= HUGE_FROM_BYTES {
            advise_huge_pages(&lines);
        }
        Some(Self { lines, len, of: PhantomData })
    }
}

impl<T: Pod> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl<T: Pod> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

fn advise_huge_pages(lines: &[Line]) {
    let page = rustix::param::page_size();
    let bytes = bytemuck::cast_slice::<Line, u8>(lines);
    let skip = bytes.as_ptr().align_offset(page).min(bytes.len());
    let whole_pages = (bytes.len() - skip) / page * page;
    let start = bytes[skip..].as_ptr().cast_mut().cast();
    // SAFETY: the range lies within the allocation, and the advice changes no contents. A system without huge pages
    // says no, and nothing is lost.
    let _ = unsafe { rustix::mm::madvise(start, whole_pages, rustix::mm::Advice::LinuxHugepage) };
}
