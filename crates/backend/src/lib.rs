//! What a device must be able to do for the Falcon forward pass, and how every device is held to it.
//!
//! * [`Backend`]: the operations on one rank's device, each with its formula. The fused ones have a default that is
//!   made of the plain ones.
//! * [`MappedWeight`]: a weight that a backend can use where its file is mapped, without a copy.
//! * [`Collective`]: the sums and gathers between ranks whose tensors live in host memory; [`Bootstrap`]: what ranks tell each other
//!   before they compute. [`SingleRank`] is a world of one,
//!   [`Threads`] a world within a process.
//! * [`Footprint`]: what a backend allocates for a rank, known before a device is opened.
//! * [`Reference`]: every operation written as plainly as its formula, in f32. It is what the others are compared with,
//!   and `--backend reference` runs it.
//!
//! The suites that every backend and every collective must pass are in `testkit::conformance`.
//!
//! **Invariant:** no operation's result for a row depends on the other rows of its batch.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod batch;
mod collective;
mod error;
mod footprint;
mod logits;
mod mapped;
pub mod positions;
mod reference;
mod shape;
mod step_input;
mod threads;
mod traits;

pub use batch::{Batch, BatchSeq};
pub use collective::{Bootstrap, Collective, CollectiveError, Leaver, SingleRank};
pub use error::BackendError;
pub use footprint::{Footprint, RankBytes, RankShapes, ReferenceFootprint, WeightFormat};
pub use logits::{SampleOutput, SampleRequest, sample_or_score, sample_or_score_row};
pub use mapped::{MappedTensor, MappedWeight};
pub use reference::{HostKvCache, HostMatrix, HostTensor, Reference};
pub use sampling::SampleRow;
pub use shape::{AttentionShape, KvGroup, Positions};
pub use step_input::{StepInput, StepLimits};
pub use threads::Threads;
pub use traits::{
    Backend, Linear, Norm, NormLinear, ReadWeights, Tensor, dense_then_down, norm_then_linear, select_then_norm_linear,
};
