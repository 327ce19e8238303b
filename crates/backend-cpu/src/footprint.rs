//! What a rank on a CPU allocates.

use crate::executor::{INPUTS, sums_len};
use crate::kernels::amx::{PackedWeights, Shape};
use crate::kernels::attention;
use crate::kernels::linear::{Layout, LayoutOf};
use crate::kernels::norm::Moments;
use crate::kernels::simd::dispatch;
use crate::{Cpu, CpuKvCache, CpuTensor, Isa};
use backend::{Backend, Footprint, RankBytes, RankShapes, SingleRank};
use half::bf16;

/// What a rank with these threads and this instruction set allocates. Weights count in full; where they are used in their
/// mapped files they lie in the page cache instead.
#[derive(Clone, Copy, Debug)]
pub struct CpuFootprint {
    isa: Isa,
    threads: usize,
}

impl CpuFootprint {
    /// Of a rank with `threads` threads; `isa`: `None` for the richest that this CPU has.
    #[must_use]
    pub fn new(isa: Option<Isa>, threads: usize) -> Self {
        Self { isa: isa.unwrap_or_else(Isa::detect), threads: threads.max(1) }
    }

    /// Room to pack the inputs of products: that of the largest tensor.
    fn packed_bytes(self, tensors: &[(usize, usize)]) -> usize {
        let most = |len: &dyn Fn(usize, usize) -> usize| {
            tensors.iter().map(|&(rows, columns)| len(rows, columns)).max().unwrap_or(0)
        };
        if self.isa == Isa::Amx {
            let rows = tensors.iter().map(|&(rows, _)| rows).max().unwrap_or(0);
            let pairs = most(&|rows, columns| Shape { rows, columns }.len().unwrap_or(usize::MAX));
            return INPUTS * (pairs * size_of::<u32>() + rows * size_of::<Moments>());
        }
        let layout: Layout = dispatch(self.isa, LayoutOf);
        most(&|rows, columns| rows * layout.row_len(columns)) * size_of::<f32>()
    }
}

/// Rows of logits of all ranks that are sampled from at a time.
pub(crate) fn whole_rows_len(threads: usize, logits_rows: usize, vocab: &[usize]) -> usize {
    threads.min(logits_rows) * vocab.iter().sum::<usize>()
}

impl Footprint for CpuFootprint {
    fn head_width(&self, head_dim: usize) -> usize {
        Cpu::<SingleRank>::head_width(head_dim)
    }

    fn logits_rows(&self) -> usize {
        Cpu::<SingleRank>::LOGITS_ROWS_MAX
    }

    fn step_rows_max(&self) -> usize {
        usize::MAX
    }

    fn bytes(&self, shapes: &RankShapes) -> RankBytes {
        let RankShapes { attention, limits, .. } = shapes;
        let f32s = |elements: usize| elements * size_of::<f32>();
        let matrix = |&(rows, columns): &(usize, usize)| match self.isa {
            Isa::Amx => PackedWeights::len(rows, columns).map_or(usize::MAX, |len| len * size_of::<bf16>()),
            Isa::Plain | Isa::Avx2 | Isa::Avx512 => rows * columns * shapes.format.element_bytes(),
        };
        let tensor = |&(rows, columns): &(usize, usize)| CpuTensor::len(rows, columns, self.isa).unwrap_or(usize::MAX);
        let of_thread = sums_len(self.isa)
            + attention::Scratch::lens(attention.head_dim, attention.max_positions).iter().sum::<usize>();
        let scratch = self.packed_bytes(&shapes.tensors)
            + f32s(self.threads * of_thread)
            + f32s(whole_rows_len(self.threads, limits.logits_rows, &limits.vocab))
            + f32s(CpuKvCache::positions_len(attention));
        RankBytes {
            weights: (shapes.matrices.iter().map(matrix).sum::<usize>() + f32s(shapes.vectors.iter().sum())) as u64,
            kv_cache: f32s(CpuKvCache::len(attention, shapes.layers, shapes.kv_blocks)) as u64,
            activations: f32s(shapes.tensors.iter().map(tensor).sum()) as u64,
            scratch: scratch as u64,
        }
    }
}
