//! Benchmarks: load on a server that runs, what is measured of it, and the reports.
//!
//! * [`serve`]: `peregrine bench serve`, and what it is made of:
//!   * `arrivals`, `dataset`, `random`: when which request is sent. Pure but for files of prompts, from a seed.
//!   * `target`: the server, over gRPC or HTTP; `load`: sends the requests and records times.
//!   * `metrics`, `failures`: what the records amount to. Pure.
//!   * `report`: JSON with the key names of vLLM's `bench serve`, Markdown, HTML with plots. Pure.
//!   * [`environment`]: command line, version and machine, which stand in the reports.
//! * [`soak`]: many requests at once and for long, each answer compared with the one that its request gets alone.
//! * [`simulate`]: the real scheduler against the timed model of a node. Pure.
//! * [`latency`]: prefill and decode by batch size, straight at an engine.
//! * [`recovery`]: how long streams stand still when a worker is killed.
//! * [`overhead`]: what all but the model costs: streams from an engine whose workers answer at once, and the scheduler alone.
//! * [`backend`]: a backend alone, on a model of random weights, beside what its hardware can do.
//! * [`make_model`]: a folder with a model of random weights, to measure a [`Shape`] without its checkpoint.
//!
//! Arguments, signals and the standard output are the binary's: here are plain options, and what was measured.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod arrivals;
pub mod backend;
mod dataset;
mod engine;
pub mod environment;
mod failures;
pub mod latency;
mod load;
pub mod make_model;
mod metrics;
pub mod overhead;
mod processes;
mod random;
pub mod recovery;
mod report;
pub mod serve;
mod shape;
pub mod simulate;
pub mod soak;
mod target;

pub use arrivals::Arrivals;
pub use dataset::{Dataset, DatasetError, Parameters, Prompt, Request};
pub use engine::NotReady;
pub use environment::Environment;
pub use failures::Failure;
pub use metrics::{Distribution, Slo};
pub use serve::Ended;
pub use shape::Shape;
pub use target::{Dialect, Target, TargetError, TargetOptions};
