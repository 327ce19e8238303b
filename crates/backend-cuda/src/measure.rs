//! Times on the device, and the rate at which it reads its memory: what kernels are measured by.

use crate::cuda::Cuda;
use crate::kernels::plain_read::PlainReadKernel;
use crate::memory::Buffer;
use backend::BackendError;
use cudarc::driver::CudaEvent;
use cudarc::driver::sys::CUevent_flags;
use std::time::Duration;

/// Memory of the device that is read, and does nothing else.
pub struct PlainRead {
    kernel: PlainReadKernel,
    memory: Buffer,
    sums: Buffer,
}

impl Cuda {
    /// Does `work`, and says how long the device took for what came onto the stream by it, by the device's own clock.
    ///
    /// # Errors
    ///
    /// Those of `work`, and the device's.
    pub fn time(&mut self, work: impl FnOnce(&mut Self) -> Result<(), BackendError>) -> Result<Duration, BackendError> {
        let operation = "taking the time";
        let event = |cuda: &Self| {
            let event = cuda.device.context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
            event.map_err(|error| cuda.device.fault(operation, error))
        };
        let (begin, end): (CudaEvent, CudaEvent) = (event(self)?, event(self)?);
        let record = |cuda: &Self, event: &CudaEvent| {
            event.record(&cuda.device.stream).map_err(|error| cuda.device.fault(operation, error))
        };
        record(self, &begin)?;
        work(self)?;
        record(self, &end)?;
        self.device.wait_for(operation, &end)?;
        let ms = begin.elapsed_ms(&end).map_err(|error| self.device.fault(operation, error))?;
        Ok(Duration::from_secs_f64(f64::from(ms) / 1e3))
    }

    /// Waits until the device has done all that it was given.
    ///
    /// # Errors
    ///
    /// The device's.
    pub fn synchronize(&mut self) -> Result<(), BackendError> {
        self.device.wait("all that was asked for")
    }
}

impl PlainRead {
    /// Of `words`, as many as bytes allow in pieces of 16; for a rate, many times the L2 cache.
    ///
    /// # Errors
    ///
    /// [`BackendError::OutOfMemory`], and the device's.
    pub fn new(cuda: &mut Cuda, bytes: usize) -> Result<Self, BackendError> {
        let memory = cuda.arena.buffer("memory to read", bytes)?;
        let sums = cuda.arena.buffer("what was read", PlainReadKernel::sums_bytes(&cuda.device))?;
        Ok(Self { kernel: PlainReadKernel::load(&cuda.device)?, memory, sums })
    }

    /// Bytes that are read.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Fills the memory with these words, over and over.
    ///
    /// # Errors
    ///
    /// The device's.
    pub fn fill(&mut self, cuda: &mut Cuda, words: &[u32]) -> Result<(), BackendError> {
        let piece: &[u8] = bytemuck::cast_slice(words);
        for at in (0..self.memory.bytes()).step_by(piece.len()) {
            let len = piece.len().min(self.memory.bytes() - at);
            // SAFETY: the bytes are in the buffer. The words are borrowed until the stream has run all, below.
            unsafe { cuda.device.upload(self.memory.at() + at as u64, &piece[..len]) }?;
        }
        cuda.synchronize()
    }

    /// Reads all of it once.
    ///
    /// # Errors
    ///
    /// The device's.
    pub fn run(&mut self, cuda: &mut Cuda) -> Result<(), BackendError> {
        self.kernel.launch(&cuda.device, &self.memory, 0..self.bytes(), &self.sums)
    }

    /// Reads `bytes` bytes once, rounded down to 256: the `index`th of as many pieces as there are, by turns.
    ///
    /// # Errors
    ///
    /// The device's.
    ///
    /// # Panics
    ///
    /// There are fewer bytes.
    pub fn run_piece(&mut self, cuda: &mut Cuda, bytes: usize, index: usize) -> Result<(), BackendError> {
        let bytes = bytes / 256 * 256;
        let start = index % (self.bytes() / bytes) * bytes;
        self.kernel.launch(&cuda.device, &self.memory, start..start + bytes, &self.sums)
    }

    /// The fold, by exclusive or, of all that the last run read.
    ///
    /// # Errors
    ///
    /// The device's.
    pub fn fold(&mut self, cuda: &mut Cuda) -> Result<u32, BackendError> {
        let mut sums = vec![0u32; PlainReadKernel::sums_bytes(&cuda.device) / size_of::<u32>()];
        // SAFETY: the buffer is as long or longer.
        unsafe { cuda.device.download("what was read", bytemuck::cast_slice_mut(&mut sums), self.sums.at()) }?;
        Ok(sums.into_iter().fold(0, |fold, sum| fold ^ sum))
    }
}
