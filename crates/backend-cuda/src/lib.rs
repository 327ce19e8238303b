//! The backend for NVIDIA GPUs. It is the only crate that sees CUDA; all libraries are opened at run time, so that one
//! program runs with and without them.
//!
//! * [`discover`]: which GPUs there are, and why they will not do.
//! * [`GpuLocality`]: which CPUs are next to a GPU; a rank binds itself to them.
//! * [`Libraries`]: where NCCL and cuBLASLt are, and how workers find them.
//! * [`CudaFootprint`]: what a rank allocates, before a device is opened.
//! * [`Cuda`]: the backend. `kernels` has a file for each source in `kernels/` at the repository's root, whose PTX is
//!   built into the program; `cublaslt` multiplies many rows; `peers` and `nccl` are the ways of sums between ranks, of which
//!   `collective` chooses one.
//!
//! Weights, keys, values and the inputs of products are bf16; sums, norms, the residual stream and logits are f32.
//!
//! **Invariant:** after [`backend::Backend::seal`] no memory of the device is allocated.
//!
//! **Invariant:** a rank has one stream; whatever shares memory is in its order.

#![deny(clippy::print_stdout, clippy::print_stderr)]
// The driver's interface takes 32-bit numbers for what is counted in usize here, and each comes from a size that was checked
// against the device's memory.
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)]

mod affinity;
mod cache;
mod collective;
mod cublaslt;
mod cuda;
mod cuda_step;
mod device;
mod discover;
mod footprint;
mod graphs;
mod in_flight;
mod kernels;
mod libraries;
pub mod limits;
mod logits;
mod measure;
mod memory;
mod nccl;
mod packing;
mod peers;
mod sample_rows;
mod sampling;
mod step_inputs;
mod sums;
mod tensor;
mod token_buffer;
mod weights;

pub use affinity::{GpuLocality, SYSFS, cpu_list, parse_cpu_list};
pub use cache::CudaKvCache;
pub use cuda::{AllReduceChoice, Cuda, CudaOptions, CudaPending};
pub use cuda_step::CudaStep;
pub use device::SharedMemory;
pub use discover::{CAPABILITY_MIN, DRIVER_VERSION_MIN, DiscoverError, GpuInfo, Gpus, discover};
pub use footprint::CudaFootprint;
pub use libraries::{CUBLASLT, LIBRARY_PATH, Libraries, Library, NCCL, Place};
pub use measure::PlainRead;
pub use tensor::{CudaMatrix, CudaTensor, CudaVector};
