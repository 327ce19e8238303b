//! How long a step of a model should take on a machine's GPUs, from the bytes that must move and published rates.
//!
//! * [`launches()`] lists what a rank launches for a [`Batch`], with the bytes that must move and the multiplications: from
//!   the shard table and the kernels' formulas.
//! * [`Timing`] turns that into seconds, under [`assumptions()`], each with its source.
//! * [`Prediction`] is what `peregrine plan --predict` prints of it.
//!
//! **Invariant:** every time here is a lower bound or a prediction, and says what it rests on.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod assumptions;
mod batch;
mod launches;
mod prediction;
mod timing;

pub use assumptions::{Assumption, PLAIN_READ_PERCENT, assumptions};
pub use batch::Batch;
pub use launches::{Kernels, Launch, Limit, launches};
pub use prediction::{LaunchPrediction, Prediction, StepPrediction};
pub use timing::Timing;
