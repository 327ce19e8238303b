//! Products of an executor: which kernel, and how they are shared out.

use crate::executor::{Executor, INPUTS, TASK_ELEMENTS};
use crate::kernels::amx::{
    Activations, Amx, BLOCK_CHUNKS, CHUNK_COLUMNS, GROUP_ROWS, Input, Output, PANELS_OUTPUTS, PackedWeights,
    ProductTile, TILE_ROWS, Term, pack_panel, panel_len,
};
use crate::kernels::linear::{Layout, LinearTile, PackTile, Rows, TASK_OUTPUTS};
use crate::kernels::memory::Buffer;
use crate::kernels::simd::dispatch;
use crate::kernels::tiles::{CutMatrix, Cuts};
use crate::memory::{RowMajor, Weight, buffer};
use crate::{CpuMatrix, CpuTensor, Isa};
use backend::{BackendError, MappedWeight, ReadWeights, Tensor};
use half::bf16;

/// Weights that a task reads, at least.
const TASK_WEIGHTS: usize = 32_768;
/// Tasks of a product for each thread: enough for a late thread to be helped out.
const TASKS_PER_THREAD: usize = 8;
/// As many of a product of packed weights with few rows, through which the weights stream, and with many, where larger
/// tasks reuse more.
const STREAM_TASKS_PER_THREAD: usize = 16;
const BLOCK_TASKS_PER_THREAD: usize = 4;
/// Few rows.
const STREAM_ROWS: usize = 32;
/// Weights that one call of the reader fills.
const READ_WEIGHTS: usize = 1 << 20;

/// A factor of a product: `W` and `b`.
#[derive(Clone, Copy)]
pub struct Factor<'a> {
    /// `W`.
    pub weight: &'a CpuMatrix,
    /// `b`.
    pub bias: Option<&'a [f32]>,
}

/// Where a product finds packed activations.
#[derive(Clone, Copy)]
pub enum Source<'a> {
    /// An input of the executor, by its number.
    Input(usize),
    /// A tensor that is packed.
    Tensor(&'a CpuTensor),
}

/// A sum of products of packed inputs.
pub struct Sum<'a> {
    /// The factors, each with its input.
    pub terms: Vec<(Source<'a>, Factor<'a>)>,
    /// The GELU of it: only a product will take that.
    pub gelu: bool,
    /// Where it goes.
    pub y: &'a mut CpuTensor,
}

impl Executor {
    /// Reads a weight, in the form that the instruction set wants.
    pub fn matrix(&mut self, rows: usize, columns: usize, read: &ReadWeights<'_>) -> Result<CpuMatrix, BackendError> {
        let weight = match self.isa {
            Isa::Amx => Weight::Tiles(self.read_tiles(rows, columns, read)?),
            Isa::Plain | Isa::Avx2 | Isa::Avx512 => {
                Weight::Rows(RowMajor::own(self.read_rows(rows * columns, read)?, columns))
            }
        };
        Ok(CpuMatrix { weight, rows, columns })
    }

    /// A weight that stays where its file is mapped, for instruction sets that want no other form.
    pub fn mapped_matrix(&mut self, weight: &MappedWeight) -> Result<CpuMatrix, BackendError> {
        let (rows, columns) = (weight.rows(), weight.columns.len());
        let rows_of_task = READ_WEIGHTS.div_ceil(columns.max(1));
        let mut fetched: Vec<_> = (0..rows.div_ceil(rows_of_task)).map(|_| Ok(())).collect();
        self.pool.for_each_part(&mut fetched, 1, |task, fetched| {
            let task = task.start;
            fetched[0] = weight.fetch(task * rows_of_task..rows.min((task + 1) * rows_of_task));
        });
        fetched.into_iter().collect::<Result<(), _>>()?;
        Ok(CpuMatrix { weight: Weight::Rows(RowMajor::mapped(weight)), rows, columns })
    }

    fn read_rows(&mut self, len: usize, read: &ReadWeights<'_>) -> Result<Buffer<bf16>, BackendError> {
        let mut values = buffer("a weight", len)?;
        self.pool.for_each_part(&mut values, READ_WEIGHTS, read);
        Ok(values)
    }

