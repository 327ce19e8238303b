//! What tests of several crates share. It ships with no server; measuring tools take their random weights from here.
//!
//! * [`conformance`]: the suite that every backend and every collective must pass.
//! * [`goldens`]: the results of an independent implementation, and what it takes to equal them.
//! * [`RandomWeights`]: weights of any shape, without a checkpoint.
//! * [`ZeroWeights`]: weights of zero, where only what is allocated counts.
//! * [`small_models`]: the variants of the architecture, small.
//! * [`on_threads`]: the ranks of a world, each on a thread of its own.

#![forbid(unsafe_code)]

pub mod conformance;
pub mod goldens;
mod random_weights;
mod ranks;
mod small_models;
mod zero_weights;

pub use random_weights::RandomWeights;
pub use ranks::on_threads;
pub use small_models::small_models;
pub use zero_weights::ZeroWeights;
