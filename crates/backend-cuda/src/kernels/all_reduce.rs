//! `all_reduce.cu`: sums over ranks into the residual stream, with the moments of its rows.

use super::norm::{MOMENT_COLUMNS, Moments};
use super::product::RowCount;
use crate::device::{Device, Kernel};
use crate::memory::View;
use backend::BackendError;
use std::ops::RangeInclusive;

/// The most ranks that meet in kernels.
pub(crate) const RANKS_MAX: usize = 8;
/// Warps of a block, at least and at most.
const WARPS: RangeInclusive<usize> = 4..=16;
/// Words of a line of flags.
pub(crate) const FLAG_LINE: usize = 32;

/// The flags of all ranks.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Peers {
    pub(crate) flags: [u64; RANKS_MAX],
    pub(crate) rank: i32,
    pub(crate) ranks: i32,
}

impl Peers {
    /// Asserts that blocks which wait for those of other ranks are on a multiprocessor all at once, as `peers.h` requires.
    pub(crate) fn check_resident(&self, device: &Device, grid: &[usize; 3]) {
        let blocks: usize = grid.iter().product();
        let most = device.multiprocessors;
        assert!(self.ranks <= 1 || blocks <= most, "{blocks} blocks meet those of other ranks, at most {most} may");
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct AllReduceArgs {
    partials: [u64; RANKS_MAX],
    peers: Peers,
    x: u64,
    moments: u64,
    rows: u64,
    columns: i32,
    moment_stride: i32,
    accumulate: i32,
    reserved: i32,
}
const _: () = assert!(size_of::<Peers>() == 72 && size_of::<AllReduceArgs>() == 176);

/// Which kernel adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Add {
    OneShot,
    TwoShot,
    /// One rank's own partial sum.
    Residual,
}

/// A sum over ranks.
pub(crate) struct Sum<'a> {
    /// Of each rank, with the shape of `x`.
    pub(crate) partials: [u64; RANKS_MAX],
    pub(crate) peers: Peers,
    pub(crate) x: &'a View<f32>,
    pub(crate) moments: Moments,
    /// `x += Σ`, else `x = Σ`.
    pub(crate) accumulate: bool,
    /// Blocks at most: where ranks meet, the least number of multiprocessors of all ranks.
    pub(crate) blocks_max: usize,
}

pub(crate) struct AllReduce {
    one_shot: Kernel,
    two_shot: Kernel,
    residual: Kernel,
}

impl AllReduce {
    pub(crate) fn load(device: &Device) -> Result<Self, BackendError> {
        let ptx = include_str!("../../../../kernels/ptx/all_reduce.ptx");
        let names = ["all_reduce_one_shot", "all_reduce_two_shot", "add_residual"];
        let [one_shot, two_shot, residual] = device.kernels(ptx, names)?;
        Ok(Self { one_shot, two_shot, residual })
    }

    pub(crate) fn launch(&self, device: &Device, add: Add, sum: &Sum<'_>, rows: RowCount) -> Result<(), BackendError> {
        let x = sum.x;
        // All columns of a stride are summed, padding too.
        assert!(x.stride.is_multiple_of(4) && x.rows >= rows.most, "shape of a sum");
        x.check("the sum", 4);
        assert!(sum.partials.iter().all(|at| at.is_multiple_of(16)), "alignment of partial sums");
        sum.moments.check(x.stride);
        let kernel = match add {
            Add::OneShot => &self.one_shot,
            Add::TwoShot => &self.two_shot,
            Add::Residual => &self.residual,
        };
        let items = rows.most * x.stride.div_ceil(MOMENT_COLUMNS);
        // As many blocks as there may be, and then as many warps in each.
        let warps = items.div_ceil(sum.blocks_max).clamp(*WARPS.start(), *WARPS.end());
        let grid = [sum.blocks_max.min(items.div_ceil(warps)), 1, 1];
        sum.peers.check_resident(device, &grid);
        let args = AllReduceArgs {
            partials: sum.partials,
            peers: sum.peers,
            x: x.at,
            moments: sum.moments.at,
            rows: rows.at,
            columns: x.stride as i32,
            moment_stride: sum.moments.stride as i32,
            accumulate: i32::from(sum.accumulate),
            reserved: 0,
        };
        // SAFETY: shapes and alignment were checked above; the partial sums and flags of peers are mapped for as long as
        // the connection lives, and have the size that all ranks agreed on.
        unsafe { device.launch(kernel, grid, 32 * warps as u32, 0, &args) }
    }
}
