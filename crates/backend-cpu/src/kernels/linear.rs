//! Products of bf16 weights with f32 activations.
//!
//! One output of one row is `Σ w·x` in as many partial sums as a vector has lanes, over ascending columns, then the sum
//! of the lanes. That order depends on nothing else, so neither rows beside it nor threads change a bit of a result.
//! Some outputs and some rows are computed at a time, as many as the registers hold the sums of. For a few rows, weights
//! are widened on their way from memory; for many, once for all of them.

use super::simd::{Kernel, Simd};
use super::tiles::{Tile, blocks};
use half::bf16;
use std::ops::Range;

/// `y = x·Wᵀ + b`, or `y += x·Wᵀ + b`, for a tile of `y`: all rows, some outputs.
pub struct LinearTile<'a> {
    /// `W`; its columns are those of `x`.
    pub weight: Rows<'a>,
    /// `b`.
    pub bias: Option<&'a [f32]>,
    /// `x`, row-major.
    pub x: &'a [f32],
    /// Add to what `y` holds.
    pub add: bool,
    /// Room for [`SUMS_LEN`] elements.
    pub sums: &'a mut [f32],
    /// Room for [`WIDENED_LEN`] elements.
    pub widened: &'a mut [f32],
    /// Where it goes.
    pub y: Tile<'a, f32>,
}

/// The rows of a weight, where they lie.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// What they are in, with others.
    pub elements: &'a [bf16],
    /// All of the rows, in their order.
    pub pieces: &'a [Piece],
    /// Elements of a row.
    pub columns: usize,
}

/// Rows at equal distances.
pub struct Piece {
    /// Which of the weight's rows comes first.
    pub first_row: usize,
    /// The element at which it begins.
    pub start: usize,
    /// From the beginning of a row to that of the next one.
    pub stride: usize,
}

impl<'a> Rows<'a> {
    /// A row.
    #[inline(always)]
    pub fn row(&self, row: usize) -> &'a [bf16] {
        let piece = self.pieces.iter().rfind(|piece| piece.first_row <= row).expect("a row of the weight");
        &self.elements[piece.start + (row - piece.first_row) * piece.stride..][..self.columns]
    }
}

/// Rows, outputs and columns of a block: its rows and weights stay in the second-level cache, what the registers work on in
/// the first.
const BLOCK_ROWS: usize = 96;
/// Tasks take whole blocks of outputs.
pub const BLOCK_OUTPUTS: usize = 64;
const BLOCK_COLUMNS: usize = 1024;
/// So few rows stay in the first-level cache whole.
const WHOLE_ROWS: usize = 4;
/// Elements of the partial sums of a block, from one block of columns to the next.
pub const SUMS_LEN: usize = BLOCK_ROWS * BLOCK_OUTPUTS * 16;
/// Elements of the widened weights of a block.
pub const WIDENED_LEN: usize = BLOCK_OUTPUTS * BLOCK_COLUMNS;
/// Weights in a cache line.
const LINE: usize = 32;
/// How far ahead a stream of weights is asked to come to the second-level cache, and to the first, in elements.
const FAR: usize = 1024;
const NEAR: usize = 192;

impl Kernel for LinearTile<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let (rows, outputs) = (self.y.rows.clone(), self.y.columns.clone());
        // From here on, weights that are widened once cost less than rows that are computed eight at a time.
        let few = rows.len() <= 2 * S::FEW_ROWS;
        let step = if few && rows.len() <= WHOLE_ROWS { self.weight.columns } else { BLOCK_COLUMNS };
        let whole = Block { rows, outputs, columns: 0..self.weight.columns };
        let mut blocks = whole.blocks(step.max(1)).peekable();
        while let Some(block) = blocks.next() {
            if few {
                self.few(simd, &block);
            } else {
                self.many(simd, &block, blocks.peek().unwrap_or(&block));
            }
        }
    }
}

/// Rows, outputs and columns that are multiplied together.
#[derive(Clone)]
struct Block {
    rows: Range<usize>,
    outputs: Range<usize>,
    columns: Range<usize>,
}

