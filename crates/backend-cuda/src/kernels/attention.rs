//! `attention.cu`: attention of one row of a sequence at a time, with or without rotation.

use crate::device::{Device, Kernel};
use crate::memory::{Buffer, View};
use crate::step_inputs::{StepAt, StepRow};
use backend::BackendError;
use half::bf16;

/// Widths of a head for which the kernels are compiled.
pub(crate) const WIDTHS: [usize; 3] = [16, 32, 64];
/// Query heads of a tile at most.
pub(crate) const TILE_HEADS: usize = 32;
/// Positions of a block.
pub(crate) const SPLIT: usize = 128;
/// Rows of a launch, for which there is scratch. No step that is captured has more.
const ROWS_MAX: usize = 256;

/// Up to 32 query heads of one KV head.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(crate) struct HeadTile {
    pub(crate) kv_head: i32,
    pub(crate) first_query: i32,
    pub(crate) queries: i32,
    pub(crate) query_column: i32,
    pub(crate) key_column: i32,
    pub(crate) value_column: i32,
    pub(crate) stores: i32,
    pub(crate) reserved: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct AttentionArgs {
    step: u64,
    rows: u64,
    sequences: u64,
    items: u64,
    tables: u64,
    tiles: u64,
    qkv: u64,
    rotations: u64,
    slopes: u64,
    queries: u64,
    cache: u64,
    y: u64,
    partials: u64,
    tickets: u64,
    table_stride: i32,
    qkv_stride: i32,
    y_stride: i32,
    kv_heads: i32,
}
const _: () = assert!(size_of::<HeadTile>() == 32 && size_of::<AttentionArgs>() == 128);

/// What the attention kernels share.
pub(crate) struct Attention<'a> {
    pub(crate) step: &'a StepAt,
    /// Index of [`WIDTHS`].
    pub(crate) width: usize,
    /// Of the layer.
    pub(crate) cache: u64,
    pub(crate) kv_heads: usize,
    pub(crate) tiles: u64,
    pub(crate) tile_count: usize,
    pub(crate) rotations: u64,
    pub(crate) slopes: u64,
    pub(crate) qkv: View<f32>,
    /// Scratch for rotated queries, of the shape of `y`.
    pub(crate) queries: View<bf16>,
    pub(crate) y: View<bf16>,
    pub(crate) partials: &'a Buffer,
    /// Zeros between launches.
    pub(crate) tickets: &'a Buffer,
}

impl Attention<'_> {
    /// The structure that all attention kernels take.
    pub(crate) fn args(&self) -> AttentionArgs {
        self.y.check("attention's result", 8);
        self.queries.check("attention's queries", 8);
        self.qkv.check("queries, keys and values", 4);
        assert!(self.qkv.rows >= self.step.rows && self.y.rows >= self.step.rows, "rows of attention");
        assert!(self.queries.stride == self.y.stride && self.queries.rows >= self.y.rows, "shape of the queries");
        AttentionArgs {
            step: self.step.inputs,
            rows: self.step.step_rows,
            sequences: self.step.sequences,
            items: self.step.items,
            tables: self.step.tables,
            tiles: self.tiles,
            qkv: self.qkv.at,
            rotations: self.rotations,
            slopes: self.slopes,
            queries: self.queries.at,
            cache: self.cache,
            y: self.y.at,
            partials: self.partials.at(),
            tickets: self.tickets.at(),
            table_stride: self.step.table_stride as i32,
            qkv_stride: self.qkv.stride as i32,
            y_stride: self.y.stride as i32,
            kv_heads: self.kv_heads as i32,
        }
    }
}

impl AttentionArgs {
    /// Of the rows from `row` on.
    fn from(self, row: usize) -> Self {
        let moved = |at: u64, row_bytes: usize| at + (row * row_bytes) as u64;
        let y_bytes = self.y_stride as usize * size_of::<bf16>();
        Self {
            rows: moved(self.rows, size_of::<StepRow>()),
            qkv: moved(self.qkv, self.qkv_stride as usize * size_of::<f32>()),
            queries: moved(self.queries, y_bytes),
            y: moved(self.y, y_bytes),
            ..self
        }
    }
}

/// Bytes of partial results and of tickets for `rows` rows of up to `positions` positions.
pub(crate) fn scratch_bytes(rows: usize, positions: usize, tiles: usize, width: usize) -> (usize, usize) {
    let (rows, splits) = (rows.min(ROWS_MAX), positions.div_ceil(SPLIT));
    (rows * tiles * splits * TILE_HEADS * (width + 2) * size_of::<f32>(), rows * tiles * size_of::<u32>())
}

pub(crate) struct AttentionKernels {
    rotate_attend: [Kernel; 3],
    attend: [Kernel; 3],
}

impl AttentionKernels {
    pub(crate) fn load(device: &Device) -> Result<Self, BackendError> {
        let ptx = include_str!("../../../../kernels/ptx/attention.ptx");
        let names = ["rotate_attend_16", "rotate_attend_32", "rotate_attend_64", "attend_16", "attend_32", "attend_64"];
        let [a, b, c, d, e, f] = device.kernels(ptx, names)?;
        Ok(Self { rotate_attend: [a, b, c], attend: [d, e, f] })
    }

    /// Attention of the rows of a step that decode, some after the others where they are many. With `rotate`, each sequence has one row, and queries and keys are rotated and keys and values
    /// stored here; without, `rotate_store.rs` comes before.
    pub(crate) fn launch(&self, device: &Device, attention: &Attention<'_>, rotate: bool) -> Result<(), BackendError> {
        let width = WIDTHS[attention.width];
        let step = attention.step;
        assert!(step.positions <= 256 * width, "{} positions, at most {} are possible", step.positions, 256 * width);
        let (partials, tickets) = scratch_bytes(step.rows, step.positions, attention.tile_count, width);
        assert!(attention.partials.bytes() >= partials && attention.tickets.bytes() >= tickets, "attention's scratch");
        let kernels = if rotate { &self.rotate_attend } else { &self.attend };
        let (args, [first, end]) = (attention.args(), step.decode_rows);
        for row in (first..end).step_by(ROWS_MAX) {
            let grid = [step.positions.div_ceil(SPLIT), attention.tile_count, ROWS_MAX.min(end - row)];
            // SAFETY: `args` checks shapes and alignment, and scratch was checked above; block tables were checked against
            // the cache's blocks when the step was uploaded.
            unsafe { device.launch(&kernels[attention.width], grid, 128, 576 * width + 1024, &args.from(row)) }?;
        }
        Ok(())
    }
}
