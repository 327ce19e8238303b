//! One rank: a process that owns one device.
//!
//! * [`serve`]: speaks the control protocol over the socket that the coordinator gave to the process. When that connection
//!   ends, so does the worker, whatever it is doing: a worker cannot outlive its coordinator.
//! * [`RankSpec`]: what the coordinator asks the rank to be.
//! * [`load`]: reads the rank's shard into a backend; the binary chooses which.
//!
//! **Invariant:** one OS thread owns the device; everything else only passes plans to it and results from it.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod connection;
mod device;
mod load;
mod service;
mod spec;

pub use connection::{ServeError, serve};
pub use load::{LoadError, LoadProgress, Loaded, ShardSource, StepRunner, load};
pub use spec::{RankSpec, SpecError};