    /// A thread reads the rows of one panel at a time: that is all there is of a weight beside its tiles.
    fn read_tiles(
        &mut self,
        rows: usize,
        columns: usize,
        read: &ReadWeights<'_>,
    ) -> Result<PackedWeights, BackendError> {
        let out_of_memory = || BackendError::OutOfMemory { what: "a weight", bytes: 2 * rows * columns };
        let mut weights = PackedWeights::zeroed(rows, columns).ok_or_else(out_of_memory)?;
        let len = panel_len(columns);
        let at_once = TILE_ROWS * columns;
        let mut of_threads: Vec<Vec<bf16>> = vec![Vec::new(); self.pool.threads()];
        let (every, whole) = (Cuts::Every(1), Cuts::Every(len.max(1)));
        let panels = weights.panels_mut();
        self.pool.for_each_tile(panels, len, every, whole, &mut of_threads, |values, mut tile| {
            let panel = tile.row_part;
            let elements = panel * at_once..(rows * columns).min((panel + 1) * at_once);
            values.resize(elements.len(), bf16::ZERO);
            read(elements, values);
            pack_panel(values, columns, tile.row(panel));
        });
        Ok(weights)
    }

    /// `y = x·Wᵀ + b`, or `y += x·Wᵀ + b`.
    pub fn product(&mut self, x: &CpuTensor, factor: Factor<'_>, y: &mut CpuTensor, add: bool) {
        let weight = factor.weight;
        assert_eq!((x.rows(), x.columns()), (y.rows(), weight.columns), "the input's shape");
        match &weight.weight {
            Weight::Rows(rows) => self.product_of_rows(x, rows.rows(weight.columns), factor, y, add),
            Weight::Tiles(_) => {
                let source = self.source(0, x);
                self.sums(&mut [Sum { terms: vec![(source, factor)], gelu: false, y }], add);
            }
        }
    }

    fn product_of_rows(
        &mut self,
        x: &CpuTensor,
        rows: Rows<'_>,
        Factor { weight, bias }: Factor<'_>,
        y: &mut CpuTensor,
        add: bool,
    ) {
        assert_eq!(y.columns(), weight.rows, "the output's columns");
        let (isa, threads, columns) = (self.isa, self.pool.threads(), y.columns());
        let outputs = outputs_of_task(threads, weight.rows, weight.columns, TASKS_PER_THREAD);
        let (all, outputs) = (Cuts::Every(y.rows().max(1)), Cuts::Every(outputs.next_multiple_of(TASK_OUTPUTS)));
        let packed = self.pack_panels(x);
        let x = &self.panels[..packed];
        self.pool.for_each_tile(y.used_mut(), columns, all, outputs, &mut self.scratch, |scratch, tile| {
            dispatch(isa, LinearTile { weight: rows, bias, x, add, sums: &mut scratch.sums, y: tile });
        });
    }

    /// Packs the input of a product of rows, and says how many elements that takes.
    fn pack_panels(&mut self, x: &CpuTensor) -> usize {
        let (isa, columns) = (self.isa, x.columns());
        let Layout { panel_rows, group_columns } = self.layout;
        let row_len = self.layout.row_len(columns);
        let whole = x.rows() / panel_rows * panel_rows;
        let (panels, last_panel) = self.panels[..x.rows() * row_len].split_at_mut(whole * row_len);
        let (rows, last_rows) = x.used().split_at(whole * columns);
        for (panel_rows, x, panels) in [(panel_rows, rows, panels), (x.rows() - whole, last_rows, last_panel)] {
            let groups = Cuts::Every(TASK_ELEMENTS.next_multiple_of((panel_rows * group_columns).max(1)));
            self.pool.for_each_plain_tile(panels, panel_rows * row_len, Cuts::Every(1), groups, |panels| {
                dispatch(isa, PackTile { x, columns, panel_rows, panels });
            });
        }
        x.rows() * row_len
    }

    /// Room to pack a tensor of this shape as the input of a product.
    pub fn make_room(&mut self, rows_max: usize, columns: usize) -> Result<(), BackendError> {
        if self.isa != Isa::Amx {
            let len = rows_max * self.layout.row_len(columns);
            if self.panels.len() < len {
                self.panels = buffer("a packed tensor", len)?;
            }
            return Ok(());
        }
        let bytes = size_of::<f32>() * rows_max * columns;
        let room = self.inputs.iter_mut().try_for_each(|input| input.reserve(rows_max, columns));
        room.ok_or(BackendError::OutOfMemory { what: "a packed tensor", bytes })
    }

    /// Packs what becomes of `x` as an input of [`Executor::sums`], of which there are [`INPUTS`].
    pub fn pack(&mut self, number: usize, x: &CpuTensor, input: &Input<'_>) {
        self.inputs[number].pack(amx_of(self.isa), &mut self.pool, (x.rows(), x.columns()), input);
    }

