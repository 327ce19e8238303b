//! Weights and activations that nobody has seen before.

use forward::WeightSource;
use half::bf16;
use model::{Part, ShardTensor};
use std::ops::Range;

/// Small numbers of both signs, between 2^-6 and 2^-5: their sums stay small over thousands of inputs.
pub fn fill(seed: u64, out: &mut [bf16]) {
    let mut random = fastrand::Rng::with_seed(seed);
    for chunk in out.chunks_mut(4) {
        let bits = random.u64(..);
        for (index, value) in chunk.iter_mut().enumerate() {
            // Sign and fraction at random.
            *value = bf16::from_bits((bits >> (16 * index)) as u16 & 0x807f | 0x3c80);
        }
    }
}

/// Activations between −1 and 1.
pub fn values(count: usize) -> Vec<f32> {
    let mut random = fastrand::Rng::new();
    (0..count).map(|_| random.f32() * 2.0 - 1.0).collect()
}

/// Random weights in place of a checkpoint.
pub struct RandomWeights(pub u64);

impl WeightSource for RandomWeights {
    fn read(&self, _: &ShardTensor, elements: Range<usize>, out: &mut [bf16]) {
        fill(self.0 ^ (elements.start as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15), out);
    }

    fn read_f32(&self, tensor: &ShardTensor, out: &mut [f32]) {
        out.fill(if tensor.id.part == Part::Weight { 1.0 } else { 0.0 });
    }

    fn release(&self, _: &ShardTensor) {}
}
