//! Steps in which every sequence has one row, as CUDA graphs: captured once for each of some numbers of rows, and launched
//! for every step that fits. What changes from step to step is read from the step's inputs, which lie at places that //! on the captured number of rows alone; rows beyond those in use are neither read nor written.

use crate::collective::AllReducePath;
use crate::cuda::{Cuda, CudaPending};
use crate::cuda_step::{CudaStep, Inputs};
use crate::memory::View;
use crate::step_inputs::Bucket;
use backend::{BackendError, BatchSeq, SampleRequest, StepInput, StepLimits};
use cudarc::driver::CudaGraph;
use cudarc::driver::result::mem_get_info;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use std::ops::Range;
use std::time::Instant;
use step::BLOCK_TOKENS;

/// What errors of a capture are said to be in.
const CAPTURING: &str = "capturing a step";

/// Numbers of rows for which steps are captured, up to the most rows of a step.
const ROWS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// A captured step.
pub(crate) struct CapturedStep {
    graph: CudaGraph,
    pub(crate) bucket: Bucket,
    /// Whole rows of logits: those that were used last.
    pub(crate) logits: View<f32>,
}

/// The captured steps.
#[derive(Default)]
pub(crate) struct Graphs {
    captured: Vec<CapturedStep>,
    /// When capturing began, and the device's free memory then.
    begun: Option<(Instant, usize)>,
}

impl Graphs {
    pub(crate) fn clear(&mut self) {
        self.captured.clear();
    }

    pub(crate) fn captured(&self, index: usize) -> &CapturedStep {
        &self.captured[index]
    }

    /// Which of the captured steps a step is, if it is one of them.
    pub(crate) fn fitting(&self, input: &StepInput<'_>, limits: &StepLimits) -> Option<usize> {
        let StepInput { batch, requests, .. } = input;
        let (positions, few) = (limits.positions, limits.logits_rows);
        let one_row = |seq: &BatchSeq| seq.rows.len() == 1 && seq.slot.is_some() && seq.start < positions;
        let tables = positions.div_ceil(BLOCK_TOKENS);
        let fits =
            batch.seqs.iter().all(|seq| one_row(seq) && seq.table.len() <= tables) && requests.len() <= batch.rows();
        // Of several chunks of logits, the last alone is still there behind the step.
        let wants_logits =
            |request: &SampleRequest<'_>| matches!(request, SampleRequest::Sample { return_logits: true, .. });
        let gone = requests.len() > few && requests.iter().any(wants_logits);
        let has_room = |captured: &CapturedStep| batch.rows() <= captured.bucket.at.rows;
        self.captured.iter().position(has_room).filter(|_| fits && !gone)
    }
}

/// The most rows that are captured.
pub(crate) fn rows_max(limits: &StepLimits) -> usize {
    limits.rows.min(ROWS[ROWS.len() - 1])
}

impl Cuda {
    /// [`backend::Backend::buckets`].
    pub(crate) fn buckets_to_capture(&self) -> Vec<usize> {
        let on =
            self.options.graphs && !self.options.check_launches && !matches!(self.all_reduce_path, AllReducePath::Host);
        if !on {
            if self.device.rank == 0 {
                tracing::info!("no CUDA graphs: every step launches its kernels");
            }
            return Vec::new();
        }
        let rows_max = rows_max(self.limits.as_ref().expect("the rank is ready"));
        ROWS.into_iter().filter(|&rows| rows < rows_max).chain([rows_max]).collect()
    }

    fn free_memory(&self) -> Result<usize, BackendError> {
        mem_get_info().map(|(free, _)| free).map_err(|error| self.device.fault(CAPTURING, error))
    }

    /// [`backend::Backend::begin_capture`].
    pub(crate) fn begin_step_capture<'a>(&mut self, input: StepInput<'a>) -> Result<CudaStep<'a>, BackendError> {
        if self.graphs.begun.is_none() {
            self.graphs.begun = Some((Instant::now(), self.free_memory()?));
        }
        let limits = self.limits.as_ref().expect("the rank is ready");
        let (rows, chunk_rows) = (input.batch.rows(), limits.logits_rows);
        let bucket = self.step_memory.bucket(rows, chunk_rows, limits.positions, &self.token_buffer);
        let begun = self.device.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
        begun.map_err(|error| self.device.fault(CAPTURING, error))?;
        Ok(CudaStep::new(input, bucket.at, Inputs::Bucket { chunk_rows }, self.step_memory.sent()))
    }

    /// [`backend::Backend::end_capture`].
    pub(crate) fn end_step_capture(&mut self, step: &CudaStep<'_>) -> Result<(), BackendError> {
        let fault = |error| self.device.fault(CAPTURING, error);
        let graph = self.device.stream.end_capture(CUgraphInstantiate_flags(0)).map_err(fault)?;
        let (Some(graph), Some(logits)) = (graph, step.logits.get()) else {
            return Err(self.device.fault_text(CAPTURING, "a step without kernels, or without logits"));
        };
        graph.upload().map_err(fault)?;
        let limits = self.limits.as_ref().expect("the rank is ready");
        let bucket = self.step_memory.bucket(step.at.rows, limits.logits_rows, limits.positions, &self.token_buffer);
        let last = step.at.rows == rows_max(limits);
        self.graphs.captured.push(CapturedStep { graph, bucket, logits });
        if last { self.captured_all() } else { Ok(()) }
    }

    /// Waits until all graphs are on the device, and says what they take.
    fn captured_all(&mut self) -> Result<(), BackendError> {
        self.device.wait(CAPTURING)?;
        let (begun, before) = self.graphs.begun.take().expect("a capture has begun");
        let after = self.free_memory()?;
        if self.device.rank == 0 {
            let sizes: Vec<usize> = self.graphs.captured.iter().map(|captured| captured.bucket.at.rows).collect();
            let (ms, kib) = (begun.elapsed().as_millis(), before.saturating_sub(after) >> 10);
            tracing::info!("CUDA graphs of {sizes:?} rows captured in {ms} ms; they take {kib} KiB on each device");
        }
        Ok(())
    }

    /// [`backend::Backend::sample_or_score`] of whole rows, captured.
    pub(crate) fn capture_sampling(
        &mut self,
        logits: &View<f32>,
        step: &CudaStep<'_>,
        wanted: Range<usize>,
    ) -> Result<CudaPending, BackendError> {
        let chunk = step.chunk(&wanted).expect("what is captured has chunks");
        let (inputs, samples) = (step.at.chunk(chunk), step.at.samples);
        let at = self.sampling.at(inputs, samples, wanted.start, &self.token_buffer, logits.columns);
        self.kernels.sample.launch(&self.device, &at, logits, wanted.len())?;
        step.logits.set(Some(*logits));
        // The outputs come with each step that is launched.
        Ok(CudaPending::nothing())
    }

    /// [`backend::Backend::replay`].
    pub(crate) fn replay_step(&mut self, step: &mut CudaStep<'_>) -> Result<Option<CudaPending>, BackendError> {
        let number = self.in_flight.begin(step.input.batch.rows());
        step.number = Some(number);
        let Some(index) = step.captured else { return Ok(None) };
        self.step_at(step);
        let captured = self.graphs.captured(index);
        captured.graph.launch().map_err(|error| self.device.fault("launching a captured step", error))?;
        let pending = self.sampling.keep(&self.token_buffer, &captured.logits, step.input.requests, Some(number))?;
        Ok(Some(CudaPending::pending(pending)))
    }
}
