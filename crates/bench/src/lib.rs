//! Benchmarks: load against a server that runs, what is measured of it, and the reports.
//!
//! * [`serve`]: `peregrine bench serve`, and what it is made of:
//!   * `arrivals`, `dataset`: when which request is sent. Pure, from a seed.
//!   * `target`: the server, over gRPC or HTTP; `load`: sends the requests and takes the times.
//!   * `metrics`: what the times amount to. Pure.
//!   * `report`: JSON with the key names of vLLM's `bench serve`, Markdown, HTML with plots. Pure.
//!
//! **Invariant:** this crate is a client. It knows nothing of the server but its public faces.

#![forbid(unsafe_code)]

mod arrivals;
mod dataset;
mod load;
mod metrics;
mod report;
pub mod serve;
mod target;

pub use arrivals::Arrivals;
pub use dataset::{Dataset, DatasetError, Prompt, Request};
pub use load::{Load, Outcome};
pub use metrics::{Distribution, Metrics, Slo};
pub use target::{Protocol, Target, TargetError};
