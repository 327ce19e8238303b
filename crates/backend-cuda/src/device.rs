//! One rank's device: its context, its stream, and what it says of itself.

use backend::BackendError;
use cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute, CUresult};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, result, sys};
use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_void};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use timeouts::{Backoff, Stopwatch};

/// The device of one rank, with the only stream on which the rank works.
pub(crate) struct Device {
    pub(crate) rank: usize,
    pub(crate) context: Arc<CudaContext>,
    pub(crate) stream: Arc<CudaStream>,
    /// Multiprocessors.
    pub(crate) multiprocessors: usize,
    pub(crate) shared: SharedMemory,
    name: String,
    /// Something has failed or hangs: nothing is waited for any more, and no memory is given back.
    broken: Cell<bool>,
    /// Nothing is allocated any more.
    sealed: Cell<bool>,
    check_launches: bool,
    /// How long the host waits for the device.
    wait_limit: Duration,
    /// Processes for which kernels wait, once they are known.
    peers: RefCell<Vec<u32>>,
}

/// Shared memory of a device, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedMemory {
    /// Of a multiprocessor.
    pub multiprocessor_bytes: usize,
    /// That a block may have if it asks for them.
    pub block_bytes_max: usize,
    /// That the system takes for each block.
    pub reserved_bytes: usize,
}

/// A function of a module, which it keeps.
pub(crate) struct Kernel {
    function: sys::CUfunction,
    name: &'static str,
    _module: Rc<Module>,
}

/// Loaded code.
struct Module {
    module: sys::CUmodule,
    _context: Arc<CudaContext>,
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: no kernel of the module is left to launch, and the driver waits for those that run. A failure is given
        // again by its next call.
        let _ = unsafe { result::module::unload(self.module) };
    }
}

