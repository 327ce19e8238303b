//! The machines that a model can be planned for, and the memory that they leave to it.

use crate::gpus::{A10G, A100_40, A100_80, Gpu, H100, H200, L40S, Link};
use backend::Footprint;
use serde::Serialize;

/// A machine with GPUs of one kind.
pub struct Node {
    /// Its instance type.
    pub name: &'static str,
    /// How many GPUs it has.
    pub gpus: usize,
    /// Their kind.
    pub gpu: &'static Gpu,
    /// Memory of the host in GiB, as the vendor lists it.
    host_gib: u64,
}

/// Where a model runs, which decides what memory counts and how the KV cache is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// A GPU for each rank; the KV cache is bf16.
    Cuda,
    /// An even share of the host's memory for each rank; the KV cache is f32.
    Cpu,
}

impl Backend {
    /// Rows of a step, where nobody says how many: with more, none gains any, and who waits for a token waits longer.
    pub(crate) fn step_rows_most(self) -> usize {
        match self {
            Self::Cuda => 1 << 14,
            Self::Cpu => 2048,
        }
    }
}

/// Where ranks are to run.
pub trait Site {
    /// What for.
    fn backend(&self) -> Backend;

    /// Bytes that each of `ranks` ranks has.
    fn memory_bytes(&self, ranks: usize) -> u64;

    /// What of that no rank can have for weights, KV cache and steps.
    fn reserves(&self, ranks: usize) -> Vec<Reserve>;

    /// What one of `ranks` ranks allocates there.
    fn footprint(&self, ranks: usize) -> Box<dyn Footprint>;
}

pub(crate) fn reserve_bytes(site: &dyn Site, ranks: usize) -> u64 {
    site.reserves(ranks).iter().map(|reserve| reserve.bytes).sum()
}

/// What backends allocate, for devices that need not be there. Who knows the backends implements it.
pub trait Footprints {
    /// One of `ranks` ranks on GPUs of a kind.
    fn cuda(&self, gpu: &Gpu, ranks: usize) -> Box<dyn Footprint>;

    /// A rank on CPUs.
    fn cpu(&self) -> Box<dyn Footprint>;
}

/// A node of the catalogue as a site.
#[derive(Clone, Copy)]
pub struct NodeSite<'a> {
    /// The node.
    pub node: &'static Node,
    /// What for.
    pub backend: Backend,
    /// What backends allocate.
    pub footprints: &'a dyn Footprints,
}

impl Site for NodeSite<'_> {
    fn backend(&self) -> Backend {
        self.backend
    }

    fn memory_bytes(&self, ranks: usize) -> u64 {
        self.node.memory_bytes(self.backend, ranks)
    }

    fn reserves(&self, ranks: usize) -> Vec<Reserve> {
        match self.backend {
            Backend::Cpu => cpu_reserves(),
            Backend::Cuda => {
                let has_nvlink = matches!(self.node.gpu.link, Link::NvLink { .. });
                gpu_reserves(self.memory_bytes(ranks), ranks, has_nvlink)
            }
        }
    }

    fn footprint(&self, ranks: usize) -> Box<dyn Footprint> {
        match self.backend {
            Backend::Cuda => self.footprints.cuda(self.node.gpu, ranks),
            Backend::Cpu => self.footprints.cpu(),
        }
    }
}

/// A part of a rank's memory that neither weights nor the KV cache can have.
pub struct Reserve {
    /// What it is for.
    pub what: &'static str,
    /// Its size in bytes.
    pub bytes: u64,
}

/// There is no node of that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--node {name} is not known; nodes are {}", NODES.map(|node| node.name).join(", "))]
pub struct UnknownNode {
    /// What was asked for.
    pub name: String,
}

/// All nodes, by the memory of their GPUs together.
pub const NODES: [Node; 7] = [
    Node { name: "g5.2xlarge", gpus: 1, gpu: &A10G, host_gib: 32 },
    Node { name: "g5.12xlarge", gpus: 4, gpu: &A10G, host_gib: 192 },
    Node { name: "p4d.24xlarge", gpus: 8, gpu: &A100_40, host_gib: 1152 },
    Node { name: "g6e.48xlarge", gpus: 8, gpu: &L40S, host_gib: 1536 },
    Node { name: "p4de.24xlarge", gpus: 8, gpu: &A100_80, host_gib: 1152 },
    Node { name: "p5.48xlarge", gpus: 8, gpu: &H100, host_gib: 2048 },
    Node { name: "p5en.48xlarge", gpus: 8, gpu: &H200, host_gib: 2048 },
];

// What each rank needs beside what it allocates: upper estimates.

const MIB: u64 = 1 << 20;

/// 0.3 to 0.5 GiB for the context on these GPUs, with the kernels' code and captured graphs.
const CONTEXT: Reserve = Reserve { what: "CUDA context", bytes: 512 * MIB };
/// Some 10 MiB a channel and direction, on up to 24 channels, and as much again for peers.
const NCCL_NVLINK: Reserve = Reserve { what: "NCCL", bytes: 1024 * MIB };
/// As with NVLink, on up to 4 channels.
const NCCL_PCIE: Reserve = Reserve { what: "NCCL", bytes: 256 * MIB };
/// Of a GPU's memory, for what libraries and drivers differ in.
const MARGIN_PERCENT: u64 = 2;
/// Program, stacks, and what the ranks share: a worker of a tiny model takes some 30 MiB.
const PROCESS: Reserve = Reserve { what: "process", bytes: 64 * MIB };

impl Node {
    /// The node called `name`.
    ///
    /// # Errors
    ///
    /// [`UnknownNode`], which lists all names.
    pub fn named(name: &str) -> Result<&'static Self, UnknownNode> {
        NODES.iter().find(|node| node.name == name).ok_or_else(|| UnknownNode { name: name.to_owned() })
    }

    /// Bytes that each of `world` ranks has. Of the host's memory a tenth is left to the system.
    #[must_use]
    pub fn memory_bytes(&self, backend: Backend, world: usize) -> u64 {
        match backend {
            Backend::Cuda => self.gpu.usable_mib * MIB,
            Backend::Cpu => self.host_gib * 1024 * MIB / 10 * 9 / world as u64,
        }
    }
}

/// What is reserved of a GPU of `memory_bytes` for each of `ranks` ranks.
#[must_use]
pub fn gpu_reserves(memory_bytes: u64, ranks: usize, has_nvlink: bool) -> Vec<Reserve> {
    let margin = Reserve { what: "margin", bytes: memory_bytes * MARGIN_PERCENT / 100 };
    let nccl = if has_nvlink { NCCL_NVLINK } else { NCCL_PCIE };
    [Some(CONTEXT), (ranks > 1).then_some(nccl), Some(margin)].into_iter().flatten().collect()
}

/// What is reserved of a host's memory for each rank.
#[must_use]
pub fn cpu_reserves() -> Vec<Reserve> {
    vec![PROCESS]
}
