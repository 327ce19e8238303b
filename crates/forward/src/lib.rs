//! The Falcon forward pass, written once over [`backend::Backend`].
//!
//! * [`Falcon`]: the model on one rank: load it, run a batch, get logits. It reads as if it ran alone; what is cut over
//!   ranks is decided by `model`'s shard table, and the ranks meet in the backend's collective operations only.
//! * [`rank_shapes`]: the shapes of all that a rank holds, before it holds any.
//! * [`ModelRunner`]: turns a `StepPlan` into a batch, keeps the sequences' tokens and block tables, samples, and answers with a
//!   `StepResult`.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod falcon;
mod heads;
mod load;
mod masks;
mod model_runner;
mod shapes;

pub use falcon::{Falcon, Observe};
pub use load::WeightSource;
pub use model_runner::{ModelRunner, StepError};
pub use shapes::{Capacity, positions, rank_shapes, with_capacity};
