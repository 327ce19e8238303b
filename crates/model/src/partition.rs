//! Which part of the model a rank owns.

use crate::FalconConfig;
use std::ops::Range;

/// Rank `rank`'s part of `total` things cut over `world` ranks: contiguous, in rank order, sizes differing by at most
/// one. A rank beyond the number of things owns none.
#[must_use]
pub fn cut_range(total: usize, rank: usize, world: usize) -> Range<usize> {
    rank * total / world..(rank + 1) * total / world
}

/// One KV head that a rank holds, with those of its query heads that the rank owns. Groups may be ragged: where a cut
/// falls inside a group, both neighbours hold its KV head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalGroup {
    /// The KV head, counted over the whole model.
    pub kv_head: usize,
    /// Its first query head on this rank, counted over the whole model.
    pub q_first: usize,
    /// How many of its query heads are on this rank; at least one.
    pub q_count: usize,
}

/// What one of `world` ranks owns. Heads are cut by ranges of query heads, so any number of heads goes over any number
/// of ranks, and a rank may own no head at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// This rank.
    pub rank: usize,
    /// The tensor-parallel degree.
    pub world: usize,
    /// Query heads.
    pub q_heads: Range<usize>,
    /// KV heads that those query heads read; neighbours may share one.
    pub kv_heads: Range<usize>,
    /// Columns of the feed-forward part.
    pub ffn: Range<usize>,
    /// Rows of the embedding table and of the output projection.
    pub vocab: Range<usize>,
    /// The KV heads with their local query heads, in order.
    pub groups: Vec<LocalGroup>,
}

impl Partition {
    /// The part of rank `rank` of `world`.
    ///
    /// # Panics
    ///
    /// If `rank` is not below `world`.
    #[must_use]
    pub fn new(config: &FalconConfig, rank: usize, world: usize) -> Self {
        assert!(rank < world, "rank {rank} of {world}");
        let per_kv = config.queries_per_kv();
        let q_heads = cut_range(config.q_heads, rank, world);
        let kv_heads = if q_heads.is_empty() { 0..0 } else { q_heads.start / per_kv..(q_heads.end - 1) / per_kv + 1 };
        let groups = kv_heads
            .clone()
            .map(|kv_head| {
                let first = q_heads.start.max(kv_head * per_kv);
                let end = q_heads.end.min((kv_head + 1) * per_kv);
                LocalGroup { kv_head, q_first: first, q_count: end - first }
            })
            .collect();
        Self {
            rank,
            world,
            q_heads,
            kv_heads,
            ffn: cut_range(config.ffn, rank, world),
            vocab: cut_range(config.vocab, rank, world),
            groups,
        }
    }

    /// Bytes that one token takes in this rank's KV cache over all layers, with elements of `element_bytes`.
    #[must_use]
    pub fn kv_bytes_per_token(&self, config: &FalconConfig, element_bytes: usize) -> usize {
        2 * config.layers * self.kv_heads.len() * config.head_dim * element_bytes
    }

    /// Bytes of this rank's weights, with elements of `element_bytes`.
    #[must_use]
    pub fn weight_bytes(&self, config: &FalconConfig, element_bytes: usize) -> u64 {
        let shard = crate::shard(config, self);
        shard.iter().map(|tensor| (tensor.local_elements() * element_bytes) as u64).sum()
    }
}
