//! Assembles a running model, for the command and for benchmarks.
//!
//! * [`Engine::start`]: from [`EngineOptions`] to a coordinator with its workers, and the service over it.
//! * [`open_rank`]: what a worker runs: the backend that its coordinator chose, with its shard loaded.
//! * [`Machine`]: how large KV cache and steps are here, before anything is read.
//! * [`cuda_environment`]: what a process with ranks on GPUs needs, where it is no worker.
//! * [`demo`]: the model that comes with the program.
//! * [`timed`]: tokens that say when they were sampled, for the benchmark of all but the model.
//!
//! **Invariant:** only this crate picks a backend. It reads no arguments, handles no signals and prints nothing.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod backends;
mod capacity;
pub mod demo;
mod end_of_text;
mod engine;
mod error;
mod instant;
mod launch;
mod memory;
pub mod timed;
mod traces;

pub use backends::{BackendChoice, CudaSettings, cpu_options, open_rank};
pub use capacity::{BackendFootprints, Host, Machine};
pub use engine::{Engine, EngineOptions};
pub use error::{CapacityError, EngineError};
pub use instant::ORDINARY_TOKENS;
pub use launch::{RankEnvironment, WorkerCommand, cuda_environment};
pub use memory::available_bytes;
pub use traces::gpu_traces;
