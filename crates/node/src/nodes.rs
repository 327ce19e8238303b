//! The machines that a model can be planned for, and the memory that they leave to it.

use crate::gpus::{A10G, A100_40, A100_80, Gpu, H100, H200, L40S, Link};
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

/// Where the model is to run, which decides what memory counts and how the KV cache is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// A GPU for each rank; the KV cache is bf16.
    Cuda,
    /// An even share of the host's memory for each rank; the KV cache is f32.
    Cpu,
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

// What each rank needs beside weights and KV cache: upper estimates, for steps of up to 2,048 rows.

const MIB: u64 = 1 << 20;

/// 0.3 to 0.5 GiB for the context on these GPUs, and the kernels' code.
const CONTEXT: Reserve = Reserve { what: "CUDA context", bytes: 512 * MIB };
/// Some 10 MiB a channel and direction, on up to 24 channels, and as much again for peers and the one-shot all-reduce.
const NCCL_NVLINK: Reserve = Reserve { what: "NCCL", bytes: 1024 * MIB };
/// As with NVLink, on up to 4 channels.
const NCCL_PCIE: Reserve = Reserve { what: "NCCL", bytes: 256 * MIB };
/// cuBLASLt is to be given 32 MiB, and split sums take as much.
const WORKSPACE: Reserve = Reserve { what: "workspace", bytes: 64 * MIB };
/// Falcon-180B over 4 ranks: 14,848 columns in f32 once and in bf16 twice, 22,528 local ones in bf16: 336 MB; and the
/// logits.
const ACTIVATIONS: Reserve = Reserve { what: "activations", bytes: 512 * MIB };
/// Of a GPU's memory, for captured graphs, allocations rounded up to pages of 2 MiB, and what drivers differ in.
const MARGIN_PERCENT: u64 = 2;
/// Program, stacks, tokenizer, and the memory shared by the ranks.
const PROCESS: Reserve = Reserve { what: "process", bytes: 256 * MIB };
/// As on a GPU, all in f32.
const ACTIVATIONS_F32: Reserve = Reserve { what: "activations", bytes: 1024 * MIB };

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

    /// What of a rank's memory is reserved, where there are `world` ranks.
    #[must_use]
    pub fn reserves(&self, backend: Backend, world: usize) -> Vec<Reserve> {
        if backend == Backend::Cpu {
            return vec![PROCESS, ACTIVATIONS_F32];
        }
        let nccl = if matches!(self.gpu.link, Link::NvLink { .. }) { NCCL_NVLINK } else { NCCL_PCIE };
        gpu_reserves(self.memory_bytes(backend, world), world, nccl, Some(ACTIVATIONS))
    }
}

fn gpu_reserves(memory_bytes: u64, world: usize, nccl: Reserve, activations: Option<Reserve>) -> Vec<Reserve> {
    let margin = Reserve { what: "margin", bytes: memory_bytes * MARGIN_PERCENT / 100 };
    let parts = [Some(CONTEXT), (world > 1).then_some(nccl), Some(WORKSPACE), activations, Some(margin)];
    parts.into_iter().flatten().collect()
}

/// Bytes of a GPU of `memory_bytes` that neither weights, the KV cache nor activations of one of `world` ranks can have.
#[must_use]
pub fn gpu_reserve_bytes(memory_bytes: u64, world: usize) -> u64 {
    gpu_reserves(memory_bytes, world, NCCL_NVLINK, None).iter().map(|reserve| reserve.bytes).sum()
}

impl Backend {
    /// Bytes of one element of the KV cache.
    #[must_use]
    pub fn kv_element_bytes(self) -> usize {
        match self {
            Self::Cuda => 2,
            Self::Cpu => 4,
        }
    }
}