impl Device {
    /// Takes device `ordinal` for `rank`. The driver must have been found to be there.
    pub(crate) fn open(
        ordinal: usize,
        rank: usize,
        check_launches: bool,
        wait_limit: Duration,
    ) -> Result<Self, BackendError> {
        let operation = "opening the device";
        let fault = |error: DriverError| BackendError::Device {
            operation,
            message: format!("rank {rank}, device {ordinal}: {}", describe(error)),
        };
        let context = CudaContext::new(ordinal).map_err(fault)?;
        // SAFETY: events order streams that share memory. This rank has one stream, and all that it allocates is used on
        // that stream alone.
        unsafe { context.disable_event_tracking() };
        let attribute = |attribute| context.attribute(attribute).map(|value| value as usize).map_err(fault);
        Ok(Self {
            rank,
            stream: context.new_stream().map_err(fault)?,
            multiprocessors: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared: SharedMemory {
                multiprocessor_bytes: attribute(
                    CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR,
                )?,
                block_bytes_max: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
                reserved_bytes: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK)?,
            },
            name: context.name().map_err(fault)?,
            context,
            broken: Cell::new(false),
            sealed: Cell::new(false),
            check_launches,
            wait_limit,
            peers: RefCell::default(),
        })
    }

    /// What went wrong where, with the rank and its device. Nothing on this device is waited for any more.
    pub(crate) fn fault(&self, operation: &'static str, error: DriverError) -> BackendError {
        self.fault_text(operation, &describe(error))
    }

    /// As [`Device::fault`], for errors that are not the driver's.
    pub(crate) fn fault_text(&self, operation: &'static str, text: &str) -> BackendError {
        self.broken.set(true);
        BackendError::Device { operation, message: self.told(text) }
    }

    /// Another rank is missed: nothing is waited for any more until this one has left the others.
    pub(crate) fn missed(&self, operation: &'static str, text: &str) -> BackendError {
        self.broken.set(true);
        BackendError::Peers { operation, message: self.told(text) }
    }

    fn told(&self, text: &str) -> String {
        let (rank, ordinal, name) = (self.rank, self.context.ordinal(), &self.name);
        format!("rank {rank}, device {ordinal} ({name}): {text}")
    }

    /// As [`Device::fault_text`], for what a library says: where the device had failed before, the library only says that
    /// nothing works.
    pub(crate) fn library_fault(&self, operation: &'static str, text: &str) -> BackendError {
        // SAFETY: the stream lives as long as `self`.
        match unsafe { sys::cuStreamQuery(self.stream.cu_stream()) } {
            CUresult::CUDA_SUCCESS | CUresult::CUDA_ERROR_NOT_READY => self.fault_text(operation, text),
            error => self.fault_text(operation, &format!("{text}, after {}", describe(DriverError(error)))),
        }
    }

    /// Whether an error has been met.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// The rank has left the others, and its stream must come to rest: if it does, whatever was wrong is over.
    pub(crate) fn rest(&self, operation: &'static str) -> Result<(), BackendError> {
        self.wait(operation)?;
        self.broken.set(false);
        Ok(())
    }

    /// From now on, allocating memory, of the device or pinned, is a bug.
    pub(crate) fn seal(&self) {
        self.sealed.set(true);
    }

    /// From now on, time in which one of these processes is stopped is no time of a wait.
    pub(crate) fn set_peers(&self, processes: Vec<u32>) {
        self.peers.replace(processes);
    }

    /// Whether a process for which kernels may wait is stopped.
    pub(crate) fn is_peer_stopped(&self) -> bool {
        self.peers.borrow().iter().copied().any(timeouts::is_stopped)
    }

    /// Asserts that memory may still be allocated.
    pub(crate) fn may_allocate(&self, what: &str, bytes: usize) {
        assert!(!self.sealed.get(), "{bytes} bytes for {what} after the rank was ready");
    }

    /// Loads a module from PTX and takes functions from it, each with all the shared memory that the device allows.
    pub(crate) fn kernels<const N: usize>(
        &self,
        ptx: &'static str,
        names: [&'static str; N],
    ) -> Result<[Kernel; N], BackendError> {
        let source = CString::new(ptx).expect("PTX is text");
        // SAFETY: the image is PTX that ends with a zero.
        let module = unsafe { result::module::load_data(source.as_ptr().cast()) };
        let module = module.map_err(|error| self.kernel_fault(names[0], error))?;
        let module = Rc::new(Module { module, _context: Arc::clone(&self.context) });
        let mut kernels = Vec::with_capacity(N);
        for name in names {
            let function = self.function(&module, name).map_err(|error| self.kernel_fault(name, error))?;
            kernels.push(Kernel { function, name, _module: Rc::clone(&module) });
        }
        Ok(kernels.try_into().ok().expect("one kernel for each name"))
    }

    fn kernel_fault(&self, name: &str, error: DriverError) -> BackendError {
        self.fault_text("loading a kernel", &format!("{name}: {}", describe(error)))
    }

    fn function(&self, module: &Module, name: &str) -> Result<sys::CUfunction, DriverError> {
        let name = CString::new(name).expect("a name is text");
        let statically = CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
        let dynamically = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the module is loaded, and the function is its own.
        unsafe {
            let function = result::module::get_function(module.module, name)?;
            let taken = result::function::get_function_attribute(function, statically)?;
            let most = self.shared.block_bytes_max as i32 - taken;
            result::function::set_function_attribute(function, dynamically, most)?;
            Ok(function)
        }
    }

    /// Launches `kernel` with the one structure that it takes.
    ///
    /// # Safety
    ///
    /// `args` must be the structure that the kernel was compiled for, and every pointer in it must be to memory of the
    /// device, as large as the kernel's documentation says for this grid, until the stream has run the launch.
    pub(crate) unsafe fn launch<A: Copy>(
        &self,
        kernel: &Kernel,
        grid: [usize; 3],
        block: u32,
        shared_bytes: usize,
        args: &A,
    ) -> Result<(), BackendError> {
        let [x, y, z] = grid.map(|n| u32::try_from(n).expect("grids fit 32 bits"));
        assert!(y <= 65_535 && z <= 65_535, "{}: a grid of {grid:?}", kernel.name);
        let mut parameters = [std::ptr::from_ref(args).cast::<c_void>().cast_mut()];
        let (function, stream) = (kernel.function, self.stream.cu_stream());
        // SAFETY: the function's module is held by `kernel`; it takes one parameter, which the driver copies before the
        // call returns; what the parameter points at is the caller's promise.
        let launched = unsafe {
            result::launch_kernel(function, (x, y, z), (block, 1, 1), shared_bytes as u32, stream, &mut parameters)
        };
        launched.map_err(|error| self.fault(kernel.name, error))?;
        if self.check_launches { self.wait(kernel.name) } else { Ok(()) }
    }

    /// Whether the stream has run all that it was given.
    pub(crate) fn is_at_rest(&self, operation: &'static str) -> Result<bool, BackendError> {
        // SAFETY: the stream lives as long as `self`.
        match unsafe { sys::cuStreamQuery(self.stream.cu_stream()) } {
            CUresult::CUDA_SUCCESS => Ok(true),
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            error => Err(self.fault(operation, DriverError(error))),
        }
    }

    /// Waits until the stream has run all that it was given.
    pub(crate) fn wait(&self, operation: &'static str) -> Result<(), BackendError> {
        // SAFETY: the stream lives as long as `self`.
        self.poll(operation, || unsafe { sys::cuStreamQuery(self.stream.cu_stream()) })
    }

    /// Waits until the stream has come to `event`.
    pub(crate) fn wait_for(&self, operation: &'static str, event: &CudaEvent) -> Result<(), BackendError> {
        // SAFETY: the event lives as long as the reference.
        self.poll(operation, || unsafe { sys::cuEventQuery(event.cu_event()) })
    }

    fn poll(&self, operation: &'static str, query: impl Fn() -> CUresult) -> Result<(), BackendError> {
        let (mut clock, mut backoff) = (Stopwatch::start(Instant::now()), Backoff::default());
        loop {
            match query() {
                CUresult::CUDA_SUCCESS => return Ok(()),
                CUresult::CUDA_ERROR_NOT_READY => {}
                error => return Err(self.fault(operation, DriverError(error))),
            }
            if clock.elapsed(Instant::now(), || self.is_peer_stopped()) > self.wait_limit {
                let limit_ms = self.wait_limit.as_millis();
                let text = format!("no answer within {limit_ms} ms: another rank is gone, or the device hangs");
                return Err(self.missed(operation, &text));
            }
            backoff.wait();
        }
    }

    /// Fills memory of the device with zeros, in the stream's order.
    ///
    /// # Safety
    ///
    /// `bytes` from `at` on must be memory of the device until the stream has run this.
    pub(crate) unsafe fn zero(&self, at: u64, bytes: usize) -> Result<(), BackendError> {
        // SAFETY: the caller's promise.
        let zeroed = unsafe { result::memset_d8_async(at, 0, bytes, self.stream.cu_stream()) };
        zeroed.map_err(|error| self.fault("filling with zeros", error))
    }

    /// Copies within the device, or from a peer's memory that it may access, in the stream's order.
    ///
    /// # Safety
    ///
    /// Both must be memory that the device can access, of `bytes`, until the stream has run this.
    pub(crate) unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<(), BackendError> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        let copied = unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) };
        copied.map_err(|error| self.fault("copying on the device", error))
    }

    /// Copies from pageable memory of the host: the driver has taken it when the call returns. It blocks until the stream has
    /// come to it.
    ///
    /// # Safety
    ///
    /// `to` must be memory of the device, as long as `from`, until the stream has run this.
    pub(crate) unsafe fn upload(&self, to: u64, from: &[u8]) -> Result<(), BackendError> {
        // SAFETY: the caller's promise, and `from` is borrowed until the driver has taken it.
        unsafe { self.upload_later("copying to the device", to, from.as_ptr(), from.len()) }
    }

    /// Copies from pinned memory of the host, in the stream's order.
    ///
    /// # Safety
    ///
    /// `to` must be memory of the device, and `from` pinned memory, each of `bytes`; the latter must be neither written nor
    /// given back until the stream has run this.
    pub(crate) unsafe fn upload_later(
        &self,
        operation: &'static str,
        to: u64,
        from: *const u8,
        bytes: usize,
    ) -> Result<(), BackendError> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        let copied = unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.cast(), bytes, self.stream.cu_stream()) };
        copied.result().map_err(|error| self.fault(operation, error))
    }

    /// Copies to pinned memory of the host, in the stream's order.
    ///
    /// # Safety
    ///
    /// `from` must be memory of the device, and `to` pinned memory, each of `bytes`; the latter must be neither read, written
    /// nor given back until the stream has run this.
    pub(crate) unsafe fn download_later(
        &self,
        operation: &'static str,
        to: *mut u8,
        bytes: usize,
        from: u64,
    ) -> Result<(), BackendError> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the caller's promise.
        let copied = unsafe { sys::cuMemcpyDtoHAsync_v2(to.cast(), from, bytes, self.stream.cu_stream()) };
        copied.result().map_err(|error| self.fault(operation, error))
    }

    /// Copies to the host, and waits for it.
    ///
    /// # Safety
    ///
    /// `from` must be memory of the device, as long as `to`.
    pub(crate) unsafe fn download(
        &self,
        operation: &'static str,
        to: &mut [u8],
        from: u64,
    ) -> Result<(), BackendError> {
        // A copy to memory that is not pinned blocks until the stream has come to it, however long that takes.
        self.wait(operation)?;
        // SAFETY: the caller's promise for `from`. `to` is borrowed until the stream has run the copy: it is waited for
        // below, and where that fails the process can do nothing more with the device but end.
        unsafe { self.download_later(operation, to.as_mut_ptr(), to.len(), from) }?;
        self.wait(operation)
    }
}

/// The driver's name for an error, and its text.
pub(crate) fn describe(error: DriverError) -> String {
    let name = error.error_name().map_or_else(|_| format!("{:?}", error.0), |name| name.to_string_lossy().into_owned());
    match error.error_string() {
        Ok(text) => format!("{name}: {}", text.to_string_lossy()),
        Err(_) => name,
    }
}
