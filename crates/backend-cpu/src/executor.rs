//! The threads of a rank, with what each of them needs.

use crate::Isa;
use crate::kernels::amx::{self, Activations};
use crate::kernels::linear::{Layout, LayoutOf};
use crate::kernels::memory::Buffer;
use crate::kernels::pool::Pool;
use crate::kernels::simd::dispatch;
use crate::kernels::{attention, linear};
use crate::memory::buffer;
use backend::BackendError;
use sampling::Sampler;

/// A task is worth the wakening of a thread from this many elements on, where each costs an operation or two.
pub const TASK_ELEMENTS: usize = 8192;

/// How many inputs of products can be packed at a time.
pub const INPUTS: usize = 2;

/// Who computes, and with what.
pub struct Executor {
    /// The instruction set of all kernels.
    pub isa: Isa,
    /// The threads that compute.
    pub pool: Pool,
    /// One for each thread.
    pub scratch: Vec<Scratch>,
    /// The inputs of a product of packed weights; room is made for them with the tensors.
    pub inputs: [Activations; INPUTS],
    /// The input of a product of other weights: as it is packed, and room for that.
    pub layout: Layout,
    pub panels: Buffer<f32>,
}

/// Room that a thread has for itself. What products use begins at a page: a vector across two cache lines costs two loads.
pub struct Scratch {
    /// For products.
    pub sums: Buffer<f32>,
    /// For attention.
    pub attention: attention::Scratch,
    /// For rows of logits.
    pub sampler: Sampler,
}

impl Executor {
    /// With room for all but attention, whose shape is not known yet.
    ///
    /// # Errors
    ///
    /// [`BackendError::OutOfMemory`].
    pub fn new(isa: Isa, pool: Pool) -> Result<Self, BackendError> {
        let scratch = |_| {
            Ok(Scratch {
                sums: buffer("partial sums", sums_len(isa))?,
                attention: attention::Scratch::default(),
                sampler: Sampler::new(),
            })
        };
        let scratch = (0..pool.threads()).map(scratch).collect::<Result<_, BackendError>>()?;
        let (layout, panels) = (dispatch(isa, LayoutOf), buffer("a packed tensor", 0)?);
        Ok(Self { isa, scratch, pool, inputs: Default::default(), layout, panels })
    }
}

/// Elements of a thread's partial sums.
pub fn sums_len(isa: Isa) -> usize {
    if isa == Isa::Amx { amx::SUMS_LEN } else { linear::SUMS_LEN }
}
