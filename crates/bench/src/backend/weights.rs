//! Weights that nobody stores.

use forward::WeightSource;
use half::bf16;
use model::{Role, ShardTensor};
use std::ops::Range;

/// Random weights, so small that activations stay tame: pieces of one table, which every tensor begins to read elsewhere.
pub(super) struct RandomWeights {
    table: Vec<bf16>,
}

/// Prime, so that rows of no width see the same elements again.
const TABLE_LEN: usize = 1_048_583;
const LARGEST: f32 = 0.05;

impl RandomWeights {
    pub(super) fn new() -> Self {
        let mut random = fastrand::Rng::with_seed(0);
        let table = (0..TABLE_LEN).map(|_| bf16::from_f32(LARGEST * (2.0 * random.f32() - 1.0))).collect();
        Self { table }
    }

    /// The elements of a tensor from `first` on.
    fn from(&self, tensor: &ShardTensor, first: usize) -> impl Iterator<Item = &[bf16]> {
        let start = tensor.id.layer.map_or(0, |layer| layer + 1) * 100_003 + tensor.id.role as usize * 7_919;
        let (behind, before) = self.table.split_at((start + first) % TABLE_LEN);
        [before, behind].into_iter().cycle()
    }
}

impl WeightSource for RandomWeights {
    fn read(&self, tensor: &ShardTensor, elements: Range<usize>, mut out: &mut [bf16]) {
        for part in self.from(tensor, elements.start) {
            let (filled, rest) = out.split_at_mut(part.len().min(out.len()));
            filled.copy_from_slice(&part[..filled.len()]);
            out = rest;
            if out.is_empty() {
                return;
            }
        }
    }

    fn read_f32(&self, tensor: &ShardTensor, out: &mut [f32]) {
        // Scales of norms are about 1.
        let offset = if matches!(tensor.id.role, Role::WordEmbeddings | Role::LmHead) { 0.0 } else { 1.0 };
        let elements = self.from(tensor, 0).flatten();
        out.iter_mut().zip(elements).for_each(|(out, element)| *out = offset + element.to_f32());
    }

    fn release(&self, _: &ShardTensor) {}
}
