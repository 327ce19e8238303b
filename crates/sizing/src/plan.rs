//! What each rank holds on a site, and what that leaves for the KV cache.

use crate::nodes::{Site, reserve_bytes};
use crate::{Asked, Backend, DoesNotFit, Fit, RankBytes, Ranks, WeightFormat, fit};
use model::{FalconConfig, Partition};
use serde::Serialize;
use std::ops::Range;
use step::BLOCK_TOKENS;

/// How a model lies on a site. All sizes are in bytes; all ranges are half-open.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// Every rank has room for its weights, its reserve, its steps, and the KV cache that was asked for, or that of one
    /// sequence of `sequence_tokens`.
    pub fits: bool,
    /// Name of the node.
    pub node: String,
    /// The model, as it was asked for.
    pub model: String,
    /// Where it is to run.
    pub backend: Backend,
    /// How many ranks there are.
    pub tensor_parallel: usize,
    /// Parameters of the whole model.
    pub parameters: u64,
    /// How weights are kept.
    pub weight_format: &'static str,
    /// What each rank has.
    pub memory_bytes: u64,
    /// What each rank needs beside what it allocates.
    pub reserve_bytes: u64,
    /// Tokens in the KV cache of the whole.
    pub kv_tokens: usize,
    /// The most rows of a step.
    pub step_tokens: usize,
    /// The longest sequence that the model was made for.
    pub sequence_tokens: usize,
    /// What each rank has of the model.
    pub ranks: Vec<RankPlan>,
    /// If it does not fit: why, and what would.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// If it does not fit: the smallest of the usual degrees with which it does, on every node where one does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub would_fit: Vec<PlannedFit>,
    /// How much to believe of this.
    pub note: &'static str,
}

/// What one rank has of the model.
#[derive(Debug, Serialize)]
pub struct RankPlan {
    /// Rank, from 0.
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
    pub kv_bytes_per_token: u64,
    /// Bytes of its KV cache.
    pub kv_bytes: u64,
    /// Bytes of activations.
    pub activation_bytes: u64,
    /// Bytes of what its operations work with.
    pub scratch_bytes: u64,
    /// What it lacks.
    pub short_by_bytes: u64,
}

/// A node and degree with which a model fits.
#[derive(Debug, Serialize)]
pub struct PlannedFit {
    /// Name of the node.
    pub node: &'static str,
    /// How many ranks.
    pub tensor_parallel: usize,
    /// Tokens in the KV cache of the whole.
    pub kv_tokens: usize,
}

const NOTE: &str = "computed from config.json and the node's memory; not measured on this node";

impl Plan {
    /// Plans the model `name` for `world` ranks on the site `node`. Where it does not fit, `others` are tried: sites with
    /// their names, and how many ranks they can have.
    ///
    /// # Panics
    ///
    /// If `world` is 0.
    #[must_use]
    pub fn new(
        (name, config): (&str, &FalconConfig),
        (node, site): (&str, &dyn Site),
        world: usize,
        asked: &Asked,
        others: &[(&'static str, usize, &dyn Site)],
    ) -> Self {
        let fitted = fit(config, world, site, asked);
        let (kv_tokens, step_tokens) = match &fitted {
            Ok(Fit { kv_blocks, step_rows, .. }) => (*kv_blocks as usize * BLOCK_TOKENS, *step_rows as usize),
            Err(DoesNotFit { kv_tokens, step_rows, .. }) => (*kv_tokens as usize, *step_rows as usize),
        };
        let footprint = site.footprint(world);
        let format = WeightFormat::default();
        let of_ranks = Ranks::new(config, world, format, &*footprint);
        let (memory_bytes, reserve_bytes) = (site.memory_bytes(world), reserve_bytes(site, world));
        let ranks = (0..world).map(|rank| {
            let bytes = of_ranks.bytes(rank, kv_tokens / BLOCK_TOKENS, step_tokens);
            let short_by_bytes = (bytes.total() + reserve_bytes).saturating_sub(memory_bytes);
            let kv_bytes_per_token = of_ranks.kv_bytes_per_token(rank);
            rank_plan(&Partition::new(config, rank, world), &bytes, kv_bytes_per_token, short_by_bytes)
        });
        Self {
            fits: fitted.is_ok(),
            node: node.to_owned(),
            model: name.to_owned(),
            backend: site.backend(),
            tensor_parallel: world,
            parameters: config.parameters(),
            weight_format: format.name(),
            memory_bytes,
            reserve_bytes,
            kv_tokens,
            step_tokens,
            sequence_tokens: config.max_positions,
            ranks: ranks.collect(),
            problem: fitted.as_ref().err().map(ToString::to_string),
            would_fit: if fitted.is_ok() { Vec::new() } else { fitting(config, asked, others) },
            note: NOTE,
        }
    }
}

fn rank_plan(partition: &Partition, bytes: &RankBytes, kv_bytes_per_token: u64, short_by_bytes: u64) -> RankPlan {
    RankPlan {
        rank: partition.rank,
        q_heads: ends(&partition.q_heads),
        kv_heads: ends(&partition.kv_heads),
        ffn: ends(&partition.ffn),
        vocab: ends(&partition.vocab),
        weight_bytes: bytes.weights,
        kv_bytes_per_token,
        kv_bytes: bytes.kv_cache,
        activation_bytes: bytes.activations,
        scratch_bytes: bytes.scratch,
        short_by_bytes,
    }
}

/// On each site, the smallest power of two of ranks with which the model fits.
fn fitting(config: &FalconConfig, asked: &Asked, sites: &[(&'static str, usize, &dyn Site)]) -> Vec<PlannedFit> {
    let on_site = |&(node, ranks, site): &(&'static str, usize, &dyn Site)| {
        [1, 2, 4, 8].into_iter().filter(|&world| world <= ranks).find_map(|world| {
            let fit = fit(config, world, site, asked).ok()?;
            Some(PlannedFit { node, tensor_parallel: world, kv_tokens: fit.kv_blocks as usize * BLOCK_TOKENS })
        })
    };
    sites.iter().filter_map(on_site).collect()
}

fn ends(range: &Range<usize>) -> [usize; 2] {
    [range.start, range.end]
}
