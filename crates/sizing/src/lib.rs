//! What a rank of a model needs, and what fits. Pure: it opens no device, reads no file, and asks no system.
//!
//! * [`Ranks`] says what the ranks of a model take, by the backend's own [`backend::Footprint`].
//! * [`fit`] chooses how large KV cache and steps can be in given memory, or says what would fit ([`DoesNotFit`]).
//! * [`Site`] is where ranks run: a [`Node`] of the catalogue with its [`Gpu`]s, or a machine that a caller describes.
//! * [`Plan`] is what `peregrine plan` prints: how a model lies on a site.
//!
//! **Invariant:** there is no other place that adds up what a rank needs: `serve`, `plan`, `doctor`, benchmarks and scripts
//! ask here, and tests hold it equal to what ranks allocate.

#![forbid(unsafe_code)]

mod fit;
mod gpus;
mod nodes;
mod plan;
mod published;
mod ranks;

pub use backend::{Footprint, RankBytes, WeightFormat};
pub use fit::{Advice, Asked, CONCURRENT_REQUESTS_MAX, DoesNotFit, Fit, KV_TOKENS_MAX, fit};
pub use gpus::{A100_TABLE, Gpu, Link, PCIE_GBPS, PCIE_LATENCY_US};
pub use nodes::{Backend, Footprints, NODES, Node, NodeSite, Reserve, Site, UnknownNode, cpu_reserves, gpu_reserves};
pub use plan::{Plan, PlannedFit, RankPlan};
pub use published::{PUBLISHED, Published};
pub use ranks::Ranks;
