//! Products of bf16 weights with f32 activations.
//!
//! Two bf16 in 32 bits widen by a shift (the even one) and a mask (the odd one), half of what it takes to keep them in order. So
//! activations are packed with even and odd columns apart, and with the rows that are computed together side by side.
//!
//! One output of one row is `Σ w·x` in as many partial sums as a vector has lanes, over ascending columns, then the sum of the
//! lanes. That order depends on nothing else, so neither rows beside it nor threads change a bit of a result.

use super::simd::{Kernel, Simd};
use super::tiles::{Tile, blocks};
use half::bf16;
use std::ops::Range;

/// The rows of a weight, where they lie.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// What they are in, with others.
    pub elements: &'a [bf16],
    /// All of the rows, in their order.
    pub segments: &'a [RowSegment],
    /// Elements of a row.
    pub columns: usize,
}

/// Rows at equal distances.
pub struct RowSegment {
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
        let segment = self.segments.iter().rfind(|segment| segment.first_row <= row).expect("a row of the weight");
        &self.elements[segment.start + (row - segment.first_row) * segment.stride..][..self.columns]
    }
}

/// How activations are packed: in panels of some rows, the last one of as many as are left, and each panel in groups of
/// columns. A group has, for each row of the panel, its even columns and then its odd ones; what lies behind the last column
/// is 0.
#[derive(Clone, Copy)]
pub struct Layout {
    /// Rows of a panel.
    pub panel_rows: usize,
    /// Columns of a group.
    pub group_columns: usize,
}

/// The [`Layout`] of an instruction set.
pub struct LayoutOf;

impl Kernel for LayoutOf {
    type Output = Layout;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Layout {
        Layout::of::<S>()
    }
}

impl Layout {
    fn of<S: Simd>() -> Self {
        Self { panel_rows: S::PANEL_ROWS, group_columns: 2 * S::LANES }
    }

    /// Elements of a row.
    pub fn row_len(self, columns: usize) -> usize {
        columns.next_multiple_of(self.group_columns)
    }
}

/// Packs some groups of a panel.
pub struct PackTile<'a> {
    /// Rows of activations, those of the first panel first.
    pub x: &'a [f32],
    /// Of `x`.
    pub columns: usize,
    /// Rows of each panel.
    pub panel_rows: usize,
    /// A row for each panel; whole groups.
    pub panels: Tile<'a, f32>,
}

impl Kernel for PackTile<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let group = 2 * S::LANES;
        let (panel, first_column) = (self.panels.rows.start, self.panels.columns.start / self.panel_rows);
        let groups = self.panels.row(panel);
        let rows = self.x[panel * self.panel_rows * self.columns..].chunks_exact(self.columns).take(self.panel_rows);
        for (r, row) in rows.enumerate() {
            let to = groups.chunks_exact_mut(self.panel_rows * group);
            for (from, to) in row[first_column..].chunks(group).zip(to) {
                let mut padded = [0.0; 32];
                let from = if from.len() == group {
                    from
                } else {
                    padded[..from.len()].copy_from_slice(from);
                    &padded
                };
                let (even, odd) = simd.unzip(simd.load(from), simd.load(&from[S::LANES..]));
                let (to_even, to_odd) = to[r * group..][..group].split_at_mut(S::LANES);
                simd.store(even, to_even);
                simd.store(odd, to_odd);
            }
        }
    }
}

/// `y = x·Wᵀ + b`, or `y += x·Wᵀ + b`, for a tile of `y`: all rows, some outputs.
pub struct LinearTile<'a> {
    /// `W`.
    pub weight: Rows<'a>,
    /// `b`.
    pub bias: Option<&'a [f32]>,
    /// The panels of `x`, whose columns are those of `W`.
    pub x: &'a [f32],
    /// Add to what `y` holds.
    pub add: bool,
    /// Room for [`SUMS_LEN`] elements.
    pub sums: &'a mut [f32],
    /// Where it goes.
    pub y: Tile<'a, f32>,
}

/// Rows, outputs and columns of a block: its weights stay in the second-level cache, and those of a panel's activations in the
/// first.
const BLOCK_ROWS: usize = 96;
const BLOCK_OUTPUTS: usize = 48;
const BLOCK_COLUMNS: usize = 1024;
/// Outputs of a task are a multiple of this: of all numbers of outputs that are computed together.
pub const TASK_OUTPUTS: usize = 12;
/// So few rows stay in the first-level cache whole.
const WHOLE_ROWS: usize = 4;
/// Elements of the partial sums of a block, from one block of columns to the next.
pub const SUMS_LEN: usize = BLOCK_ROWS * BLOCK_OUTPUTS * 16;
/// Weights in a cache line.
const LINE: usize = 32;
/// How far ahead the weights of few rows, which go by fastest, are asked to come to the first-level cache, in elements.
const NEAR: usize = 320;

