//! Assembles a running model, for the command and for benchmarks.
//!
//! * [`Engine::start`]: from [`EngineOptions`] to a coordinator with its workers, and the service over it.
//! * [`open_rank`]: what a worker runs: the backend that its coordinator chose, with its shard loaded.
//! * [`find_room`]: how large KV cache and steps are, before anything is read.
//! * [`demo`]: the model that comes with the program.
//!
//! **Invariant:** only this crate picks a backend. It reads no arguments, handles no signals and prints nothing.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod backends;
pub mod demo;
mod end_of_text;
mod engine;
mod error;
mod instant;
mod launch;
mod room;

pub use backends::{BackendChoice, CudaSettings, cpu_options, open_rank};
pub use engine::{Engine, EngineOptions};
pub use error::{EngineError, RoomError};
pub use instant::ORDINARY_TOKENS;
pub use launch::WorkerCommand;
pub use room::{Room, Wanted, find_room, room_of_gpus};