    /// Packs `x` as an input, unless it is packed.
    pub fn source<'a>(&mut self, number: usize, x: &'a CpuTensor) -> Source<'a> {
        if x.packed().is_some() {
            return Source::Tensor(x);
        }
        self.pack(number, x, &Input::Plain(x.used()));
        Source::Input(number)
    }

    /// Computes sums of products of packed inputs, in one job: `y = Σ x·Wᵀ + b`, or `y += …`, or the
    /// GELU of that. Of 16 rows or more, the GELU comes packed.
    pub fn sums(&mut self, sums: &mut [Sum<'_>], add: bool) {
        let amx = amx_of(self.isa);
        // Those with the largest tasks first, so that small ones come last, to whoever is done.
        sums.sort_by_key(|sum| !sum.gelu);
        let inputs = &self.inputs;
        let mut terms: Vec<Vec<Term<'_>>> = Vec::with_capacity(sums.len());
        for sum in &*sums {
            terms.push(sum.terms.iter().map(|&(source, factor)| term(inputs, source, factor)).collect());
        }
        let threads = self.pool.threads();
        let (outputs, mut matrices): (Vec<_>, Vec<_>) =
            sums.iter_mut().zip(&terms).map(|(sum, terms)| cut(sum, terms, add, threads)).unzip();
        self.pool.for_each_tile_of(&mut matrices, &mut self.scratch, |scratch, number, tile| {
            ProductTile { terms: &terms[number], output: outputs[number], sums: &mut scratch.sums, y: tile }.run(amx);
        });
    }
}

/// A factor with its packed input.
fn term<'a>(inputs: &'a [Activations; INPUTS], source: Source<'a>, Factor { weight, bias }: Factor<'a>) -> Term<'a> {
    let x = match source {
        Source::Input(number) => inputs[number].packed(),
        Source::Tensor(tensor) => tensor.packed().expect("a packed tensor"),
    };
    assert_eq!(x.shape.columns, weight.columns, "the input's columns");
    match &weight.weight {
        Weight::Tiles(weights) => Term { x, weights, bias },
        Weight::Rows(_) => unreachable!("a executor has weights of one form"),
    }
}

/// Cuts a sum's result for the threads, and says in which form it comes.
fn cut<'a>(sum: &'a mut Sum<'_>, terms: &[Term<'_>], add: bool, threads: usize) -> (Output, CutMatrix<'a, f32>) {
    let Sum { terms: factors, gelu, y } = sum;
    let (rows, columns) = (y.rows(), y.columns());
    assert!(terms.iter().all(|term| term.x.shape.rows == rows), "the input's rows");
    assert!(factors.iter().all(|(_, factor)| factor.weight.rows == columns), "the output's columns");
    let weights = factors.iter().map(|(_, factor)| factor.weight.columns).sum();
    let tasks = if rows <= STREAM_ROWS { STREAM_TASKS_PER_THREAD } else { BLOCK_TASKS_PER_THREAD };
    let outputs = outputs_of_task(threads, columns, weights, tasks);
    if *gelu && rows >= GROUP_ROWS {
        let (shape, chunks) = y.pack();
        let some = match outputs.div_ceil(CHUNK_COLUMNS) {
            some if rows <= STREAM_ROWS => some,
            some => (some / BLOCK_CHUNKS).max(1) * BLOCK_CHUNKS,
        };
        let len = shape.chunk_len();
        return (Output::PackedGelu(shape), CutMatrix::new(chunks, len, Cuts::Every(some), Cuts::Every(len)));
    }
    if !add {
        y.unpack();
    }
    let (all, some) = (Cuts::Every(rows.max(1)), Cuts::Every(outputs.next_multiple_of(PANELS_OUTPUTS)));
    (Output::Rows { add, gelu: *gelu }, CutMatrix::new(y.used_mut(), columns, all, some))
}

/// How many outputs a task computes where each costs so many weights.
fn outputs_of_task(threads: usize, outputs: usize, weights: usize, tasks_per_thread: usize) -> usize {
    match threads {
        1 => outputs.max(1),
        _ => outputs.div_ceil(threads * tasks_per_thread).max(TASK_WEIGHTS.div_ceil(weights.max(1))),
    }
}

/// Tiles are made only for an executor whose instruction set has been checked.
fn amx_of(isa: Isa) -> Amx {
    assert_eq!(isa, Isa::Amx, "the instruction set of packed weights");
    Amx::detect().expect("the backend was made only where the processor supports its instruction set")
}
