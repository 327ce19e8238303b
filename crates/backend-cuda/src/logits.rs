//! Rows of logits: gathered from all ranks, then sampled from on each.

use crate::collective::AllReducePath;
use crate::cuda::{Cuda, CudaPending};
use crate::cuda_step::{CudaStep, Inputs};
use crate::memory::View;
use crate::sampling::Tools;
use crate::tensor::{CudaTensor, Form};
use ::sampling::Sampler;
use backend::{Backend, BackendError, SampleOutput, SampleRequest, Tensor};
use std::ops::Range;

impl Cuda {
    /// [`backend::Backend::sample_or_score`].
    pub(crate) fn sample_rows(
        &mut self,
        logits: &CudaTensor,
        vocab: &[usize],
        step: &CudaStep<'_>,
        wanted: Range<usize>,
    ) -> Result<CudaPending, BackendError> {
        let requests = &step.input.requests[wanted.clone()];
        assert_eq!(logits.rows(), requests.len(), "one request for each row of logits");
        assert_eq!(logits.form(), Form::F32, "logits are f32");
        assert_eq!(logits.columns(), vocab[self.host.rank()], "columns of logits");
        if requests.is_empty() {
            return Ok(CudaPending::nothing());
        }
        if matches!(self.all_reduce_path, AllReducePath::Host) {
            return self.sample_rows_on_host(logits, vocab, requests);
        }
        let whole = self.whole_rows(logits, vocab)?;
        if let Inputs::Bucket { .. } = step.inputs {
            return self.capture_sampling(&whole, step, wanted);
        }
        let (arena, staging, token_buffer) = (&self.arena, &mut self.staging, &mut self.token_buffer);
        let mut tools = Tools { arena, staging, token_buffer, kernels: &self.kernels };
        Ok(CudaPending::pending(self.sampling.run(&mut tools, &whole, requests, step.number)?))
    }

    fn sample_rows_on_host(
        &mut self,
        logits: &CudaTensor,
        vocab: &[usize],
        requests: &[SampleRequest<'_>],
    ) -> Result<CudaPending, BackendError> {
        let values = self.read(logits)?;
        let sampler = &mut Sampler::new();
        let outputs = backend::sample_or_score(&mut *self.host, &values, vocab, requests, &mut Vec::new(), sampler)?;
        for (request, output) in requests.iter().zip(&outputs) {
            if let (SampleRequest::Sample { row, slot: Some(slot), .. }, SampleOutput::Sample(sample)) =
                (request, output)
            {
                self.token_buffer.set(&mut self.staging, *slot, row.position as usize, &[sample.token.id])?;
            }
        }
        Ok(CudaPending::here(outputs))
    }

    /// Whole rows without gaps.
    fn whole_rows(&mut self, logits: &CudaTensor, vocab: &[usize]) -> Result<View<f32>, BackendError> {
        let (rows, total) = (logits.rows(), vocab.iter().sum::<usize>());
        let own = logits.f32();
        if matches!(self.all_reduce_path, AllReducePath::SingleRank) && own.stride == total {
            return Ok(own);
        }
        let at = self.whole_rows.at_least(&self.arena, rows * total * size_of::<f32>())?.at();
        let whole = View::new(at, rows, total, total);
        match &self.all_reduce_path {
            AllReducePath::SingleRank => self.copy_rows(logits, at)?,
            AllReducePath::Peers(_) => self.gather_by_peers(logits, vocab, &whole)?,
            AllReducePath::Nccl(_) => self.gather_by_nccl(logits, vocab, &whole)?,
            AllReducePath::Host => unreachable!("the host has rows of its own"),
        }
        Ok(whole)
    }

    /// Rows without gaps, at `to`.
    fn copy_rows(&self, logits: &CudaTensor, to: u64) -> Result<(), BackendError> {
        let (view, row_bytes) = (logits.f32(), logits.columns() * size_of::<f32>());
        if view.stride == view.columns {
            // SAFETY: the caller made room for the rows.
            return unsafe { self.device.copy(to, view.at, logits.rows() * row_bytes) };
        }
        for row in 0..logits.rows() {
            // SAFETY: as above.
            unsafe { self.device.copy(to + (row * row_bytes) as u64, view.row(row), row_bytes) }?;
        }
        Ok(())
    }

    fn gather_by_peers(&mut self, logits: &CudaTensor, vocab: &[usize], whole: &View<f32>) -> Result<(), BackendError> {
        let (rank, ranks) = (self.host.rank(), self.host.world());
        let widest = vocab.iter().copied().max().unwrap_or(0);
        let AllReducePath::Peers(peers) = &mut self.all_reduce_path else { unreachable!("only on this path") };
        peers.reserve(&mut *self.host, 0, logits.rows_max() * widest * size_of::<f32>())?;
        let (parts, flags, blocks) = (peers.logits(ranks), peers.flags(rank, ranks), peers.blocks());
        self.copy_rows(logits, parts[rank])?;
        self.kernels.gather.launch(&self.device, (&parts, flags, vocab), whole, logits.count(), blocks)
    }

    fn gather_by_nccl(&self, logits: &CudaTensor, vocab: &[usize], whole: &View<f32>) -> Result<(), BackendError> {
        let AllReducePath::Nccl(nccl) = &self.all_reduce_path else { unreachable!("only on this path") };
        let mut parts = Vec::new();
        for row in 0..logits.rows() {
            let mut to = whole.row(row);
            for (rank, &width) in vocab.iter().enumerate() {
                // Where another rank sends, this one has nothing of the part but its place.
                let from = if rank == self.host.rank() { logits.f32().row(row) } else { to };
                if width > 0 {
                    parts.push((rank, from, to, width));
                }
                to += (width * size_of::<f32>()) as u64;
            }
        }
        // SAFETY: the parts lie in the logits and in whole rows; on other ranks the first address is not read.
        unsafe { nccl.broadcast(&parts) }
    }
}
