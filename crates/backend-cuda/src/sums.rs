//! Sums over ranks, by the path that was chosen.

use crate::collective::AllReducePath;
use crate::cuda::Cuda;
use crate::kernels::all_reduce::{Add, Peers, RANKS_MAX, Sum};
use crate::peers::PeerMemory;
use crate::tensor::{CudaTensor, Form};
use backend::{BackendError, Tensor};

/// Blocks of a multiprocessor that add one rank's own partial sum.
const RESIDUAL_BLOCKS: usize = 4;

impl Cuda {
    /// `x += partial`, or `x = partial`, of this rank alone; and the moments of x.
    pub(crate) fn add_own(&self, partial: u64, x: &CudaTensor, accumulate: bool) -> Result<(), BackendError> {
        if x.rows() == 0 || x.stride() == 0 {
            return Ok(());
        }
        let mut partials = [0; RANKS_MAX];
        partials[0] = partial;
        let sum = Sum {
            partials,
            peers: Peers { ranks: 1, ..Peers::default() },
            x: &x.f32(),
            moments: x.moments(),
            accumulate,
            // All that can run at once: no rank waits for a block of another.
            blocks_max: RESIDUAL_BLOCKS * self.device.multiprocessors,
        };
        self.kernels.all_reduce.launch(&self.device, Add::Residual, &sum, x.count())?;
        x.has_moments().set(true);
        Ok(())
    }

    /// [`backend::Backend::all_reduce`].
    pub(crate) fn sum_in_place(&mut self, x: &mut CudaTensor) -> Result<(), BackendError> {
        assert_eq!(x.form(), Form::F32, "what is summed is f32");
        if x.rows() * x.stride() == 0 {
            return Ok(());
        }
        match &mut self.all_reduce_path {
            AllReducePath::SingleRank => Ok(()),
            AllReducePath::Peers(_) => self.sum_by_peers(None, x),
            AllReducePath::Nccl(_) | AllReducePath::Host => {
                self.sum_over_ranks(x)?;
                x.becomes(Form::F32);
                Ok(())
            }
        }
    }

    /// [`backend::Backend::all_reduce_add`].
    pub(crate) fn sum_and_add(&mut self, partial: &mut CudaTensor, x: &mut CudaTensor) -> Result<(), BackendError> {
        assert_eq!((partial.form(), x.form()), (Form::F32, Form::F32), "what is summed is f32");
        assert_eq!((partial.rows(), partial.columns()), (x.rows(), x.columns()), "shapes of a sum");
        if x.rows() * x.stride() == 0 {
            return Ok(());
        }
        match &mut self.all_reduce_path {
            AllReducePath::Peers(_) => return self.sum_by_peers(Some(partial), x),
            AllReducePath::Nccl(_) | AllReducePath::Host => self.sum_over_ranks(partial)?,
            AllReducePath::SingleRank => {}
        }
        x.rounded().set(false);
        self.add_own(partial.f32().at, x, true)
    }

    /// In place, by NCCL or on the host.
    fn sum_over_ranks(&mut self, x: &CudaTensor) -> Result<(), BackendError> {
        let (at, count) = (x.f32().at, x.rows() * x.stride());
        if let AllReducePath::Nccl(nccl) = &self.all_reduce_path {
            // SAFETY: the rows are in the tensor.
            return unsafe { nccl.all_reduce(at, count) };
        }
        let mut values = vec![0.0f32; count];
        // SAFETY: the rows are in the tensor.
        unsafe { self.device.download("an all-reduce on the host", bytemuck::cast_slice_mut(&mut values), at) }?;
        self.host.all_reduce(&mut values)?;
        // SAFETY: as above; `values` lives until the copy has been waited for.
        unsafe { self.device.upload(at, bytemuck::cast_slice(&values)) }?;
        self.device.wait("an all-reduce on the host")
    }

    /// `x += Σ partial`, or `x = Σ x`, by kernels that read the peers' memory.
    fn sum_by_peers(&mut self, partial: Option<&CudaTensor>, x: &CudaTensor) -> Result<(), BackendError> {
        let (rank, ranks) = (self.host.rank(), self.host.world());
        let (rows, row_bytes) = (x.rows(), x.stride() * size_of::<f32>());
        let AllReducePath::Peers(peers) = &mut self.all_reduce_path else { unreachable!("only on this path") };
        let layer = partial.is_some();
        let own = |peers: &PeerMemory| if layer { peers.layer_partial(rank) } else { peers.other_partial(rank) };
        let (from, alias) = partial.map_or((x.f32().at, None), |partial| (partial.f32().at, partial.alias()));
        if alias.is_none() {
            peers.reserve(&mut *self.host, x.rows_max() * row_bytes, 0)?;
        }
        if alias != Some(own(peers)) {
            // SAFETY: both have room for the rows.
            unsafe { self.device.copy(own(peers), from, rows * row_bytes) }?;
        }
        let sum = Sum {
            partials: peers.take_partials(ranks, layer),
            peers: peers.flags(rank, ranks),
            x: &x.f32(),
            moments: x.moments(),
            accumulate: layer,
            blocks_max: peers.blocks(),
        };
        let add = peers.shots(ranks, rows * row_bytes);
        self.kernels.all_reduce.launch(&self.device, add, &sum, x.count())?;
        x.rounded().set(false);
        x.has_moments().set(true);
        Ok(())
    }

    /// `y` is about to be a layer's partial sum: where peers read it, it becomes an alias of the buffer that they read.
    pub(crate) fn alias_to_peers(&self, y: &mut CudaTensor) {
        let bytes = y.rows_max() * y.stride() * size_of::<f32>();
        match &self.all_reduce_path {
            AllReducePath::Peers(peers) if bytes <= peers.partial_bytes() => {
                y.becomes_alias(peers.layer_partial(self.host.rank()));
            }
            _ => y.becomes(Form::F32),
        }
    }
}
