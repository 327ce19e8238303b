//! Room that each thread of a rank has for itself.

use crate::kernels::{attention, linear};
use sampling::Sampler;

/// One thread's room.
pub struct Scratch {
    /// For products.
    pub sums: Vec<f32>,
    /// For attention.
    pub attention: attention::Scratch,
    /// For rows of logits.
    pub sampler: Sampler,
}

impl Scratch {
    /// Room for all but attention, whose shape is not known yet.
    pub fn new() -> Self {
        Self { sums: vec![0.0; linear::SUMS_LEN], attention: attention::Scratch::default(), sampler: Sampler::new() }
    }
}
