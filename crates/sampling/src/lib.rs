//! Logits processors and sampler in f32: the reference that every backend is held to.
//!
//! * [`Sampler`] chooses a token from a row of logits: processors, then the largest score or a seeded draw.
//! * [`softmax`] is the exponential, its sum and the log-probabilities, with a fixed order of summation.
//! * [`draw`] is the seeded draw: which random number belongs to which token, to the bit.
//! * [`philox`] is the counter-based generator below it.
//! * [`watermark`] selects the favoured half of the vocabulary, and detects it in a text.
//!
//! A choice depends on the logits, the parameters, the tokens so far and the position alone: not on the batch, the
//! load, the thread or the rank.
//!
//! **Invariant:** no state but scratch space, no clock, no entropy.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod draw;
pub mod philox;
mod processors;
mod sampler;
pub mod softmax;
pub mod watermark;

pub use processors::TEMPERATURE_MIN;
pub use sampler::{SampleRow, Sampler, model_logprob};
