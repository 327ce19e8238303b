//! Weights that nobody stores.

use forward::WeightSource;
use half::bf16;
use model::{Part, ShardTensor};
use std::ops::Range;

/// Random weights of any shape, so small that activations stay tame: pieces of one table, which every tensor begins to read
/// elsewhere. Drawing each would take longer than loading; no kernel notices.
pub struct RandomWeights {
    table: Vec<bf16>,
}

/// Prime, so that rows of no width see the same elements again.
const TABLE_LEN: usize = 1_048_583;
/// Weights are drawn evenly between this and its negative.
const LARGEST: f32 = 0.03;

impl RandomWeights {
    /// The weights of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let table = (0..TABLE_LEN).map(|_| bf16::from_f32(LARGEST * (2.0 * random.f32() - 1.0))).collect();
        Self { table }
    }

    /// Fills `out` with the elements from `first` on of one endless row.
    pub fn fill(&self, first: usize, mut out: &mut [bf16]) {
        let mut from = first % TABLE_LEN;
        while !out.is_empty() {
            let part = &self.table[from..];
            let (filled, rest) = out.split_at_mut(part.len().min(out.len()));
            filled.copy_from_slice(&part[..filled.len()]);
            (out, from) = (rest, 0);
        }
    }
}

impl WeightSource for RandomWeights {
    fn read(&self, tensor: &ShardTensor, elements: Range<usize>, out: &mut [bf16]) {
        let start = tensor.id.layer.map_or(0, |layer| layer + 1) * 100_003 + tensor.id.role as usize * 7_919;
        self.fill(start + elements.start, out);
    }

    /// Norms scale by 1, and no bias adds anything, as before any training.
    fn read_f32(&self, tensor: &ShardTensor, out: &mut [f32]) {
        out.fill(if tensor.id.part == Part::Weight { 1.0 } else { 0.0 });
    }

    fn release(&self, _: &ShardTensor) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_is_the_same_however_it_is_read() {
        let weights = RandomWeights::new(1);
        let read = |first: usize, len: usize| {
            let mut out = vec![bf16::NAN; len];
            weights.fill(first, &mut out);
            out
        };
        let whole = read(TABLE_LEN - 5, TABLE_LEN + 10);
        assert_eq!(whole[5..20], read(0, 15));
        assert_eq!(whole[TABLE_LEN..], read(2 * TABLE_LEN - 5, 10));
        // Rounding to bf16 adds up to 2^-9 of a weight.
        assert!(whole.iter().all(|weight| weight.to_f32().abs() <= LARGEST * 1.002));
        assert_ne!(whole[..100], RandomWeights::new(2).table[..100]);
    }
}
