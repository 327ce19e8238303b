//! Steps in which every sequence has one row, as CUDA graphs: captured once for each of some numbers of rows, and launched
//! for every step that fits. What changes from step to step is read from the step's inputs, which lie at places that //! on the captured number of rows alone; rows beyond those in use are neither read nor written.

use crate::collective::AllReducePath;
use crate::cuda::{Cuda, CudaPending};
use crate::kernels::product::RowCount;
use crate::memory::View;
use crate::sampling::Tools;
use crate::step_inputs::{Bucket, StepAt, sample_count};
use backend::{BackendError, Batch, BatchSeq, EagerStep, SampleRequest, StepInput, StepLimits};
use cudarc::driver::CudaGraph;
use cudarc::driver::result::mem_get_info;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use std::time::Instant;
use step::BLOCK_TOKENS;

/// Numbers of rows for which steps are captured, up to the most rows of a step.
const ROWS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// A captured step.
pub(crate) struct CapturedStep {
    graph: CudaGraph,
    bucket: Bucket,
    /// Whole rows of logits: those that were used last.
    logits: View<f32>,
}

/// What operations must know during a capture.
pub(crate) struct Capture {
    pub(crate) at: StepAt,
    /// Chunks of rows of logits that have been used.
    chunks: usize,
    /// Rows in them.
    rows: usize,
    logits: Option<View<f32>>,
}

impl Capture {
    /// Where the indices of the next chunk's rows are, and how many there will be of at most `most`.
    pub(crate) fn selected(&self, most: usize) -> (u64, RowCount) {
        (self.at.gather + (self.rows * size_of::<u32>()) as u64, self.samples(most))
    }

    /// How many rows of the next chunk there will be, of at most `most`.
    pub(crate) fn samples(&self, most: usize) -> RowCount {
        sample_count(self.at.chunk(self.chunks), most)
    }
}

/// The most rows that are captured.
pub(crate) fn rows_max(limits: &StepLimits) -> usize {
    limits.rows.min(ROWS[ROWS.len() - 1])
}

impl Cuda {
    /// [`Backend::capture`].
    pub(crate) fn capture_steps(&mut self, eager: &mut EagerStep<'_, Self>) -> Result<(), BackendError> {
        let on =
            self.options.graphs && !self.options.check_launches && !matches!(self.all_reduce_path, AllReducePath::Host);
        if !on {
            if self.device.rank == 0 {
                tracing::info!("no CUDA graphs: every step launches its kernels");
            }
            return Ok(());
        }
        let limits = self.limits.clone().expect("the rank is ready");
        let (begin, fault) = (Instant::now(), "capturing steps");
        let free = || mem_get_info().map(|(free, _)| free).map_err(|error| self.device.fault(fault, error));
        let before = free()?;
        let mut sizes: Vec<usize> = ROWS.into_iter().filter(|&rows| rows < rows_max(&limits)).collect();
        sizes.push(rows_max(&limits));
        for &rows in &sizes {
            let captured = self.capture_rows(rows, &limits, eager)?;
            self.captured.push(captured);
        }
        self.device.wait(fault)?;
        let after = mem_get_info().map(|(free, _)| free).map_err(|error| self.device.fault(fault, error))?;
        if self.device.rank == 0 {
            let (ms, kib) = (begin.elapsed().as_millis(), before.saturating_sub(after) >> 10);
            tracing::info!("CUDA graphs of {sizes:?} rows captured in {ms} ms; they take {kib} KiB on each device");
        }
        Ok(())
    }

    fn capture_rows(
        &mut self,
        rows: usize,
        limits: &StepLimits,
        eager: &mut EagerStep<'_, Self>,
    ) -> Result<CapturedStep, BackendError> {
        let bucket = self.step.bucket(rows, limits.logits_rows, limits.positions, &self.token_buffer);
        // It stands for any batch of as many rows, and nobody reads it but to count.
        let seq = |row| BatchSeq { rows: row..row + 1, start: 0, slot: Some(0), table: 0..1 };
        let batch = Batch { tokens: vec![0; rows], seqs: (0..rows).map(seq).collect(), blocks: vec![0] };
        let (selected, requests) = ((0..rows).collect::<Vec<_>>(), vec![SampleRequest::Score { token: 0 }; rows]);
        let device = self.device.clone();
        let fault = |error| device.fault("capturing a step", error);
        self.capture = Some(Capture { at: bucket.at, chunks: 0, rows: 0, logits: None });
        device.stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL).map_err(fault)?;
        let run = eager(self, &StepInput { batch: &batch, rows: &selected, requests: &requests });
        let capture = self.capture.take().expect("a capture is under way");
        let graph = device.stream.end_capture(CUgraphInstantiate_flags(0));
        run?;
        let graph = graph.map_err(fault)?.expect("a step has kernels");
        graph.upload().map_err(fault)?;
        Ok(CapturedStep { graph, bucket, logits: capture.logits.expect("a step uses logits") })
    }

    /// [`Backend::sample_or_score`] of whole rows, captured.
    pub(crate) fn capture_sampling(&mut self, logits: &View<f32>, rows: usize) -> Result<CudaPending, BackendError> {
        let capture = self.capture.as_mut().expect("a capture is under way");
        let (inputs, samples) = (capture.at.chunk(capture.chunks), capture.at.samples);
        let at = self.sampling.at(inputs, samples, capture.rows, &self.token_buffer, logits.columns);
        self.kernels.sample.launch(&self.device, &at, logits, rows)?;
        capture.chunks += 1;
        capture.rows += rows;
        capture.logits = Some(*logits);
        // The outputs come with each step that is launched.
        Ok(CudaPending::nothing())
    }

    /// Launches a step as it was captured, if one was that fits.
    pub(crate) fn replay(&mut self, step: &StepInput<'_>, number: u64) -> Result<Option<CudaPending>, BackendError> {
        let StepInput { batch, rows, requests } = *step;
        let Some(limits) = &self.limits else { return Ok(None) };
        let (positions, few) = (limits.positions, limits.logits_rows);
        let one_row = |seq: &BatchSeq| seq.rows.len() == 1 && seq.slot.is_some() && seq.start < positions;
        let tables = positions.div_ceil(BLOCK_TOKENS);
        let fits =
            batch.seqs.iter().all(|seq| one_row(seq) && seq.table.len() <= tables) && requests.len() <= batch.rows();
        // Of several chunks of logits, the last alone is still there behind the step.
        let wants_logits =
            |request: &SampleRequest<'_>| matches!(request, SampleRequest::Sample { return_logits: true, .. });
        let gone = requests.len() > few && requests.iter().any(wants_logits);
        let captured = self.captured.iter().find(|captured| batch.rows() <= captured.bucket.at.rows);
        let Some(captured) = captured.filter(|_| fits && !gone) else { return Ok(None) };
        let (arena, staging, token_buffer) = (&self.arena, &mut self.staging, &mut self.token_buffer);
        let mut tools = Tools { arena, staging, token_buffer, kernels: &self.kernels };
        let samples = self.sampling.rows(&mut tools, requests, captured.logits.columns)?;
        self.step.fill(&captured.bucket, &mut self.staging, batch, rows, &samples)?;
        captured.graph.launch().map_err(|error| self.device.fault("launching a captured step", error))?;
        let pending = self.sampling.keep(&self.token_buffer, &captured.logits, requests, Some(number))?;
        Ok(Some(CudaPending::pending(pending)))
    }
}
