//! A step, prepared: its inputs are on the device.

use crate::cuda::Cuda;
use crate::kernels::product::RowCount;
use crate::memory::View;
use crate::sampling::Tools;
use crate::step_inputs::{StepAt, sample_count};
use crate::tensor::exactly;
use backend::{BackendError, StepInput};
use std::cell::Cell;
use std::ops::Range;

/// A step on a GPU.
pub struct CudaStep<'a> {
    pub(crate) input: StepInput<'a>,
    pub(crate) at: StepAt,
    pub(crate) inputs: Inputs,
    /// Which of the steps that were prepared it is.
    sent: u64,
    /// Which captured step it is, if it is one.
    pub(crate) captured: Option<usize>,
    /// Its number among those on their way, once it has begun.
    pub(crate) number: Option<u64>,
    /// Whole rows of logits: those that were used last.
    pub(crate) logits: Cell<Option<View<f32>>>,
}

/// How its inputs lie.
pub(crate) enum Inputs {
    /// As many as there are. The rows of logits come with requests of their own.
    Exact,
    /// With room for other steps, and requests for so many rows of logits at a time.
    Bucket { chunk_rows: usize },
}

impl<'a> CudaStep<'a> {
    pub(crate) fn new(input: StepInput<'a>, at: StepAt, inputs: Inputs, sent: u64) -> Self {
        Self { input, at, inputs, sent, captured: None, number: None, logits: Cell::new(None) }
    }

    /// Of which chunk of rows of logits the step's requests of number `wanted` are.
    pub(crate) fn chunk(&self, wanted: &Range<usize>) -> Option<usize> {
        match self.inputs {
            Inputs::Exact => None,
            Inputs::Bucket { chunk_rows } => {
                assert!(wanted.start.is_multiple_of(chunk_rows) && wanted.len() <= chunk_rows, "a chunk: {wanted:?}");
                Some(wanted.start / chunk_rows)
            }
        }
    }
}

impl Cuda {
    /// [`backend::Backend::prepare`].
    pub(crate) fn prepare_step<'a>(&mut self, input: StepInput<'a>) -> Result<CudaStep<'a>, BackendError> {
        let (arena, staging, token_buffer) = (&self.arena, &mut self.staging, &mut self.token_buffer);
        let Some(index) = self.limits.as_ref().and_then(|limits| self.graphs.fitting(&input, limits)) else {
            let at = self.step_memory.send(arena, staging, token_buffer, &input)?;
            return Ok(CudaStep::new(input, at, Inputs::Exact, self.step_memory.sent()));
        };
        let captured = self.graphs.captured(index);
        let mut tools = Tools { arena, staging, token_buffer, kernels: &self.kernels };
        let samples = self.sampling.rows(&mut tools, input.requests, captured.logits.columns)?;
        self.step_memory.fill(&captured.bucket, &mut self.staging, input.batch, input.rows, &samples)?;
        let inputs = Inputs::Bucket { chunk_rows: captured.bucket.chunk_rows };
        let step = CudaStep::new(input, captured.bucket.at, inputs, self.step_memory.sent());
        Ok(CudaStep { captured: Some(index), ..step })
    }

    /// Where the step's inputs are.
    pub(crate) fn step_at<'s>(&self, step: &'s CudaStep<'_>) -> &'s StepAt {
        assert_eq!(step.sent, self.step_memory.sent(), "another step has been prepared since");
        &step.at
    }

    /// How many rows of the step are in use.
    pub(crate) fn step_rows(&self, step: &CudaStep<'_>) -> RowCount {
        match step.inputs {
            Inputs::Exact => self.exactly(step.at.rows),
            Inputs::Bucket { .. } => step.at.row_count(),
        }
    }

    /// Where the numbers of the rows are whose logits are the step's `wanted` ones, and how many there are.
    pub(crate) fn wanted_rows(&self, step: &CudaStep<'_>, wanted: &Range<usize>) -> (u64, RowCount) {
        let gather = self.step_at(step).gather + (wanted.start * size_of::<u32>()) as u64;
        let count = match step.chunk(wanted) {
            Some(chunk) => sample_count(step.at.chunk(chunk), wanted.len()),
            None => exactly(self.counts(), wanted.len()),
        };
        (gather, count)
    }
}
