//! What the ranks of a model take.

use backend::{Footprint, RankBytes, RankShapes, WeightFormat};
use forward::{Capacity, rank_shapes};
use model::{FalconConfig, Partition};
use step::BLOCK_TOKENS;

/// A model, cut over ranks that run on one kind of device.
pub struct Ranks<'a> {
    footprint: &'a dyn Footprint,
    /// Of each rank. Equal ones are there once: memory is asked for again and again.
    shapes: Vec<RankShapes>,
    /// Which of `shapes` is a rank's.
    of_rank: Vec<usize>,
}

impl<'a> Ranks<'a> {
    /// Of `world` ranks.
    ///
    /// # Panics
    ///
    /// If `world` is 0.
    #[must_use]
    pub fn new(config: &FalconConfig, world: usize, format: WeightFormat, footprint: &'a dyn Footprint) -> Self {
        assert!(world > 0, "there is a rank");
        let none = Capacity { kv_blocks: 0, rows_max: 0, logits_rows_max: footprint.logits_rows() };
        let (mut shapes, mut of_rank) = (Vec::new(), Vec::new());
        for rank in 0..world {
            let shape = rank_shapes(footprint, format, config, &Partition::new(config, rank, world), none);
            let index = shapes.iter().position(|other| *other == shape).unwrap_or(shapes.len());
            if index == shapes.len() {
                shapes.push(shape);
            }
            of_rank.push(index);
        }
        Self { footprint, shapes, of_rank }
    }

    /// What a rank takes with a KV cache of `kv_blocks` blocks and steps of up to `step_rows` rows.
    #[must_use]
    pub fn bytes(&self, rank: usize, kv_blocks: usize, step_rows: usize) -> RankBytes {
        self.shape_bytes(&self.shapes[self.of_rank[rank]], kv_blocks, step_rows)
    }

    /// As [`Ranks::bytes`], of the rank that takes most.
    #[must_use]
    pub fn fullest(&self, kv_blocks: usize, step_rows: usize) -> RankBytes {
        let bytes = self.shapes.iter().map(|shape| self.shape_bytes(shape, kv_blocks, step_rows));
        bytes.max_by_key(RankBytes::total).expect("there is a rank")
    }

    /// Bytes of one token in a rank's KV cache; 0 if it has no heads.
    #[must_use]
    pub fn kv_bytes_per_token(&self, rank: usize) -> u64 {
        self.bytes(rank, 1, 1).kv_cache / BLOCK_TOKENS as u64
    }

    /// The most rows of a step, whatever the memory.
    #[must_use]
    pub fn step_rows_max(&self) -> usize {
        self.footprint.step_rows_max()
    }

    fn shape_bytes(&self, shape: &RankShapes, kv_blocks: usize, step_rows: usize) -> RankBytes {
        let logits_rows_max = shape.limits.logits_rows;
        let capacity = Capacity { kv_blocks, rows_max: step_rows, logits_rows_max };
        self.footprint.bytes(&forward::with_capacity(shape, capacity))
    }
}
