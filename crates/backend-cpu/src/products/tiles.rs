//! Products with weights in tiles, on the matrix unit.

use super::{Factor, outputs_of_task};
use crate::executor::{Executor, INPUTS};
use crate::kernels::amx::{
    Activations, Amx, BLOCK_CHUNKS, CHUNK_COLUMNS, GROUP_ROWS, Input, Output, PANELS_OUTPUTS, PackedWeights,
    ProductTile, TILE_ROWS, Term, pack_panel, panel_len,
};
use crate::kernels::tiles::{CutMatrix, Cuts};
use crate::memory::Weight;
use crate::{CpuTensor, Isa};
use backend::{BackendError, ReadWeights, Tensor};
use half::bf16;

/// Tasks of a product for each thread: with few rows, through which the weights stream, and with many, where larger
/// tasks reuse more.
const STREAM_TASKS_PER_THREAD: usize = 16;
const BLOCK_TASKS_PER_THREAD: usize = 4;
/// Few rows.
const STREAM_ROWS: usize = 32;

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
    /// A thread reads the rows of one panel at a time: that is all there is of a weight beside its tiles.
    pub(super) fn read_tiles(
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

    pub(super) fn make_room_for_tiles(&mut self, rows_max: usize, columns: usize) -> Result<(), BackendError> {
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
        Weight::Rows(_) => unreachable!("an executor has weights of one form"),
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

/// Tiles are made only for an executor whose instruction set has been checked.
fn amx_of(isa: Isa) -> Amx {
    assert_eq!(isa, Isa::Amx, "the instruction set of packed weights");
    Amx::detect().expect("the backend was made only where the CPU supports its instruction set")
}
