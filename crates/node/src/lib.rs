//! Machines with GPUs: how a model lies on them, and how long a step would take there.
//!
//! * [`Node`] and [`Gpu`] are the machines, with their memory and their published speeds.
//! * [`Plan`] says which part of a model each rank would hold, and what is left for the KV cache.
//! * [`launches()`] lists what a rank launches for a [`Batch`], with the bytes that must move and the multiplications: from
//!   the shard table and the kernels' formulas.
//! * [`Timing`] turns that into seconds, under [`assumptions()`], each with its source.
//! * [`Prediction`] is what `peregrine plan --predict` prints of it.
//!
//! **Invariant:** every time here is a floor or a prediction, and says what it rests on.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod assumptions;
mod batch;
mod budget;
mod gpus;
mod launches;
mod nodes;
mod prediction;
mod published;
mod timing;

pub use assumptions::{Assumption, PLAIN_READ_PERCENT, assumptions};
pub use batch::Batch;
pub use budget::{Fit, Plan, RankPlan};
pub use gpus::{Gpu, Link};
pub use launches::{Kernels, Launch, Limit, launches};
pub use nodes::{Backend, NODES, Node, Reserve, UnknownNode, gpu_reserve_bytes};
pub use prediction::{LaunchPrediction, Prediction, StepPrediction};
pub use published::{PUBLISHED, Published};
pub use timing::Timing;