impl Block {
    /// Cut into blocks of so many columns.
    fn blocks(self, step: usize) -> impl Iterator<Item = Self> {
        let Self { rows, outputs, columns } = self;
        // Without columns there is still a bias.
        let columns =
            move || (0..columns.end.max(1)).step_by(step).map(move |start| start..columns.end.min(start + step));
        let outputs = move || blocks(outputs.clone(), BLOCK_OUTPUTS);
        blocks(rows, BLOCK_ROWS).flat_map(move |rows| {
            outputs().flat_map(move |outputs| {
                let rows = rows.clone();
                columns().map(move |columns| Self { rows: rows.clone(), outputs: outputs.clone(), columns })
            })
        })
    }
}

/// Weights, as they are stored or as they were widened.
trait Weight: Copy {
    /// Where what comes next is.
    type Ahead: Copy;

    /// With more rows of activations than this, two outputs are computed at a time instead of four.
    const ROWS_BY_FOUR: usize;

    /// Loads a vector.
    ///
    /// # Safety
    ///
    /// [`Simd::LANES`] elements can be read.
    unsafe fn at<S: Simd>(simd: S, from: *const Self) -> S::V;
    /// All elements of less than a vector, and 0 behind them.
    fn part<S: Simd>(simd: S, from: &[Self]) -> S::V;
    /// Asks for a part of what comes next, when the weights at hand are at a line.
    fn ask<S: Simd, const O: usize>(simd: S, weights: &[&[Self]; O], line: usize, ahead: Self::Ahead);
}

impl Weight for bf16 {
    /// How many bytes behind the end of the columns the stream goes on.
    type Ahead = usize;

    /// It takes two operations to widen a vector, and a compiler that loads ahead needs registers for all rows.
    const ROWS_BY_FOUR: usize = 4;

    #[inline(always)]
    unsafe fn at<S: Simd>(simd: S, from: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { simd.widen_at(from) }
    }

    #[inline(always)]
    fn part<S: Simd>(simd: S, from: &[Self]) -> S::V {
        simd.widen_part(from)
    }

    #[inline(always)]
    fn ask<S: Simd, const O: usize>(simd: S, weights: &[&[Self]; O], line: usize, ahead: usize) {
        for weights in weights {
            let at = |column| {
                let within = weights.as_ptr().wrapping_add(column);
                if column < weights.len() { within } else { within.wrapping_byte_add(ahead) }
            };
            simd.prefetch_far(at(line + FAR));
            simd.prefetch(at(line + NEAR));
        }
    }
}

impl Weight for f32 {
    type Ahead = Next;

    const ROWS_BY_FOUR: usize = 6;

    #[inline(always)]
    unsafe fn at<S: Simd>(simd: S, from: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { simd.load_at(from) }
    }

    #[inline(always)]
    fn part<S: Simd>(simd: S, from: &[Self]) -> S::V {
        simd.load_part(from)
    }

    #[inline(always)]
    fn ask<S: Simd, const O: usize>(simd: S, _: &[&[Self]; O], line: usize, next: Next) {
        simd.prefetch_far(next.x.wrapping_add(line / 2).cast());
        if let Some(weights) = next.weights {
            simd.prefetch_far(weights.wrapping_add(line));
        }
    }
}

/// What a tile of registers of a block asks for, beside its own: half of a row that comes next, and a row of the next block's
/// weights while there are any.
#[derive(Clone, Copy)]
struct Next {
    x: *const f32,
    weights: Option<*const bf16>,
}

