//! Products of bf16 weights with f32 activations.
//!
//! One output of one row is `Σ w·x` in as many partial sums as a vector has lanes, over ascending columns, then the sum
//! of the lanes. That order depends on nothing else, so neither rows beside it nor threads change a bit of a result.
//! Four outputs and up to [`Simd::TILE_ROWS`] rows are computed at a time: a weight is widened once for all of them.

use super::simd::{Kernel, Simd};
use super::tiles::Tile;
use half::bf16;
use std::ops::Range;

/// `y = x·Wᵀ + b`, or `y += x·Wᵀ + b`, for a tile of `y`: all rows, some outputs.
pub struct LinearTile<'a> {
    /// `W`, row-major; its columns are those of `x`.
    pub weight: &'a [bf16],
    /// `b`.
    pub bias: Option<&'a [f32]>,
    /// `x`, row-major.
    pub x: &'a [f32],
    /// Of `W` and `x`.
    pub columns: usize,
    /// Add to what `y` holds.
    pub add: bool,
    /// Room for [`SUMS_LEN`] elements.
    pub sums: &'a mut [f32],
    /// Where it goes.
    pub y: Tile<'a, f32>,
}

/// Outputs at a time: four streams of weights are enough to keep the memory busy.
const OUTPUTS: usize = 4;
/// Many rows are computed in blocks of so many rows, outputs and columns: the rows' and the weights' part of a block
/// stay in the second-level cache, what the registers work on in the first. A few rows need no blocks.
const BLOCK_ROWS: usize = 96;
const BLOCK_OUTPUTS: usize = 32;
const BLOCK_COLUMNS: usize = 1024;
/// Elements of the partial sums of a block, from one block of columns to the next.
pub const SUMS_LEN: usize = BLOCK_ROWS * BLOCK_OUTPUTS * 16;
/// Weights in a cache line.
const LINE: usize = 32;
/// How far ahead a stream of weights is asked for, in elements.
const AHEAD: usize = 512;

impl Kernel for LinearTile<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let (rows, outputs) = (self.y.rows.clone(), self.y.columns.clone());
        let step = if rows.len() <= S::TILE_ROWS { self.columns } else { BLOCK_COLUMNS };
        for rows in blocks(rows, BLOCK_ROWS) {
            for outputs in blocks(outputs.clone(), BLOCK_OUTPUTS) {
                // Without columns there is still a bias.
                for start in (0..self.columns.max(1)).step_by(step.max(1)) {
                    let columns = start..self.columns.min(start + step);
                    let block = Block { rows: rows.clone(), outputs: outputs.clone(), columns };
                    self.block(simd, &block);
                }
            }
        }
    }
}

/// Rows, outputs and columns that are multiplied together.
struct Block {
    rows: Range<usize>,
    outputs: Range<usize>,
    columns: Range<usize>,
}

fn blocks(range: Range<usize>, step: usize) -> impl Iterator<Item = Range<usize>> {
    range.clone().step_by(step).map(move |start| start..range.end.min(start + step))
}

