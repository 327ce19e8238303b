//! The contract between the scheduler and the workers, as plain data.
//!
//! A request's sequences are sent to the workers once ([`NewSequence`]); every [`StepPlan`] after that carries only
//! differences: which sequences run, how many of their tokens, which KV blocks they gain, who samples. One rule covers
//! prefill, chunked prefill, decode, speculation and recovery: a sequence's *computed* tokens catch up with its *known*
//! tokens. Workers keep the token ids; a sampled token is appended on the worker and feeds the next step there.
//!
//! **Invariant:** nothing here knows a tensor, a device, a socket or a clock.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

// Here, as every crate that needs it depends on this one: so it is the first error, and not one of many.
#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("Peregrine runs on Linux on x86-64 only");

mod ids;
mod plan;
mod result;
mod sampling;

pub use ids::{BlockId, SeqId, StepId};
pub use plan::{BLOCK_TOKENS, Command, NewSequence, Priority, SampleMask, SeqRun, StepPlan};
pub use result::{FinishReason, Sample, ScoredToken, SeqOutput, StepResult, TokenScore};
pub use sampling::{Choice, LOGIT_BIAS_MAX, ParamError, SamplingParams, SamplingSettings, TokenBias};