impl LinearTile<'_> {
    /// A block of a few rows, through which the weights stream.
    #[inline(always)]
    fn few<S: Simd>(&mut self, simd: S, block: &Block) {
        let weight = self.weight;
        let of_output = |output| &weight.row(output)[block.columns.clone()];
        // Behind the end of a row, its stream goes on in the row that is computed next in its place.
        let ahead = |output: usize, outputs: usize| {
            let next = weight.row((output + outputs).min(block.outputs.end - 1)).as_ptr().addr();
            next.wrapping_sub(weight.row(output).as_ptr().addr() + size_of_val(of_output(output)))
        };
        // Tiles of equal size.
        let at_once = block.rows.len().div_ceil(block.rows.len().div_ceil(S::FEW_ROWS).max(1)).max(1);
        for rows in blocks(block.rows.clone(), at_once) {
            self.tiles(simd, block, &rows, of_output, ahead);
        }
    }

    /// A block of many rows, for which its weights are widened once.
    #[inline(always)]
    fn many<S: Simd>(&mut self, simd: S, block: &Block, next: &Block) {
        let widened = std::mem::take(&mut self.widened);
        for (output, to) in block.outputs.clone().zip(widened.chunks_exact_mut(BLOCK_COLUMNS)) {
            widen(simd, &self.weight.row(output)[block.columns.clone()], to);
        }
        let (x, weight) = (self.x.as_ptr(), self.weight);
        let of_output = |output| &widened[(output - block.outputs.start) * BLOCK_COLUMNS..][..block.columns.len()];
        for rows in blocks(block.rows.clone(), S::TILE_ROWS) {
            let in_block = rows.end < block.rows.end;
            let (next_row, column) =
                if in_block { (rows.end, block.columns.start) } else { (next.rows.start, next.columns.start) };
            let done = (rows.start - block.rows.start) / S::TILE_ROWS * block.outputs.len().div_ceil(4);
            let ahead = |output: usize, _| {
                let tile = (output - block.outputs.start) / 4;
                let x_at = (next_row + tile / 2) * weight.columns + column + tile % 2 * (BLOCK_COLUMNS / 2);
                let output = next.outputs.start + done + tile;
                let in_next = next.outputs.contains(&output);
                let weights = in_next.then(|| weight.row(output)[next.columns.clone()].as_ptr());
                Next { x: x.wrapping_add(x_at), weights }
            };
            self.tiles(simd, block, &rows, of_output, ahead);
        }
        self.widened = widened;
    }

    /// Some rows of a block by all of its outputs.
    #[inline(always)]
    fn tiles<'w, S: Simd, W: Weight + 'w>(
        &mut self,
        simd: S,
        block: &Block,
        rows: &Range<usize>,
        of_output: impl Fn(usize) -> &'w [W],
        ahead: impl Fn(usize, usize) -> W::Ahead,
    ) {
        let at_once = if rows.len() <= W::ROWS_BY_FOUR { 4 } else { 2 };
        let mut output = block.outputs.start;
        while output < block.outputs.end {
            let outputs = if output + at_once <= block.outputs.end { at_once } else { 1 };
            let tile = RegisterTile { block, ahead: ahead(output, outputs), output, row: rows.start };
            macro_rules! shapes {
                ($($outputs:literal by $rows:literal)*) => {
                    match (outputs, rows.len()) {
                        $(($outputs, $rows) => self.registers::<S, W, $outputs, $rows>(simd, &tile, &of_output),)*
                        shape => unreachable!("outputs by rows: {shape:?}"),
                    }
                };
            }
            shapes! {
                4 by 1 4 by 2 4 by 3 4 by 4 4 by 5 4 by 6 2 by 5 2 by 6 2 by 7 2 by 8
                1 by 1 1 by 2 1 by 3 1 by 4 1 by 5 1 by 6 1 by 7 1 by 8
            }
            output += outputs;
        }
    }

    /// `O` outputs for `R` rows.
    #[inline(always)]
    fn registers<'w, S: Simd, W: Weight + 'w, const O: usize, const R: usize>(
        &mut self,
        simd: S,
        tile: &RegisterTile<'_, W>,
        of_output: &impl Fn(usize) -> &'w [W],
    ) {
        let RegisterTile { block, output, row, .. } = *tile;
        let (first, end, columns) = (block.columns.start, block.columns.end, self.weight.columns);
        let w = std::array::from_fn(|o| of_output(output + o));
        let x = std::array::from_fn(|r| &self.x[(row + r) * columns..][first..end]);
        let stored = ((row - block.rows.start) * BLOCK_OUTPUTS + (output - block.outputs.start) * R) * S::LANES;
        let stored = &mut self.sums[stored..][..O * R * S::LANES];
        let mut sums = [[simd.splat(0.0); R]; O];
        if first > 0 {
            for o in 0..O {
                for r in 0..R {
                    // SAFETY: `stored` has `O * R` vectors.
                    sums[o][r] = unsafe { simd.load_at(stored.as_ptr().add((o * R + r) * S::LANES)) };
                }
            }
        }
        let sums = dot_products::<S, W, O, R>(simd, w, x, tile.ahead, sums);
        if end < columns {
            for o in 0..O {
                for r in 0..R {
                    // SAFETY: `stored` has `O * R` vectors.
                    unsafe { simd.store_at(sums[o][r], stored.as_mut_ptr().add((o * R + r) * S::LANES)) };
                }
            }
            return;
        }
        let local = output - self.y.columns.start;
        for r in 0..R {
            let y = &mut self.y.row(row + r)[local..][..O];
            for o in 0..O {
                let value = simd.sum(sums[o][r]) + self.bias.map_or(0.0, |bias| bias[output + o]);
                y[o] = if self.add { y[o] + value } else { value };
            }
        }
    }
}

