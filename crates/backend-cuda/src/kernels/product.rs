//! `product.cu`: `y = x·Wᵀ + b` for up to 64 rows at a time over bf16 inputs.

use crate::device::{Device, Kernel, SharedMemory};
use crate::memory::{Buffer, View};
use backend::BackendError;
use half::bf16;

/// Rows of x that an instance takes at a time.
pub(crate) const ROWS: [usize; 4] = [8, 16, 32, 64];
const TILE_N: usize = 64;
const TILE_K: usize = 128;
const THREADS: u32 = 128;
const STAGES_MIN: usize = 2;
const STAGES_MAX: usize = 6;
/// Shared memory that the kernels have besides what they are given.
const STATIC_SHARED_BYTES: usize = 128;

const STORE_F32: i32 = 0;
const STORE_GELU_BF16: i32 = 2;

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct ProductPart {
    weight: u64,
    x: u64,
    scale: u64,
    shift: u64,
    bias: u64,
    y: u64,
    outputs: i32,
    inputs: i32,
    weight_stride: i32,
    x_stride: i32,
    y_stride: i32,
    store: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct ProductArgs {
    part: [ProductPart; 2],
    rows: u64,
    gather: u64,
    moments: u64,
    partials: u64,
    tickets: u64,
    eps: f32,
    moment_stride: i32,
    concatenated: i32,
    stages: i32,
}
const _: () = assert!(size_of::<ProductPart>() == 72 && size_of::<ProductArgs>() == 200);

/// Where a product goes.
#[derive(Clone, Copy)]
pub(crate) enum Output {
    F32(View<f32>),
    /// As the input of the next product.
    GeluBf16(View<bf16>),
}

impl Output {
    /// The rows from `first` on.
    pub(crate) fn from(&self, first: usize) -> Self {
        match self {
            Self::F32(view) => Self::F32(view.from(first)),
            Self::GeluBf16(view) => Self::GeluBf16(view.from(first)),
        }
    }
}

/// How many rows are in use, which the device reads, and how many there may be.
#[derive(Clone, Copy)]
pub(crate) struct RowCount {
    pub(crate) at: u64,
    pub(crate) most: usize,
}

/// A weight with its bias: of shape (outputs, inputs).
#[derive(Clone, Copy)]
pub(crate) struct Weight {
    pub(crate) weight: View<bf16>,
    pub(crate) bias: Option<View<f32>>,
}

/// What products need beside inputs and outputs: shared by all launches of a stream.
pub(crate) struct ProductScratch<'a> {
    pub(crate) partials: &'a Buffer,
    /// Zeros between launches.
    pub(crate) tickets: &'a Buffer,
}

/// The grid of a launch, and the scratch that it takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Index of [`ROWS`].
    pub(crate) instance: usize,
    pub(crate) grid: [usize; 3],
    pub(crate) stages: usize,
    pub(crate) shared_bytes: usize,
    pub(crate) partials_bytes: usize,
    pub(crate) tickets_bytes: usize,
}

impl Plan {
    /// For `rows` rows, `tiles` tiles of outputs and `chunks` chunks of inputs.
    pub(crate) fn new(device: &Device, rows: usize, tiles: usize, chunks: usize, norm: bool) -> Self {
        let instance = instance(rows);
        let most = ROWS[instance];
        let normalizers = if norm { most * 8 } else { 0 };
        let stage_bytes = stage_bytes(most);
        let (_, block_bytes) = resident_blocks(device.shared);
        let room = block_bytes - STATIC_SHARED_BYTES - normalizers;
        let stages = (room / stage_bytes).min(STAGES_MAX);
        assert!(stages >= STAGES_MIN, "{room} bytes of shared memory are too few for a product");
        // The same for any number of rows: the order of sums depends on it.
        let blocks = blocks_max(device).min(tiles * chunks);
        let row_tiles = rows.div_ceil(most);
        Self {
            instance,
            grid: [blocks, row_tiles, 1],
            stages,
            shared_bytes: stages * stage_bytes + normalizers,
            partials_bytes: partials_bytes(row_tiles, blocks, most),
            tickets_bytes: row_tiles * tiles * size_of::<u32>(),
        }
    }
}

/// Index of [`ROWS`].
fn instance(rows: usize) -> usize {
    ROWS.iter().position(|&most| rows <= most).unwrap_or(ROWS.len() - 1)
}

fn partials_bytes(row_tiles: usize, blocks: usize, most: usize) -> usize {
    row_tiles * blocks * 2 * TILE_N * most * size_of::<f32>()
}

/// Bytes of partial sums and of tickets for any product of up to `rows` rows in up to `tiles` tiles, where a launch has at
/// most `blocks` blocks. Products of fewer rows have fewer tiles of rows, so the most is needed by the most rows, or by those
/// that just fill an instance.
pub(crate) fn scratch_bytes(rows: usize, tiles: usize, blocks: usize) -> (usize, usize) {
    let of = |rows: usize| {
        let most = ROWS[instance(rows)];
        let row_tiles = rows.div_ceil(most);
        (partials_bytes(row_tiles, blocks, most), row_tiles * tiles * size_of::<u32>())
    };
    let all = ROWS.into_iter().chain([rows]).map(of);
    all.fold((0, 0), |most, now| (most.0.max(now.0), most.1.max(now.1)))
}

fn stage_bytes(rows: usize) -> usize {
    (TILE_N + rows) * TILE_K * size_of::<bf16>()
}

