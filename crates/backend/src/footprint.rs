//! What a backend allocates for a rank, told before there is a device.

use crate::{AttentionShape, StepLimits};

/// How the elements of weights are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightFormat {
    /// 16 bits: as published checkpoints have them.
    #[default]
    Bf16,
}

impl WeightFormat {
    /// Bytes of one element.
    #[must_use]
    pub const fn element_bytes(self) -> usize {
        match self {
            Self::Bf16 => 2,
        }
    }

    /// Its name, as people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
        }
    }
}

/// The shapes of all that a rank holds, in the order in which it makes them: activations, KV cache, weights, and last what
/// steps within the limits need beside.
#[derive(Clone, Debug, PartialEq)]
pub struct RankShapes {
    /// How the elements of `matrices` are kept.
    pub format: WeightFormat,
    /// Rows and columns of activations.
    pub tensors: Vec<(usize, usize)>,
    /// The rank's heads.
    pub attention: AttentionShape,
    /// Layers of the KV cache.
    pub layers: usize,
    /// Blocks of the KV cache in each layer, of [`step::BLOCK_TOKENS`] tokens.
    pub kv_blocks: usize,
    /// Rows and columns of weights; either may be 0.
    pub matrices: Vec<(usize, usize)>,
    /// Elements of biases, and of scales of norms.
    pub vectors: Vec<usize>,
    /// The most that a step asks for.
    pub limits: StepLimits,
}

/// Bytes that a rank allocates on its device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RankBytes {
    /// Weights, biases and norms, with the padding that the backend's kernels want.
    pub weights: u64,
    /// Keys and values.
    pub kv_cache: u64,
    /// Activations: for each row of a step, and for rows of logits.
    pub activations: u64,
    /// What operations work with: partial sums, whole rows of logits, tokens of sequences, tables, what peers read, and what
    /// is lost where allocations are rounded up.
    pub scratch: u64,
}

impl RankBytes {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.weights + self.kv_cache + self.activations + self.scratch
    }
}

/// What a backend allocates. It is computed by the formulas by which the backend allocates; tests hold the two equal.
pub trait Footprint {
    /// As [`crate::Backend::head_width`].
    fn head_width(&self, head_dim: usize) -> usize;

    /// As [`crate::Backend::LOGITS_ROWS_MAX`].
    fn logits_rows(&self) -> usize;

    /// The most rows of a step, whatever the memory.
    fn step_rows_max(&self) -> usize;

    /// Bytes that a rank of these shapes allocates.
    fn bytes(&self, shapes: &RankShapes) -> RankBytes;
}

/// [`crate::Reference`]'s.
#[derive(Clone, Copy, Debug)]
pub struct ReferenceFootprint;

impl Footprint for ReferenceFootprint {
    fn head_width(&self, head_dim: usize) -> usize {
        head_dim
    }

    fn logits_rows(&self) -> usize {
        <crate::Reference<crate::SingleRank> as crate::Backend>::LOGITS_ROWS_MAX
    }

    fn step_rows_max(&self) -> usize {
        usize::MAX
    }

    fn bytes(&self, shapes: &RankShapes) -> RankBytes {
        let elements = |all: &[(usize, usize)]| all.iter().map(|(rows, columns)| rows * columns).sum::<usize>();
        let f32s = |elements: usize| (elements * size_of::<f32>()) as u64;
        let kv_columns = shapes.attention.groups.len() * shapes.attention.head_dim;
        let vocab: usize = shapes.limits.vocab.iter().sum();
        RankBytes {
            weights: (elements(&shapes.matrices) * shapes.format.element_bytes()) as u64
                + f32s(shapes.vectors.iter().sum()),
            kv_cache: f32s(2 * shapes.layers * shapes.kv_blocks * step::BLOCK_TOKENS * kv_columns),
            activations: f32s(elements(&shapes.tensors)),
            // One whole row of logits.
            scratch: f32s(vocab),
        }
    }
}
