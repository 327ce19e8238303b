//! The Falcon forward pass, written once over [`backend::Backend`].
//!
//! * [`Falcon`]: the model on one rank: load it, run a batch, get logits. It reads as if it ran alone; what is cut over
//!   ranks is decided by `model`'s shard table, and the ranks meet in the backend's collective operations only.
//! * [`ModelRunner`]: turns a `StepPlan` into a batch, keeps the sequences' tokens and block tables, samples, and answers with a
//!   `StepResult`.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod falcon;
mod heads;
mod load;
mod model_runner;

pub use falcon::{Falcon, Observe};
pub use load::{Capacity, WeightSource, positions, row_bytes};
pub use model_runner::{ModelRunner, StepError};
