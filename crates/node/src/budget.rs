//! What each rank holds, and what that leaves for the KV cache.

use crate::nodes::{Backend, NODES, Node};
use model::{FalconConfig, Partition};
use serde::Serialize;
use std::ops::Range;
use step::BLOCK_TOKENS;

/// Weights are bf16 on every backend.
const WEIGHT_ELEMENT_BYTES: usize = 2;

/// How a model lies on a node. All sizes are in bytes; all ranges are half-open.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// Every rank has room for its weights, its reserve, and the KV cache of one sequence of `sequence_tokens`.
    pub fits: bool,
    /// Name of the node.
    pub node: &'static str,
    /// The model, as it was asked for.
    pub model: String,
    /// Where it is to run.
    pub backend: Backend,
    /// How many ranks there are.
    pub tensor_parallel: usize,
    /// Parameters of the whole model.
    pub parameters: u64,
    /// What each rank has.
    pub memory_bytes: u64,
    /// What each rank needs beside weights and KV cache.
    pub reserve_bytes: u64,
    /// Tokens in the KV cache of the whole.
    pub kv_tokens: usize,
    /// The longest sequence that the model was made for.
    pub sequence_tokens: usize,
    /// What each rank has of the model.
    pub ranks: Vec<RankPlan>,
    /// If it does not fit: the smallest of the usual degrees with which it does, on every node where one does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub would_fit: Vec<Fit>,
    /// How much to believe of this.
    pub note: &'static str,
}

/// What one rank has of the model.
#[derive(Debug, Serialize)]
pub struct RankPlan {
    /// The rank.
    pub rank: usize,
    /// Its query heads.
    pub q_heads: [usize; 2],
    /// The KV heads which those read; neighbours may share one.
    pub kv_heads: [usize; 2],
    /// Its feed-forward columns.
    pub ffn: [usize; 2],
    /// Its vocabulary rows.
    pub vocab: [usize; 2],
    /// Bytes of its weights.
    pub weight_bytes: u64,
    /// Bytes of a token in its KV cache; 0 if it has no heads.
    pub kv_bytes_per_token: usize,
    /// Tokens in whole blocks for which its KV cache has room. A rank without heads has room for all.
    pub kv_tokens: usize,
    /// What it lacks to hold weights, reserve, and the KV cache of one sequence.
    pub short_by_bytes: u64,
}

/// A node and degree with which a model fits.
#[derive(Debug, Serialize)]
pub struct Fit {
    /// Name of the node.
    pub node: &'static str,
    /// How many ranks.
    pub tensor_parallel: usize,
    /// Tokens in the KV cache of the whole.
    pub kv_tokens: usize,
}

const NOTE: &str = "computed from config.json and the node's listed memory; not measured on this node";

impl Plan {
    /// Plans the model `name` for `world` ranks on `node`.
    ///
    /// # Panics
    ///
    /// If `world` is 0.
    #[must_use]
    pub fn new(name: &str, config: &FalconConfig, node: &'static Node, world: usize, backend: Backend) -> Self {
        let ranks = rank_plans(config, node, world, backend);
        let fits = fits(&ranks);
        Self {
            fits,
            node: node.name,
            model: name.to_owned(),
            backend,
            tensor_parallel: world,
            parameters: config.parameters(),
            memory_bytes: node.memory_bytes(backend, world),
            reserve_bytes: reserve_bytes(node, world, backend),
            kv_tokens: kv_tokens(&ranks),
            sequence_tokens: config.max_positions,
            ranks,
            would_fit: if fits { Vec::new() } else { fitting(config, backend) },
            note: NOTE,
        }
    }
}

fn rank_plans(config: &FalconConfig, node: &Node, world: usize, backend: Backend) -> Vec<RankPlan> {
    let room = node.memory_bytes(backend, world).saturating_sub(reserve_bytes(node, world, backend));
    let mut ranks: Vec<RankPlan> = (0..world)
        .map(|rank| rank_plan(config, &Partition::new(config, rank, world), backend.kv_element_bytes(), room))
        .collect();
    let with_heads = ranks.iter().filter(|rank| rank.kv_bytes_per_token > 0);
    let smallest = with_heads.map(|rank| rank.kv_tokens).min().expect("some rank has heads");
    for rank in ranks.iter_mut().filter(|rank| rank.kv_bytes_per_token == 0) {
        rank.kv_tokens = smallest;
    }
    ranks
}

/// A rank's plan, where `room` bytes are left to weights and KV cache.
fn rank_plan(config: &FalconConfig, partition: &Partition, kv_element_bytes: usize, room: u64) -> RankPlan {
    let weight_bytes = partition.weight_bytes(config, WEIGHT_ELEMENT_BYTES);
    let kv_bytes_per_token = partition.kv_bytes_per_token(config, kv_element_bytes);
    let block_bytes = (BLOCK_TOKENS * kv_bytes_per_token) as u64;
    let blocks = room.saturating_sub(weight_bytes).checked_div(block_bytes).unwrap_or(0);
    let sequence_bytes = config.max_positions.div_ceil(BLOCK_TOKENS) as u64 * block_bytes;
    RankPlan {
        rank: partition.rank,
        q_heads: ends(&partition.q_heads),
        kv_heads: ends(&partition.kv_heads),
        ffn: ends(&partition.ffn),
        vocab: ends(&partition.vocab),
        weight_bytes,
        kv_bytes_per_token,
        kv_tokens: blocks as usize * BLOCK_TOKENS,
        short_by_bytes: (weight_bytes + sequence_bytes).saturating_sub(room),
    }
}

fn reserve_bytes(node: &Node, world: usize, backend: Backend) -> u64 {
    node.reserves(backend, world).iter().map(|reserve| reserve.bytes).sum()
}

fn fits(ranks: &[RankPlan]) -> bool {
    ranks.iter().all(|rank| rank.short_by_bytes == 0)
}

/// Tokens in the KV cache of the whole: what the smallest of the ranks' caches holds.
fn kv_tokens(ranks: &[RankPlan]) -> usize {
    ranks.iter().map(|rank| rank.kv_tokens).min().expect("there is a rank")
}

/// On each node, the smallest power of two of ranks with which the model fits.
fn fitting(config: &FalconConfig, backend: Backend) -> Vec<Fit> {
    let on_node = |node: &'static Node| {
        let degrees = [1, 2, 4, 8].into_iter().filter(|&world| world <= node.gpus);
        let fit = |world| {
            let ranks = rank_plans(config, node, world, backend);
            let fit = Fit { node: node.name, tensor_parallel: world, kv_tokens: kv_tokens(&ranks) };
            fits(&ranks).then_some(fit)
        };
        degrees.into_iter().find_map(fit)
    };
    NODES.iter().filter_map(on_node).collect()
}

fn ends(range: &Range<usize>) -> [usize; 2] {
    [range.start, range.end]
}