impl LinearTile<'_> {
    #[inline(always)]
    fn block<S: Simd>(&mut self, simd: S, block: &Block) {
        let whole = block.outputs.start + block.outputs.len() / OUTPUTS * OUTPUTS;
        for row in block.rows.clone().step_by(S::TILE_ROWS) {
            let rows = S::TILE_ROWS.min(block.rows.end - row);
            for output in (block.outputs.start..whole).step_by(OUTPUTS) {
                self.outputs::<S, OUTPUTS>(simd, block, output, row, rows);
            }
            for output in whole..block.outputs.end {
                self.outputs::<S, 1>(simd, block, output, row, rows);
            }
        }
    }

    /// `O` outputs from `output` on, for `rows` rows from `row` on.
    #[inline(always)]
    fn outputs<S: Simd, const O: usize>(&mut self, simd: S, block: &Block, output: usize, row: usize, rows: usize) {
        match rows {
            6 => self.registers::<S, O, 6>(simd, block, output, row),
            5 => self.registers::<S, O, 5>(simd, block, output, row),
            4 => self.registers::<S, O, 4>(simd, block, output, row),
            3 => self.registers::<S, O, 3>(simd, block, output, row),
            2 => self.registers::<S, O, 2>(simd, block, output, row),
            _ => self.registers::<S, O, 1>(simd, block, output, row),
        }
    }

    /// `O` outputs from `output` on, for `R` rows from `row` on.
    #[inline(always)]
    fn registers<S: Simd, const O: usize, const R: usize>(
        &mut self,
        simd: S,
        block: &Block,
        output: usize,
        row: usize,
    ) {
        let columns = self.columns;
        let w = &self.weight[output * columns..][..O * columns];
        let x = &self.x[row * columns..][..R * columns];
        let stored = ((row - block.rows.start) * BLOCK_OUTPUTS + (output - block.outputs.start) * R) * S::LANES;
        let stored = &mut self.sums[stored..][..O * R * S::LANES];
        let mut sums = [[simd.splat(0.0); R]; O];
        if block.columns.start > 0 {
            for o in 0..O {
                for r in 0..R {
                    // SAFETY: `stored` has `O * R` vectors.
                    sums[o][r] = unsafe { simd.load_at(stored.as_ptr().add((o * R + r) * S::LANES)) };
                }
            }
        }
        let sums = dot_products::<S, O, R>(simd, w, x, columns, block.columns.clone(), sums);
        if block.columns.end < columns {
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

/// `sums[o][r] += w[o]·x[r]` over a part of the columns, whose start, and whose end unless it is the last, is a
/// multiple of a cache line.
#[inline(always)]
fn dot_products<S: Simd, const O: usize, const R: usize>(
    simd: S,
    w: &[bf16],
    x: &[f32],
    columns: usize,
    part: Range<usize>,
    mut sums: [[S::V; R]; O],
) -> [[S::V; R]; O] {
    assert!(w.len() == O * columns && x.len() == R * columns && part.start <= part.end && part.end <= columns);
    let lines = part.start + part.len() / LINE * LINE;
    let whole = part.start + part.len() / S::LANES * S::LANES;
    for line in (part.start..lines).step_by(LINE) {
        // Behind the end of its part, a stream goes on in the row of the next `O` outputs.
        let ahead = if line + AHEAD < part.end { line + AHEAD } else { line + AHEAD - part.len() + O * columns };
        for o in 0..O {
            simd.prefetch(w.as_ptr().wrapping_add(o * columns + ahead));
        }
        for step in 0..LINE / S::LANES {
            // SAFETY: a whole line of columns, and with it `LANES` from each step on, lies below `columns`.
            sums = unsafe { multiply_add::<S, O, R>(simd, w, x, columns, line + step * S::LANES, sums) };
        }
    }
    for column in (lines..whole).step_by(S::LANES) {
        // SAFETY: `column + LANES` is at most `whole`, which is at most `columns`.
        sums = unsafe { multiply_add::<S, O, R>(simd, w, x, columns, column, sums) };
    }
    if whole < part.end {
        for o in 0..O {
            let w = simd.widen_part(&w[o * columns..][whole..part.end]);
            for r in 0..R {
                sums[o][r] = simd.mul_add(w, simd.load_part(&x[r * columns..][whole..part.end]), sums[o][r]);
            }
        }
    }
    sums
}

/// Adds the products of one vector of columns.
///
/// # Safety
///
/// `column + LANES <= columns`, and `w` and `x` have `O` and `R` rows of that many columns.
#[inline(always)]
unsafe fn multiply_add<S: Simd, const O: usize, const R: usize>(
    simd: S,
    w: &[bf16],
    x: &[f32],
    columns: usize,
    column: usize,
    mut sums: [[S::V; R]; O],
) -> [[S::V; R]; O] {
    let mut x_vectors = [simd.splat(0.0); R];
    for r in 0..R {
        // SAFETY: row `r` has `columns` elements from `r * columns` on, of which `LANES` are left at `column`, by the
        // caller's promise.
        x_vectors[r] = unsafe { simd.load_at(x.as_ptr().add(r * columns + column)) };
    }
    for o in 0..O {
        // SAFETY: likewise for row `o` of the weights.
        let w = unsafe { simd.widen_at(w.as_ptr().add(o * columns + column)) };
        for r in 0..R {
            sums[o][r] = simd.mul_add(w, x_vectors[r], sums[o][r]);
        }
    }
    sums
}