/// What the registers hold the sums of: some outputs and rows of a block.
struct RegisterTile<'a, W: Weight> {
    block: &'a Block,
    ahead: W::Ahead,
    output: usize,
    row: usize,
}

/// Widens a part of a row of weights.
#[inline(always)]
fn widen<S: Simd>(simd: S, from: &[bf16], to: &mut [f32]) {
    let (from_vectors, to_vectors) = (from.chunks_exact(S::LANES), to.chunks_exact_mut(S::LANES));
    let rest = from_vectors.remainder();
    for (from, to) in from_vectors.zip(to_vectors) {
        // SAFETY: a chunk has as many elements as a vector has lanes.
        simd.store(unsafe { simd.widen_at(from.as_ptr()) }, to);
    }
    if !rest.is_empty() {
        simd.store(simd.widen_part(rest), &mut to[from.len() - rest.len()..]);
    }
}

/// `sums[o][r] += w[o]·x[r]` for slices of one length.
#[inline(always)]
fn dot_products<S: Simd, W: Weight, const O: usize, const R: usize>(
    simd: S,
    w: [&[W]; O],
    x: [&[f32]; R],
    ahead: W::Ahead,
    mut sums: [[S::V; R]; O],
) -> [[S::V; R]; O] {
    let columns = x[0].len();
    assert!(w.iter().all(|w| w.len() == columns) && x.iter().all(|x| x.len() == columns), "columns");
    let whole = columns / S::LANES * S::LANES;
    let lines = columns / LINE * LINE;
    for line in (0..lines).step_by(LINE) {
        W::ask(simd, &w, line, ahead);
        for column in (line..line + LINE).step_by(S::LANES) {
            // SAFETY: a whole line from `line` on lies below `columns`, and with it a vector at each step.
            sums = unsafe { multiply_add(simd, w, x, column, sums) };
        }
    }
    for column in (lines..whole).step_by(S::LANES) {
        // SAFETY: a vector from `column` on ends at `whole` or before, which is at most `columns`.
        sums = unsafe { multiply_add(simd, w, x, column, sums) };
    }
    if whole < columns {
        for o in 0..O {
            let w = W::part(simd, &w[o][whole..]);
            for r in 0..R {
                sums[o][r] = simd.mul_add(w, simd.load_part(&x[r][whole..]), sums[o][r]);
            }
        }
    }
    sums
}

/// Adds the products of one vector of columns.
///
/// # Safety
///
/// All slices have a whole vector at `column`.
#[inline(always)]
unsafe fn multiply_add<S: Simd, W: Weight, const O: usize, const R: usize>(
    simd: S,
    w: [&[W]; O],
    x: [&[f32]; R],
    column: usize,
    mut sums: [[S::V; R]; O],
) -> [[S::V; R]; O] {
    let mut w_vectors = [simd.splat(0.0); O];
    for o in 0..O {
        // SAFETY: the caller's promise.
        w_vectors[o] = unsafe { W::at(simd, w[o].as_ptr().add(column)) };
    }
    for r in 0..R {
        // SAFETY: likewise.
        let x = unsafe { simd.load_at(x[r].as_ptr().add(column)) };
        for o in 0..O {
            sums[o][r] = simd.mul_add(w_vectors[o], x, sums[o][r]);
        }
    }
    sums
}
