//! The results of an independent implementation, and what it takes to equal them. For tests only.
//!
//! * [`Golden`] holds the cases of one model; [`Case`] one prompt with all that the independent implementation says of it.
//! * [`Case::check_greedy`] and [`Case::check_forced`] hold what we computed against it.
//!
//! The independent implementation computes in f32 from the same bf16 weights. Where its two best tokens are closer than
//! [`MARGIN_MIN`], either may come first, so a sequence is compared up to there; no tolerance is ever loosened.

#![forbid(unsafe_code)]

mod check;
mod files;
mod unpack;

pub use check::Observed;
pub use files::{Case, Golden, Greedy, LayerGolden, MODELS, PenaltyCase, TopLogits, model_dir};

/// How far a logit or log-probability may be off.
pub const TOLERANCE: f32 = 2e-3;

/// A greedy choice must be equal where the best logit leads the second by more than this.
pub const MARGIN_MIN: f32 = 4e-3;
