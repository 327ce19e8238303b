//! `plain_read.cu`: reads memory, to measure other kernels by.

use crate::device::{Device, Kernel};
use crate::memory::Buffer;
use backend::BackendError;
use std::ops::Range;

const THREADS: usize = 256;
const WORD_BYTES: usize = 16;

#[repr(C)]
#[derive(Clone, Copy)]
struct PlainReadArgs {
    from: u64,
    sums: u64,
    count: i64,
}
const _: () = assert!(size_of::<PlainReadArgs>() == 24);

pub(crate) struct PlainReadKernel(Kernel);

impl PlainReadKernel {
    pub(crate) fn load(device: &Device) -> Result<Self, BackendError> {
        let [kernel] = device.kernels(include_str!("../../../../kernels/ptx/plain_read.ptx"), ["plain_read"])?;
        Ok(Self(kernel))
    }

    /// Blocks of a launch.
    fn blocks(device: &Device) -> usize {
        8 * device.multiprocessors
    }

    /// Bytes that a launch writes.
    pub(crate) fn sums_bytes(device: &Device) -> usize {
        Self::blocks(device) * THREADS * size_of::<u32>()
    }

    /// Reads these bytes of `from`, and leaves the folds of what each thread has read in `sums`.
    pub(crate) fn launch(
        &self,
        device: &Device,
        from: &Buffer,
        bytes: Range<usize>,
        sums: &Buffer,
    ) -> Result<(), BackendError> {
        let whole = bytes.start.is_multiple_of(WORD_BYTES) && bytes.len().is_multiple_of(WORD_BYTES);
        assert!(whole && bytes.end <= from.bytes(), "bytes {bytes:?} of {}", from.bytes());
        assert!(sums.bytes() >= Self::sums_bytes(device), "room for the sums");
        let at = from.at() + bytes.start as u64;
        let args = PlainReadArgs { from: at, sums: sums.at(), count: (bytes.len() / WORD_BYTES) as i64 };
        // SAFETY: sizes were checked above, and buffers begin at multiples of 256. Who calls keeps both as long as the stream.
        unsafe { device.launch(&self.0, [Self::blocks(device), 1, 1], THREADS as u32, 0, &args) }
    }
}