/// Blocks that a multiprocessor holds at a time, and shared memory of each. Two are faster than one: while one waits for
/// weights or at a barrier, the other multiplies. They must have room for a pipeline with the most rows, as all instances
/// have the same grid.
fn resident_blocks(shared: SharedMemory) -> (usize, usize) {
    let bytes = |blocks: usize| {
        let share = shared.multiprocessor_bytes / blocks - shared.reserved_bytes;
        share.min(shared.block_bytes_max)
    };
    let least = STATIC_SHARED_BYTES + STAGES_MIN * stage_bytes(ROWS[ROWS.len() - 1]);
    let blocks = if bytes(2) >= least { 2 } else { 1 };
    (blocks, bytes(blocks))
}

/// The most blocks of a launch, on a device with `multiprocessors`.
pub(crate) fn blocks_of(multiprocessors: usize, shared: SharedMemory) -> usize {
    resident_blocks(shared).0 * multiprocessors
}

/// Blocks of a launch at most.
pub(crate) fn blocks_max(device: &Device) -> usize {
    blocks_of(device.multiprocessors, device.shared)
}

/// Tiles of outputs.
pub(crate) fn tiles(outputs: usize) -> usize {
    outputs.div_ceil(TILE_N)
}

/// Chunks of inputs.
pub(crate) fn chunks(inputs: usize) -> usize {
    inputs.div_ceil(TILE_K)
}

impl ProductPart {
    /// Checks one product, of a kind of inputs that the caller has checked.
    pub(crate) fn new(weight: &Weight, x: u64, x_stride: usize, y: &Output) -> Self {
        let View { rows: outputs, columns: inputs, stride, .. } = weight.weight;
        weight.weight.check("a weight", 8);
        assert!(inputs.is_multiple_of(8), "{inputs} inputs: expected a multiple of 8");
        let (y_at, y_stride, y_columns, store) = match y {
            Output::F32(y) => (y.at, y.stride, y.stride, STORE_F32),
            Output::GeluBf16(y) => (y.at, y.stride, y.stride, STORE_GELU_BF16),
        };
        assert!(outputs <= y_columns, "{outputs} outputs into rows of {y_columns}");
        if let Some(bias) = &weight.bias {
            assert!(bias.columns >= outputs, "a bias of {} for {outputs} outputs", bias.columns);
        }
        Self {
            weight: weight.weight.at,
            x,
            bias: weight.bias.map_or(0, |bias| bias.at),
            y: y_at,
            outputs: outputs as i32,
            inputs: inputs as i32,
            weight_stride: stride as i32,
            x_stride: x_stride as i32,
            y_stride: y_stride as i32,
            store,
            ..Self::default()
        }
    }

    /// With a norm over the inputs.
    pub(crate) fn normalized(self, scale: &View<f32>, shift: &View<f32>) -> Self {
        assert!(scale.columns >= self.inputs as usize && shift.columns >= self.inputs as usize, "columns of a norm");
        Self { scale: scale.at, shift: shift.at, ..self }
    }
}

impl ProductArgs {
    /// With the plan's stages and the scratch.
    pub(crate) fn new(part: [ProductPart; 2], rows: RowCount, plan: &Plan, scratch: &ProductScratch<'_>) -> Self {
        assert!(scratch.partials.bytes() >= plan.partials_bytes, "room for partial sums");
        assert!(scratch.tickets.bytes() >= plan.tickets_bytes, "room for tickets");
        Self {
            part,
            rows: rows.at,
            partials: scratch.partials.at(),
            tickets: scratch.tickets.at(),
            stages: plan.stages as i32,
            ..Self::default()
        }
    }

    /// Over normalized rows of x, which may be gathered: `moments` are x's, with `moment_stride` of them for a row.
    pub(crate) fn normalizing(self, gather: u64, moments: u64, moment_stride: usize, eps: f32) -> Self {
        Self { gather, moments, moment_stride: moment_stride as i32, eps, ..self }
    }
}

/// The compiled instances of the kernel.
pub(crate) struct Product([Kernel; 4]);

impl Product {
    pub(crate) fn load(device: &Device) -> Result<Self, BackendError> {
        let ptx = include_str!("../../../../kernels/ptx/product.ptx");
        device.kernels(ptx, ["product_8", "product_16", "product_32", "product_64"]).map(Self)
    }

    /// `y = x·Wᵀ + b`, for one or two products over inputs of the same width, or, `concatenated`, one sum over the inputs
    /// of both, with the output and the bias of the first.
    pub(crate) fn launch(
        &self,
        device: &Device,
        plan: &Plan,
        scratch: &ProductScratch<'_>,
        parts: &[(Weight, View<bf16>, Output)],
        concatenated: bool,
        rows: RowCount,
    ) -> Result<(), BackendError> {
        let mut part = [ProductPart::default(); 2];
        assert!((1..=2).contains(&parts.len()), "one product or two");
        for (part, (weight, x, y)) in part.iter_mut().zip(parts) {
            x.check("the inputs of a product", 8);
            assert_eq!(x.stride, weight.weight.columns, "columns of a product's inputs");
            assert!(x.rows >= rows.most, "{} rows of inputs for up to {}", x.rows, rows.most);
            *part = ProductPart::new(weight, x.at, x.stride, y);
        }
        let mut args = ProductArgs::new(part, rows, plan, scratch);
        if concatenated {
            assert_eq!(parts[0].0.weight.rows, parts[1].0.weight.rows, "outputs of a sum of products");
            args.concatenated = 1;
        }
        // SAFETY: shapes, strides and alignment were checked; `plan` was made for these tiles and chunks, and its scratch
        // is as large. Who calls keeps weights, activations and scratch as long as the stream.
        unsafe { device.launch(&self.0[plan.instance], plan.grid, THREADS, plan.shared_bytes, &args) }
    }
}
