//! The backend for CPUs: vectorized kernels, a thread pool for each rank, and a collective over shared memory.
//!
//! * [`Cpu`]: the backend. [`Isa`] is the instruction set that its kernels use; results depend on it, and on nothing
//!   else of the machine.
//! * [`SharedMemory`]: the collective between the ranks' processes on one host.
//! * [`probe`]: what the CPU can do at most.
//! * `kernels`: what runs on vectors and on several threads.
//!
//! **Invariant:** a row's result is the same to the bit with any other rows, chunks of its sequence, blocks and
//! threads: every sum has one order.

#![deny(clippy::print_stdout, clippy::print_stderr)]
#![deny(unsafe_code)]

mod cache;
mod cpu;
mod cpu_step;
mod executor;
mod footprint;
mod isa;
#[allow(unsafe_code, reason = "vector instructions, and borrowed data shared with the threads of the pool")]
mod kernels;
mod memory;
pub mod probe;
mod products;
mod shm;
#[allow(unsafe_code, reason = "reads and writes what other processes share, in turns that the protocol makes")]
mod shm_exchange;
#[allow(unsafe_code, reason = "maps the shared memory")]
mod shm_region;
mod sync;

pub use cache::CpuKvCache;
pub use cpu::{Cpu, CpuOptions, own_cores};
pub use cpu_step::CpuStep;
pub use footprint::CpuFootprint;
pub use isa::{Isa, UnknownIsa};
pub use kernels::amx::assume_tiles;
pub use kernels::memory::allocated_bytes;
pub use memory::{CpuMatrix, CpuTensor};
pub use shm::SharedMemory;