impl Kernel for LinearTile<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let rows = self.y.rows.clone();
        assert!(rows.start == 0 && BLOCK_ROWS.is_multiple_of(S::PANEL_ROWS), "whole panels");
        let mut blocks_left = self.blocks().peekable();
        while let Some(block) = blocks_left.next() {
            let next = blocks_left.peek().unwrap_or(&block);
            for rows in blocks(block.rows.clone(), S::PANEL_ROWS) {
                self.panel(simd, &block, next, &rows);
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

/// Outputs that are computed together for so many rows of a panel: as many as the registers hold the sums of, beside both
/// halves of each one's weights, activations and a mask.
#[inline(always)]
fn outputs_at_once<S: Simd>(rows: usize) -> usize {
    ((S::REGISTERS - 2) / (rows + 2)).clamp(1, 4)
}

impl LinearTile<'_> {
    /// All blocks: for some rows, for some outputs, all columns.
    fn blocks(&self) -> impl Iterator<Item = Block> + use<> {
        let (rows, outputs, columns) = (self.y.rows.clone(), self.y.columns.clone(), self.weight.columns);
        // Of equal length, as far as they are whole lines. Without columns there is still a bias.
        let blocks_of_columns = if rows.len() <= WHOLE_ROWS { 1 } else { columns.div_ceil(BLOCK_COLUMNS).max(1) };
        let step = columns.div_ceil(blocks_of_columns).next_multiple_of(LINE).max(LINE);
        let columns = move || (0..columns.max(1)).step_by(step).map(move |start| start..columns.min(start + step));
        blocks(rows, BLOCK_ROWS).flat_map(move |rows| {
            blocks(outputs.clone(), BLOCK_OUTPUTS).flat_map(move |outputs| {
                let rows = rows.clone();
                columns().map(move |columns| Block { rows: rows.clone(), outputs: outputs.clone(), columns })
            })
        })
    }

    /// Where the panel begins that has `row`, and in it the group that has `column`. The panel has `rows` rows.
    #[inline(always)]
    fn x_at<S: Simd>(&self, row: usize, rows: usize, column: usize) -> usize {
        row * Layout::of::<S>().row_len(self.weight.columns) + rows * column
    }

    /// A panel by a block's weights.
    #[inline(always)]
    fn panel<S: Simd>(&mut self, simd: S, block: &Block, next: &Block, rows: &Range<usize>) {
        let at_once = outputs_at_once::<S>(rows.len());
        let last = self.y.columns.end - 1;
        let (next_row, next_column) = match rows.end {
            row if row < block.rows.end => (row, block.columns.start),
            _ => (next.rows.start, next.columns.start),
        };
        let next_x = self.x.as_ptr().wrapping_add(self.x_at::<S>(next_row, S::PANEL_ROWS, next_column));
        let mut output = block.outputs.start;
        while output < block.outputs.end {
            let outputs = if output + at_once <= block.outputs.end { at_once } else { 1 };
            // What is computed next in place of each of these outputs, and a part of the next panel.
            let (next_output, column) = match output + outputs {
                output if output < block.outputs.end => (output, block.columns.start),
                _ => (next.outputs.start, next.columns.start),
            };
            let weight = |o: usize| self.weight.row((next_output + o).min(last))[column..].as_ptr();
            let done = (output - block.outputs.start) / at_once * block.columns.len();
            let ahead =
                Ahead { weights: [weight(0), weight(1), weight(2), weight(3)], x: next_x.wrapping_add(done / 2) };
            let tile = RegisterTile { block, output, row: rows.start, ahead };
            macro_rules! shapes {
                ($($outputs:literal by $rows:literal)*) => {
                    match (outputs, rows.len()) {
                        $(($outputs, $rows) => self.registers::<S, $outputs, $rows>(simd, &tile),)*
                        shape => unreachable!("outputs by rows: {shape:?}"),
                    }
                };
            }
            shapes! {
                4 by 1 4 by 2 4 by 3 4 by 4 4 by 5 3 by 6 3 by 7 3 by 8 3 by 2 2 by 3 2 by 4
                1 by 1 1 by 2 1 by 3 1 by 4 1 by 5 1 by 6 1 by 7 1 by 8
            }
            output += outputs;
        }
    }

    /// `O` outputs for `R` rows.
    #[inline(always)]
    fn registers<S: Simd, const O: usize, const R: usize>(&mut self, simd: S, tile: &RegisterTile<'_>) {
        let RegisterTile { block, output, row, ref ahead } = *tile;
        let Range { start, end } = block.columns;
        let w: [&[bf16]; O] = std::array::from_fn(|o| &self.weight.row(output + o)[start..end]);
        let x = &self.x[self.x_at::<S>(row, R, start)..];
        let stored = ((row - block.rows.start) * BLOCK_OUTPUTS + (output - block.outputs.start) * R) * S::LANES;
        let stored = &mut self.sums[stored..][..O * R * S::LANES];
        let mut sums = [[simd.splat(0.0); R]; O];
        if start > 0 {
            for o in 0..O {
                for r in 0..R {
                    // SAFETY: `stored` has `O * R` vectors.
                    sums[o][r] = unsafe { simd.load_at(stored.as_ptr().add((o * R + r) * S::LANES)) };
                }
            }
        }
        let sums = dot_products::<S, O, R>(simd, w, x, ahead, sums);
        if end < self.weight.columns {
            for o in 0..O {
                for r in 0..R {
                    // SAFETY: `stored` has `O * R` vectors.
                    unsafe { simd.store_at(sums[o][r], stored.as_mut_ptr().add((o * R + r) * S::LANES)) };
                }
            }
            return;
        }
        let mut of_lanes = [[0.0; R]; O];
        for (sums, of_lanes) in sums.as_flattened().chunks(4).zip(of_lanes.as_flattened_mut().chunks_mut(4)) {
            let four = std::array::from_fn(|i| sums.get(i).copied().unwrap_or(simd.splat(0.0)));
            of_lanes.copy_from_slice(&simd.sum_four(four)[..of_lanes.len()]);
        }
        let local = output - self.y.columns.start;
        for r in 0..R {
            let y = &mut self.y.row(row + r)[local..][..O];
            for o in 0..O {
                let value = of_lanes[o][r] + self.bias.map_or(0.0, |bias| bias[output + o]);
                y[o] = if self.add { y[o] + value } else { value };
            }
        }
    }
}

/// What the registers hold the sums of: some outputs and rows of a block.
struct RegisterTile<'a> {
    block: &'a Block,
    output: usize,
    row: usize,
    ahead: Ahead,
}

