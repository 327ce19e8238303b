//! `gather.cu`: whole rows of logits on every rank.

use super::all_reduce::{Peers, RANKS_MAX};
use super::product::RowCount;
use crate::device::{Device, Kernel};
use crate::memory::View;
use backend::BackendError;

#[repr(C)]
#[derive(Clone, Copy)]
struct GatherArgs {
    parts: [u64; RANKS_MAX],
    peers: Peers,
    widths: [i32; RANKS_MAX],
    logits: u64,
    samples: u64,
    vocab: i32,
    reserved: i32,
}
const _: () = assert!(size_of::<GatherArgs>() == 192);

pub(crate) struct Gather(Kernel);

impl Gather {
    pub(crate) fn load(device: &Device) -> Result<Self, BackendError> {
        let [gather] = device.kernels(include_str!("../../../../kernels/ptx/gather.ptx"), ["gather_logits"])?;
        Ok(Self(gather))
    }

    /// `logits` = the ranks' parts one behind the other. They come `from` addresses, flags, and their columns, without gaps
    /// between rows.
    pub(crate) fn launch(
        &self,
        device: &Device,
        from: (&[u64; RANKS_MAX], Peers, &[usize]),
        logits: &View<f32>,
        rows: RowCount,
        blocks_max: usize,
    ) -> Result<(), BackendError> {
        let (&parts, peers, widths) = from;
        let vocab: usize = widths.iter().sum();
        assert!(logits.stride == vocab && logits.columns == vocab && logits.rows >= rows.most, "shape of the logits");
        assert_eq!(widths.len(), peers.ranks as usize, "a width for each rank");
        let mut table = [0; RANKS_MAX];
        table.iter_mut().zip(widths).for_each(|(to, &width)| *to = width as i32);
        let args = GatherArgs {
            parts,
            peers,
            widths: table,
            logits: logits.at,
            samples: rows.at,
            vocab: vocab as i32,
            reserved: 0,
        };
        let grid = [blocks_max.min((rows.most * vocab).div_ceil(1024)), 1, 1];
        args.peers.check_resident(device, &grid);
        // SAFETY: the logits were checked above; the parts and flags of peers are mapped for as long as the connection
        // lives, and have the size that all ranks agreed on.
        unsafe { device.launch(&self.0, grid, 256, 0, &args) }
    }
}
