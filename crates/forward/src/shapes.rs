//! What a rank holds of a model, as shapes: from the config, the shard table, and how wide the backend wants heads.

use crate::heads::Heads;
use backend::{AttentionShape, Footprint, KvGroup, Positions, RankShapes, StepLimits, WeightFormat};
use half::bf16;
use model::{FalconConfig, LayerNorms, Part, Partition, Role, cut_range};
use std::ops::Range;

/// How much a rank makes room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Blocks of the KV cache, each of `step::BLOCK_TOKENS` tokens in all layers.
    pub kv_blocks: usize,
    /// The most rows of one step.
    pub rows_max: usize,
    /// The most rows of logits at a time; a step that needs more takes them in turns.
    pub logits_rows_max: usize,
}

impl Capacity {
    /// The most sequences that a rank knows at a time. Each has a block or more; at most a row of a step runs each, and as
    /// many may have ended while the step after the one in which they did is on its way.
    #[must_use]
    pub fn sequences_max(&self) -> usize {
        self.kv_blocks.min(2 * self.rows_max)
    }
}

/// The shapes of what rank `partition` makes of a model, in the order in which [`crate::Falcon::load`] makes it.
#[must_use]
pub fn rank_shapes(
    footprint: &dyn Footprint,
    format: WeightFormat,
    config: &FalconConfig,
    partition: &Partition,
    capacity: Capacity,
) -> RankShapes {
    let attention = attention_shape(config, partition, footprint.head_width(config.head_dim));
    let (hidden, world) = (config.hidden, partition.world);
    // The residual stream, what is normalized, what is summed, queries with keys and values, attention, feed-forward.
    let of_step = [hidden, hidden, hidden, attention.qkv_columns(), attention.attended_columns(), partition.ffn.len()];
    let of_logits: [usize; LOGITS_TENSORS] = [hidden, hidden, partition.vocab.len()];
    let tensors = of_step.map(|columns| (capacity.rows_max, columns)).into_iter();
    let (matrices, vectors) = weights(config, partition, &attention);
    RankShapes {
        format,
        tensors: tensors.chain(of_logits.map(|columns| (capacity.logits_rows_max, columns))).collect(),
        layers: config.layers,
        kv_blocks: capacity.kv_blocks,
        matrices,
        vectors,
        limits: StepLimits {
            rows: capacity.rows_max,
            logits_rows: capacity.logits_rows_max,
            hidden,
            vocab: (0..world).map(|rank| cut_range(config.vocab, rank, world).len()).collect(),
            positions: config.max_positions,
            sequences: capacity.sequences_max(),
        },
        attention,
    }
}

/// The same rank with another capacity.
#[must_use]
pub fn with_capacity(shapes: &RankShapes, capacity: Capacity) -> RankShapes {
    let mut shapes = shapes.clone();
    let of_step = shapes.tensors.len() - LOGITS_TENSORS;
    for (index, (rows, _)) in shapes.tensors.iter_mut().enumerate() {
        *rows = if index < of_step { capacity.rows_max } else { capacity.logits_rows_max };
    }
    shapes.kv_blocks = capacity.kv_blocks;
    shapes.limits.rows = capacity.rows_max;
    shapes.limits.logits_rows = capacity.logits_rows_max;
    shapes.limits.sequences = capacity.sequences_max();
    shapes
}

/// Tensors of rows of logits, which come last: rows that are selected, normalized, and their logits.
const LOGITS_TENSORS: usize = 3;

/// Rows and columns of weights, and lengths of vectors. Of what a rank has no part there is nothing to count.
fn weights(
    config: &FalconConfig,
    partition: &Partition,
    attention: &AttentionShape,
) -> (Vec<(usize, usize)>, Vec<usize>) {
    let heads = Heads { head_dim: attention.head_dim, width: attention.head_width };
    let (mut matrices, mut vectors) = (Vec::new(), Vec::new());
    for tensor in model::shard(config, partition) {
        let (rows, columns) = (tensor.local_rows(), tensor.local_columns());
        let is_norm = matches!(
            tensor.id.role,
            Role::InputNorm | Role::AttentionNorm | Role::MlpNorm | Role::PostAttentionNorm | Role::FinalNorm
        );
        match (tensor.id.role, tensor.id.part) {
            (Role::QueryKeyValue, Part::Weight) => matrices.push((heads.wide(rows), columns)),
            (Role::Dense, Part::Weight) => matrices.push((rows, heads.wide(columns))),
            (_, Part::Weight) if !is_norm => matrices.push((rows, columns)),
            (Role::QueryKeyValue, Part::Bias) => vectors.push(heads.wide(tensor.local_elements())),
            // It is added to that of the product with which it is summed.
            (Role::Dense4hToH, Part::Bias) if config.norms != LayerNorms::Sequential => {}
            _ => vectors.push(tensor.local_elements()),
        }
    }
    (matrices, vectors)
}

/// The rank's heads, as the backend wants to know them.
fn attention_shape(config: &FalconConfig, partition: &Partition, head_width: usize) -> AttentionShape {
    AttentionShape {
        head_dim: config.head_dim,
        head_width,
        groups: partition.groups.iter().map(|group| KvGroup { queries: group.q_count }).collect(),
        positions: positions(config, partition.q_heads.clone()),
        max_positions: config.max_positions,
    }
}

/// How positions enter attention, for a range of the model's query heads.
#[must_use]
pub fn positions(config: &FalconConfig, q_heads: Range<usize>) -> Positions {
    match config.positions {
        model::Positions::Rotary(rope) => Positions::Rotary {
            inverse_frequencies: rope.inverse_frequencies(config.head_dim),
            factor: rope.attention_factor(),
        },
        model::Positions::Alibi => Positions::Alibi { slopes: alibi_slopes(config.q_heads)[q_heads].to_vec() },
    }
}

/// The slopes of all heads (the ALiBi paper, "Train Short, Test Long", 2022): a geometric series for a power of two of heads;
/// otherwise that of the next lower power, then every other slope of the next higher one. Rounded to bf16, as Falcon's
/// original code has them.
fn alibi_slopes(heads: usize) -> Vec<f32> {
    let lower = 1 << heads.ilog2();
    let series = |count: usize| (1..=count).map(move |i| 2f64.powf(-8.0 * i as f64 / count as f64));
    let slopes = series(lower).chain(series(2 * lower).step_by(2)).take(heads);
    slopes.map(|slope| bf16::from_f64(slope).to_f32()).collect()
}

#[cfg(test)]
mod tests {
    use super::alibi_slopes;

    #[test]
    fn slopes_of_six_heads_are_those_of_four_and_two_of_eight() {
        assert_eq!(alibi_slopes(6), [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]);
    }
}
