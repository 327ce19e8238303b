//! The threads of a rank, with what each of them needs.

use crate::Isa;
use crate::kernels::amx::{self, Activations};
use crate::kernels::pool::Pool;
use crate::kernels::{attention, linear};
use crate::products::INPUTS;
use sampling::Sampler;

/// Who computes, and with what.
pub struct Team {
    /// The instruction set of all kernels.
    pub isa: Isa,
    /// The threads.
    pub pool: Pool,
    /// One for each thread.
    pub scratch: Vec<Scratch>,
    /// The inputs of a product of packed weights; room is made for them with the tensors.
    pub inputs: [Activations; INPUTS],
}

/// Room that a thread has for itself.
pub struct Scratch {
    /// For products.
    pub sums: Vec<f32>,
    /// For attention.
    pub attention: attention::Scratch,
    /// For rows of logits.
    pub sampler: Sampler,
}

impl Team {
    /// With room for all but attention, whose shape is not known yet.
    pub fn new(isa: Isa, pool: Pool) -> Self {
        let sums_len = if isa == Isa::Amx { amx::SUMS_LEN } else { linear::SUMS_LEN };
        let scratch =
            || Scratch { sums: vec![0.0; sums_len], attention: attention::Scratch::default(), sampler: Sampler::new() };
        let scratch = (0..pool.threads()).map(|_| scratch()).collect();
        Self { isa, scratch, pool, inputs: Default::default() }
    }
}
