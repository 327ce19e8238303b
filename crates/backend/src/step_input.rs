//! A step, as the forward pass hands it to a backend, and the most that steps ask for.

use crate::{Batch, SampleRequest};

/// The most that a model's steps ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepLimits {
    /// Rows of a step.
    pub rows: usize,
    /// Rows of logits at a time.
    pub logits_rows: usize,
    /// Columns of the residual stream.
    pub hidden: usize,
    /// Columns of logits that each rank computes.
    pub vocab: Vec<usize>,
    /// Positions of a sequence.
    pub positions: usize,
    /// Sequences at a time: slots of [`crate::Backend::set_tokens`].
    pub sequences: usize,
}

/// One step, as the forward pass hands it to a backend.
#[derive(Clone, Copy)]
pub struct StepInput<'a> {
    /// Its rows.
    pub batch: &'a Batch,
    /// The rows whose logits are used; none twice.
    pub rows: &'a [usize],
    /// What to do with the logits of each of them.
    pub requests: &'a [SampleRequest<'a>],
}

impl<'a> StepInput<'a> {
    /// A step of which no logits are used.
    #[must_use]
    pub fn without_logits(batch: &'a Batch) -> Self {
        Self { batch, rows: &[], requests: &[] }
    }
}
