//! Weights of zero, for tests of what is allocated.

use forward::WeightSource;
use half::bf16;
use model::ShardTensor;
use std::ops::Range;

/// A checkpoint whose every element is zero.
pub struct ZeroWeights;

impl WeightSource for ZeroWeights {
    fn read(&self, _: &ShardTensor, _: Range<usize>, out: &mut [bf16]) {
        out.fill(bf16::ZERO);
    }

    fn read_f32(&self, _: &ShardTensor, out: &mut [f32]) {
        out.fill(0.0);
    }

    fn release(&self, _: &ShardTensor) {}
}
