//! What a rank allocates on a GPU.

use crate::cublaslt::WORKSPACE_BYTES;
use crate::cuda::{CHUNK_BYTES, COUNTS_BYTES, product_scratch, sample_capacity};
use crate::device::SharedMemory;
use crate::discover::GpuInfo;
use crate::kernels::attention;
use crate::kernels::product::{blocks_of, tiles};
use crate::limits::STEP_ROWS_MAX;
use crate::packing::{Packing, Place};
use crate::peers::{buffer_bytes, region_bytes};
use crate::step_inputs::StepMemory;
use crate::tensor::PAD;
use crate::token_buffer::TokenBuffer;
use crate::{Cuda, CudaMatrix, CudaTensor, CudaVector, cache};
use backend::{AttentionShape, Backend, Footprint, RankBytes, RankShapes, StepLimits};

/// What a rank allocates, by what it depends on beside the model: the device, the libraries, and the way of sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaFootprint {
    /// Blocks of a product's launch.
    pub(crate) product_blocks: usize,
    /// cuBLASLt is there.
    pub(crate) cublaslt: bool,
    /// Blocks of the kernels that read the peers' memory, if any do.
    pub(crate) peer_blocks: Option<usize>,
    /// As [`crate::CudaOptions::chunk_bytes`].
    pub(crate) chunk_bytes: usize,
}

impl CudaFootprint {
    /// Of one of `ranks` ranks on GPUs with `multiprocessors`. It counts cuBLASLt's workspace, and memory for peers, which ranks
    /// without them do not take.
    #[must_use]
    pub fn new(multiprocessors: usize, shared: SharedMemory, ranks: usize) -> Self {
        Self {
            product_blocks: blocks_of(multiprocessors, shared),
            cublaslt: true,
            peer_blocks: (ranks > 1).then_some(multiprocessors),
            chunk_bytes: CHUNK_BYTES,
        }
    }

    /// As [`CudaFootprint::new`], of a GPU that is there.
    #[must_use]
    pub fn of(gpu: &GpuInfo, ranks: usize) -> Self {
        Self::new(gpu.multiprocessors, gpu.shared, ranks)
    }
}

/// Buffers, placed one after the other as an arena places them.
struct Buffers {
    packing: Packing,
    /// Bytes of those that have an allocation of their own.
    own: usize,
}

impl Buffers {
    /// Gives the bytes back: what they are rounded up to is in the total alone.
    fn add(&mut self, bytes: usize) -> usize {
        if let Place::Own { bytes } = self.packing.place(bytes) {
            self.own += bytes;
        }
        bytes
    }

    fn add_all(&mut self, all: impl IntoIterator<Item = usize>) -> usize {
        all.into_iter().map(|bytes| self.add(bytes)).sum()
    }

    fn total(&self) -> usize {
        self.own + self.packing.shared_bytes()
    }
}

impl Footprint for CudaFootprint {
    fn head_width(&self, head_dim: usize) -> usize {
        Cuda::head_width(head_dim)
    }

    fn logits_rows(&self) -> usize {
        Cuda::LOGITS_ROWS_MAX
    }

    fn step_rows_max(&self) -> usize {
        STEP_ROWS_MAX
    }

    fn bytes(&self, shapes: &RankShapes) -> RankBytes {
        let mut buffers = Buffers { packing: Packing::new(self.chunk_bytes), own: 0 };
        let RankShapes { attention, limits, .. } = shapes;
        let workspace = if self.cublaslt { WORKSPACE_BYTES } else { 0 };
        buffers.add_all([COUNTS_BYTES].into_iter().chain((workspace > 0).then_some(workspace)));
        let mut activations = 0;
        let mut widest = 0;
        for &(rows, columns) in &shapes.tensors {
            activations += buffers.add(CudaTensor::bytes(rows, columns));
            let stride = columns.next_multiple_of(PAD);
            if stride > widest || widest == 0 {
                // The norm that changes nothing.
                buffers.add_all([CudaVector::bytes(stride); 2]);
                widest = stride;
            }
        }
        let [tiles_bytes, positions_bytes] = cache::table_bytes(attention);
        buffers.add_all([tiles_bytes, positions_bytes]);
        let kv_cache = buffers.add(cache::cache_bytes(attention, shapes.layers, shapes.kv_blocks));
        let matrix =
            |&(rows, columns): &(usize, usize)| CudaMatrix::elements(rows, columns) * shapes.format.element_bytes();
        let weights = buffers.add_all(shapes.matrices.iter().map(matrix))
            + buffers.add_all(shapes.vectors.iter().map(|&len| CudaVector::bytes(len)));
        let outputs_max = shapes.matrices.iter().map(|&(rows, _)| rows.next_multiple_of(PAD)).max();
        buffers.add_all(self.scratch(limits, attention, tiles(outputs_max.unwrap_or(0))));
        let peers = self.peer_blocks.map_or(0, |blocks| {
            let (partial, logits) = buffer_bytes(limits);
            region_bytes(blocks, partial, logits)
        });
        RankBytes {
            weights: weights as u64,
            kv_cache: kv_cache as u64,
            activations: activations as u64,
            scratch: (buffers.total() + peers - weights - kv_cache - activations) as u64,
        }
    }
}

impl CudaFootprint {
    /// What is made when a rank is ready, in that order.
    fn scratch(self, limits: &StepLimits, attention: &AttentionShape, tiles_max: usize) -> Vec<usize> {
        let vocab: usize = limits.vocab.iter().sum();
        let (partials, tickets) = product_scratch(limits, tiles_max, self.product_blocks);
        let tiles = cache::head_tiles(attention).len();
        let (attended, attention_tickets) =
            attention::scratch_bytes(limits.rows, attention.max_positions, tiles, attention.head_width);
        let mut all = sample_capacity(limits).bytes().to_vec();
        all.extend([
            TokenBuffer::bytes(limits.sequences + limits.logits_rows, limits.positions + 1),
            StepMemory::bytes(limits.rows, limits.positions),
            limits.logits_rows * size_of::<u32>(),
            limits.logits_rows * vocab * size_of::<f32>(),
            partials,
            tickets,
            attended,
            attention_tickets,
        ]);
        all
    }
}
