//! The attention of one rank.

/// The attention heads of one rank. A row of a query-key-value tensor is, for each group in turn, its query heads, its
/// key and its value, each of `head_width` columns.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionShape {
    /// Elements of one head, as the model has it.
    pub head_dim: usize,
    /// Columns of one head in tensors: [`crate::Backend::head_width`] of `head_dim`.
    pub head_width: usize,
    /// The KV heads on this rank; none on a rank without heads. Groups may be ragged.
    pub groups: Vec<KvGroup>,
    /// How positions enter.
    pub positions: Positions,
    /// Positions run below this.
    pub max_positions: usize,
}

/// A KV head with its query heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvGroup {
    /// How many query heads of this rank read it; any number from 1 on.
    pub queries: usize,
}

/// How positions enter attention.
#[derive(Clone, Debug, PartialEq)]
pub enum Positions {
    /// Query and key are rotated: with `h = head_dim / 2` and `a = p · inverse_frequencies[i]`, element `i < h` becomes
    /// `f·(x[i]·cos a − x[i + h]·sin a)` and element `i + h` becomes `f·(x[i + h]·cos a + x[i]·sin a)`.
    Rotary {
        /// Radians per position, for each element of half a head.
        inverse_frequencies: Vec<f64>,
        /// `f`, which is 1 but for YaRN.
        factor: f64,
    },
    /// `bf16(slope · p) / √head_dim` is added to the scaled score of the key at position `p`.
    Alibi {
        /// Slope of each query head of this rank, in order, already rounded to bf16.
        slopes: Vec<f32>,
    },
}

impl Positions {
    /// Rotary embeddings as published (Su et al. 2021), with wavelengths in a geometric series of base `theta`.
    #[must_use]
    pub fn rotary(theta: f64, head_dim: usize) -> Self {
        let half = head_dim / 2;
        let inverse_frequencies = (0..half).map(|i| theta.powf(-(i as f64) / half as f64)).collect();
        Self::Rotary { inverse_frequencies, factor: 1.0 }
    }
}

impl AttentionShape {
    /// Query heads of the rank.
    #[must_use]
    pub fn queries(&self) -> usize {
        self.groups.iter().map(|group| group.queries).sum()
    }

    /// Columns of a query-key-value tensor.
    #[must_use]
    pub fn qkv_columns(&self) -> usize {
        (self.queries() + 2 * self.groups.len()) * self.head_width
    }

    /// Columns of attention's result.
    #[must_use]
    pub fn attended_columns(&self) -> usize {
        self.queries() * self.head_width
    }
}