/// What comes next, to be asked for: any addresses.
struct Ahead {
    weights: [*const bf16; 4],
    x: *const f32,
}

/// `sums[o][r] += w[o]·x[r]` for weights of one length and the panel `x`.
#[inline(always)]
fn dot_products<S: Simd, const O: usize, const R: usize>(
    simd: S,
    w: [&[bf16]; O],
    x: &[f32],
    ahead: &Ahead,
    mut sums: [[S::V; R]; O],
) -> [[S::V; R]; O] {
    let group = 2 * S::LANES;
    let columns = w[0].len();
    assert!(w.iter().all(|w| w.len() == columns), "columns");
    assert!(x.len() >= R * Layout::of::<S>().row_len(columns), "a panel");
    let whole = columns / group * group;
    for column in (0..whole).step_by(group) {
        if column % LINE == 0 {
            for o in 0..O {
                simd.prefetch_far(ahead.weights[o].wrapping_add(column));
                if R <= WHOLE_ROWS {
                    simd.prefetch(w[o].as_ptr().wrapping_add(column + NEAR));
                }
            }
            if R == S::PANEL_ROWS {
                simd.prefetch_far(ahead.x.wrapping_add(column / 2).cast());
            }
        }
        let mut pairs = [(simd.splat(0.0), simd.splat(0.0)); O];
        for o in 0..O {
            // SAFETY: a group from `column` on ends at `whole` or before, which is at most `columns`.
            pairs[o] = unsafe { simd.widen_at(w[o].as_ptr().add(column)) };
        }
        // SAFETY: the panel has as many groups of `R` rows as the columns need.
        sums = unsafe { multiply_add(simd, pairs, x.as_ptr().add(column * R), sums) };
    }
    if whole < columns {
        let pairs = w.map(|w| simd.widen_part(&w[whole..]));
        // SAFETY: likewise; the last group of the panel is whole.
        sums = unsafe { multiply_add(simd, pairs, x.as_ptr().add(whole * R), sums) };
    }
    sums
}

/// Adds the products of a group of columns.
///
/// # Safety
///
/// There is a group at `x`, of `R` rows.
#[inline(always)]
unsafe fn multiply_add<S: Simd, const O: usize, const R: usize>(
    simd: S,
    w: [(S::V, S::V); O],
    x: *const f32,
    mut sums: [[S::V; R]; O],
) -> [[S::V; R]; O] {
    for r in 0..R {
        // SAFETY: the caller's promise.
        let x = unsafe { simd.load_at(x.add(r * 2 * S::LANES)) };
        for o in 0..O {
            sums[o][r] = simd.mul_add(w[o].0, x, sums[o][r]);
        }
    }
    for r in 0..R {
        // SAFETY: likewise.
        let x = unsafe { simd.load_at(x.add((r * 2 + 1) * S::LANES)) };
        for o in 0..O {
            sums[o][r] = simd.mul_add(w[o].1, x, sums[o][r]);
        }
    }
    sums
}
