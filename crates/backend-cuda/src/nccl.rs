//! Sums by NCCL, at the level of its C interface: its errors can be seen while an operation runs, and it can be aborted.

use crate::device::Device;
use backend::{BackendError, Bootstrap, Collective};
use cudarc::nccl::result::{self, NcclError};
use cudarc::nccl::sys::{self, ncclDataType_t, ncclRedOp_t, ncclResult_t};
use std::ffi::c_void;
use std::rc::Rc;

/// One rank's communicator.
pub(crate) struct Nccl {
    /// [`NO_COMM`] once the rank has left.
    comm: sys::ncclComm_t,
    device: Rc<Device>,
}

const NO_COMM: sys::ncclComm_t = std::ptr::null_mut();

/// Whether the library can be opened.
pub(crate) fn is_present() -> bool {
    // SAFETY: opening a library runs its initializers alone, which do nothing here that depends on this process.
    unsafe { sys::is_culib_present() }
}

impl Nccl {
    /// Meets the other ranks: rank 0 makes the id and tells it over the host's collective.
    pub(crate) fn connect(device: &Rc<Device>, host: &mut dyn Collective) -> Result<Self, BackendError> {
        let operation = "connecting NCCL";
        let (rank, world) = (host.rank(), host.world());
        let mut id = sys::ncclUniqueId { internal: [0; 128] };
        if rank == 0 {
            id = result::get_uniqueid().map_err(|error| device.fault_text(operation, &describe(&error)))?;
        }
        let of_rank_0 = host.all_gather_bytes(bytemuck::cast_slice(&id.internal))?.swap_remove(0);
        id.internal.copy_from_slice(bytemuck::cast_slice(&of_rank_0));
        let mut comm = NO_COMM;
        // SAFETY: the id is rank 0's, the context is current, and every rank calls with its own number.
        unsafe { result::comm_init_rank(&mut comm, world as i32, id, rank as i32) }
            .map_err(|error| device.fault_text(operation, &describe(&error)))?;
        Ok(Self { comm, device: Rc::clone(device) })
    }

    /// `x = Σ x`, of `count` f32.
    ///
    /// # Safety
    ///
    /// `x` must be memory of the device with `count` f32 until the stream has run this.
    pub(crate) unsafe fn all_reduce(&self, x: u64, count: usize) -> Result<(), BackendError> {
        let at = x as *mut c_void;
        let stream = self.device.stream.cu_stream().cast();
        let (float, sum) = (ncclDataType_t::ncclFloat32, ncclRedOp_t::ncclSum);
        // SAFETY: the communicator is alive, and the memory is the caller's promise.
        let begun = unsafe { result::all_reduce(at, at, count, float, sum, self.comm, stream) };
        self.begun("an all-reduce of NCCL", begun)
    }

    /// Sends each of `parts` from its rank to all: (rank, where it is on that rank, where it goes, how many f32).
    ///
    /// # Safety
    ///
    /// All must be memory of the device with as many f32 until the stream has run this; the first address counts on the
    /// sending rank alone.
    pub(crate) unsafe fn broadcast(&self, parts: &[(usize, u64, u64, usize)]) -> Result<(), BackendError> {
        let operation = "gathering by NCCL";
        self.begun(operation, result::group_start())?;
        for &(root, from, to, count) in parts {
            let stream = self.device.stream.cu_stream().cast();
            let (from, to, float) = (from as *const c_void, to as *mut c_void, ncclDataType_t::ncclFloat32);
            // SAFETY: the communicator is alive, and the memory is the caller's promise.
            let begun = unsafe { result::broadcast(from, to, count, float, root as i32, self.comm, stream) };
            self.begun(operation, begun)?;
        }
        self.begun(operation, result::group_end())
    }

    fn begun<T>(&self, operation: &'static str, begun: Result<T, NcclError>) -> Result<(), BackendError> {
        begun.map_err(|error| self.fault(operation, error.0))?;
        self.check(operation)
    }

    fn fault(&self, operation: &'static str, error: ncclResult_t) -> BackendError {
        let text = describe(&NcclError(error));
        match error {
            // A call of the system fails where a socket's other end is gone.
            ncclResult_t::ncclRemoteError | ncclResult_t::ncclSystemError => self.device.missed(operation, &text),
            _ => self.device.fault_text(operation, &text),
        }
    }

    /// Leaves the other ranks, whatever is under way: kernels that wait for them end. No graph that uses it is left.
    pub(crate) fn abort(&mut self) -> Result<(), BackendError> {
        let comm = std::mem::replace(&mut self.comm, NO_COMM);
        if comm == NO_COMM {
            return Ok(());
        }
        // SAFETY: the communicator is alive, and nobody uses it behind this.
        let aborted = unsafe { result::comm_abort(comm) };
        aborted.map(drop).map_err(|error| self.device.fault_text("leaving NCCL", &describe(&error)))
    }

    /// What the communicator says of the operations on their way.
    pub(crate) fn check(&self, operation: &'static str) -> Result<(), BackendError> {
        let mut state = ncclResult_t::ncclSuccess;
        // SAFETY: the communicator is alive.
        unsafe { sys::ncclCommGetAsyncError(self.comm, &mut state) };
        match state {
            ncclResult_t::ncclSuccess | ncclResult_t::ncclInProgress => Ok(()),
            error => Err(self.fault(operation, error)),
        }
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        if self.comm == NO_COMM {
            return;
        }
        // After an error, others may be gone, for whom a clean end would wait.
        let broken = self.device.is_broken() || self.device.wait("leaving NCCL").is_err();
        // SAFETY: the communicator is alive, and not used behind this. Nothing can be done about a failure.
        let _ = unsafe { if broken { result::comm_abort(self.comm) } else { result::comm_destroy(self.comm) } };
    }
}

fn describe(error: &NcclError) -> String {
    // `Debug` of the error hides its code.
    format!("{:?}", error.0)
}
