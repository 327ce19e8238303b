//! The results of an independent implementation, and what it takes to equal them.
//!
//! * [`Golden`] holds the cases of one model; [`Case`] one prompt with all that the independent implementation says of it.
//! * [`Case::check_greedy`], [`Case::check_forced`] and [`Case::check_taught`] hold what we computed against it.
//! * [`checkpoints`] are small folders as transformers writes them, with what transformers makes of each.
//!
//! The independent implementation computes in f32 from the same bf16 weights. Where its two best tokens are closer than a
//! [`Tolerance`] says, either may come first, so a sequence is compared up to there; no tolerance is ever loosened.

mod check;
mod checkpoints;
mod files;
mod unpack;

pub use check::{Observed, Tolerance};
pub use checkpoints::{CheckpointCase, checkpoints};
pub use files::{Case, Golden, Greedy, LayerGolden, MODELS, PenaltyCase, TREE, TopLogits, has, model_dir};
