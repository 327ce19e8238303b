//! Products of packed weights with packed activations.

use super::activations::{CHUNK_COLUMNS, CHUNK_TILES, Packed, Shape, split};
use super::assembly::{NEXT_BYTES, Shaped, TILE_BYTES, next_lines};
use super::transpose::transpose;
use super::{Amx, GROUP_ROWS, PackedWeights, TILE_COLUMNS, TILE_ROWS};
use crate::kernels::gelu::gelu;
use crate::kernels::simd::{Avx512, Simd};
use crate::kernels::tiles::{Tile, blocks};
use std::arch::x86_64::*;
use std::ops::Range;

/// A part of a sum: `x·Wᵀ + b`.
pub struct Term<'a> {
    /// `x`.
    pub x: Packed<'a>,
    /// `W`.
    pub weights: &'a PackedWeights,
    /// `b`.
    pub bias: Option<&'a [f32]>,
}

/// `Σ x·Wᵀ + b`, and what becomes of it, for a part of the outputs: from a multiple of 64 on.
pub struct ProductTile<'a> {
    /// What is summed; the rows of activations are those of the result.
    pub terms: &'a [Term<'a>],
    /// What becomes of it.
    pub output: Output,
    /// Room for [`SUMS_LEN`] elements.
    pub sums: &'a mut [f32],
    /// Where it goes.
    pub y: Tile<'a, f32>,
}

/// What becomes of a product.
#[derive(Clone, Copy)]
pub enum Output {
    /// Rows of `y`, which are whole groups.
    Rows {
        /// Added to what `y` holds.
        add: bool,
        /// The GELU of it.
        gelu: bool,
    },
    /// The GELU of it, packed for a product: rows of `y` are chunks of activations of this shape, 16 rows or more, by their
    /// bits.
    PackedGelu(Shape),
}

/// Panels of weights that are multiplied together.
const PANELS: usize = 4;
/// Outputs of so many panels.
pub const PANELS_OUTPUTS: usize = PANELS * TILE_ROWS;
/// Groups of rows and fours of panels of a block: two chunks of the activations' columns and of the panels' stay in the
/// second-level cache, with the sums.
const BLOCK_GROUPS: usize = 16;
const BLOCK_FOURS: usize = 8;
/// So many chunks of outputs are whole blocks, for a chunk has three fours.
pub const BLOCK_CHUNKS: usize = BLOCK_FOURS;
/// Elements of a tile of sums.
const SUMS: usize = TILE_ROWS * GROUP_ROWS;
/// Elements of the sums of a block.
pub const SUMS_LEN: usize = BLOCK_GROUPS * BLOCK_FOURS * PANELS * SUMS;
/// How far ahead a stream of weights is asked for, in tiles.
const AHEAD_TILES: usize = 1;

/// Groups of rows and fours of panels.
struct Block {
    groups: Range<usize>,
    fours: Range<usize>,
}

impl Block {
    /// Where the sums of a group and a four begin.
    fn sums_at(&self, four: usize, group: usize) -> usize {
        ((four - self.fours.start) * self.groups.len() + group - self.groups.start) * PANELS * SUMS
    }
}

impl ProductTile<'_> {
    /// Computes it.
    pub fn run(mut self, amx: Amx) {
        let (rows, outputs) = match self.output {
            Output::Rows { .. } => (self.y.rows.clone(), self.y.columns.clone()),
            Output::PackedGelu(shape) => {
                let chunks = &self.y.rows;
                (0..shape.rows, chunks.start * CHUNK_COLUMNS..shape.columns.min(chunks.end * CHUNK_COLUMNS))
            }
        };
        assert!(rows.start % GROUP_ROWS == 0 && outputs.start % PANELS_OUTPUTS == 0, "edges of a product's tile");
        let groups = rows.start / GROUP_ROWS..rows.end.div_ceil(GROUP_ROWS);
        let fours = outputs.start / PANELS_OUTPUTS..outputs.end.div_ceil(PANELS_OUTPUTS);
        let shaped = Shaped::new(amx, self.terms.first().map_or(1, |term| term.x.shape.width()));
        let fours_at_once = if groups.len() == 1 { 1 } else { BLOCK_FOURS };
        // Blocks of equal size, of whole pairs.
        let at_once = groups.len().div_ceil(groups.len().div_ceil(BLOCK_GROUPS).max(1)).next_multiple_of(2);
        for groups in blocks(groups, at_once.max(1)) {
            for fours in blocks(fours.clone(), fours_at_once) {
                let block = Block { groups: groups.clone(), fours };
                self.sums[..block.groups.len() * block.fours.len() * PANELS * SUMS].fill(0.0);
                for term in self.terms {
                    assert_eq!(term.x.shape.width(), shaped.width(), "rows of a product's terms");
                    if term.x.shape.groups() == 1 {
                        self.stream(&shaped, term, &block);
                    } else {
                        self.multiply(&shaped, term, &block);
                    }
                }
                // SAFETY: `amx` proves AVX-512 with bf16.
                unsafe {
                    match self.output {
                        Output::Rows { add, gelu } => self.finish(amx.0, &shaped, &block, (add, gelu)),
                        Output::PackedGelu(shape) => self.finish_packed(amx.0, shape, &block),
                    }
                }
            }
        }
    }

    /// One group of rows: the weights go by once, as fast as memory has them.
    fn stream(&mut self, shaped: &Shaped, term: &Term<'_>, block: &Block) {
        let tiles = term.weights.panel_tiles();
        let near_end = tiles.saturating_sub(AHEAD_TILES);
        for four in block.fours.clone() {
            let Some(panels) = panels(term.weights, four) else { return };
            let sums = &mut self.sums[block.sums_at(four, block.groups.start)..][..PANELS * SUMS];
            // Behind its end, a stream goes on in the panel four further.
            let wrap = (PANELS - 1) * tiles * TILE_BYTES;
            for (part, ahead) in [(0..near_end, 0), (near_end..tiles, wrap)] {
                let group = tiles_of(term.x.tiles(0, part.start));
                four_by_one(shaped, panels, group, part, ahead + AHEAD_TILES * TILE_BYTES, sums);
            }
        }
    }

    /// Several groups of rows: chunks of columns, in which two groups, which stay in the first-level cache, meet all panels of
    /// the block two at a time. Meanwhile both come to the second-level cache for the next chunk.
    fn multiply(&mut self, shaped: &Shaped, term: &Term<'_>, block: &Block) {
        let tiles = term.weights.panel_tiles();
        let pairs = block.groups.len() / 2;
        for part in blocks(0..tiles, CHUNK_TILES) {
            // Behind the last chunk comes the first one, of the next panels.
            let (next_tile, next_four) = if part.end < tiles { (part.end, 0) } else { (0, block.fours.len()) };
            let next_panels = |four: usize| panels(term.weights, four + next_four);
            for pair in 0..pairs {
                let group = block.groups.start + 2 * pair;
                let groups = [group, group + 1].map(|group| tiles_of(term.x.tiles(group, part.start)));
                let next_groups = tiles_of(term.x.tiles(group, next_tile)).as_ptr();
                for four in block.fours.clone() {
                    let (Some(now), Some(next)) = (panels(term.weights, four), next_panels(four)) else { return };
                    let done = (four - block.fours.start) * part.len();
                    for half in [0, 2] {
                        let sums = &mut self.sums[block.sums_at(four, group) + half * SUMS..][..(PANELS + 2) * SUMS];
                        let asked = next_share(pairs, pair, part.len());
                        let next = [
                            next[half + asked.0].as_ptr().wrapping_add(next_tile * TILE_BYTES + asked.1),
                            next_groups.wrapping_add((2 * done + half / 2 * part.len()) * NEXT_BYTES),
                        ];
                        two_by_two(shaped, [now[half], now[half + 1]], groups, part.clone(), (pairs, next), sums);
                    }
                }
            }
            if block.groups.len() % 2 == 1 {
                self.last_group(shaped, term, block, &part);
            }
        }
    }

    /// The group of a block that has no other beside it.
    fn last_group(&mut self, shaped: &Shaped, term: &Term<'_>, block: &Block, part: &Range<usize>) {
        let group = block.groups.end - 1;
        let tiles = tiles_of(term.x.tiles(group, part.start));
        for four in block.fours.clone() {
            let Some(panels) = panels(term.weights, four) else { return };
            let sums = &mut self.sums[block.sums_at(four, group)..][..PANELS * SUMS];
            four_by_one(shaped, panels, tiles, part.clone(), TILE_BYTES, sums);
        }
    }

    /// Adds the biases and hands over to the rows of `y`: a group of rows at a time, so that each row is written onwards.
    /// Row after row for each few outputs took several times as long.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn finish(&mut self, simd: Avx512, shaped: &Shaped, block: &Block, (add, gelu): (bool, bool)) {
        let end = self.y.columns.end;
        for group in block.groups.clone() {
            for four in block.fours.clone() {
                for panel in 0..PANELS {
                    let first = four * PANELS_OUTPUTS + panel * TILE_ROWS;
                    let outputs = first..end.min(first + TILE_ROWS);
                    if outputs.is_empty() {
                        break;
                    }
                    let at = block.sums_at(four, group) + panel * TILE_ROWS * shaped.width();
                    let sums = by_rows(&self.sums[at..][..TILE_ROWS * shaped.width()], shaped.width());
                    self.finish_tile(simd, &sums, (group * GROUP_ROWS, outputs), (add, gelu));
                }
            }
        }
    }

    /// A tile of sums.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    #[inline]
    fn finish_tile(
        &mut self,
        simd: Avx512,
        of_rows: &[__m512i; GROUP_ROWS],
        (first_row, outputs): (usize, Range<usize>),
        (add, with_gelu): (bool, bool),
    ) {
        let mask = ((1u32 << outputs.len()) - 1) as u16;
        let bias_sum = simd.load(&self.bias_sums(outputs.clone()));
        let local = outputs.start - self.y.columns.start;
        for (row, sums) in (first_row..self.y.rows.end).zip(of_rows) {
            let y = &mut self.y.row(row)[local..][..outputs.len()];
            let mut value = _mm512_add_ps(_mm512_castsi512_ps(*sums), bias_sum);
            if add {
                // SAFETY: lanes outside of the mask are not read.
                value = _mm512_add_ps(unsafe { _mm512_maskz_loadu_ps(mask, y.as_ptr()) }, value);
            }
            if with_gelu {
                value = gelu(simd, value);
            }
            // SAFETY: lanes outside of the mask are not written.
            unsafe { _mm512_mask_storeu_ps(y.as_mut_ptr(), mask, value) };
        }
    }

    /// The sums of the terms' biases, for up to 32 outputs; 0 behind them.
    fn bias_sums(&self, outputs: Range<usize>) -> [f32; TILE_COLUMNS] {
        let mut sums = [0.0; TILE_COLUMNS];
        for bias in self.terms.iter().filter_map(|term| term.bias) {
            sums.iter_mut().zip(&bias[outputs.clone()]).for_each(|(sum, bias)| *sum += bias);
        }
        sums
    }

    /// Adds the biases and packs the GELU. A tile of sums has an output's rows side by side, as packed activations have
    /// them: nothing has to be transposed.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn finish_packed(&mut self, simd: Avx512, shape: Shape, block: &Block) {
        for four in block.fours.clone() {
            for group in block.groups.clone() {
                for pair in 0..PANELS / 2 {
                    let first = four * PANELS_OUTPUTS + pair * TILE_COLUMNS;
                    if first >= shape.columns {
                        break;
                    }
                    let sums = &self.sums[block.sums_at(four, group) + 2 * pair * SUMS..][..2 * SUMS];
                    let outputs = first..shape.columns.min(first + TILE_COLUMNS);
                    let bias_sums = self.bias_sums(outputs.clone());
                    let chunk = first / CHUNK_COLUMNS;
                    let at = shape.tile_at(group, first / TILE_COLUMNS) - chunk * shape.chunk_len();
                    let tiles = &mut self.y.row(chunk)[at..][..2 * SUMS];
                    finish_pair(simd, sums, &bias_sums[..outputs.len()], tiles);
                }
            }
        }
    }
}

/// Two tiles of sums, for as many outputs as there are biases and 16 rows, as tiles of rounded values and of rests.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
#[inline]
fn finish_pair(simd: Avx512, sums: &[f32], biases: &[f32], tiles: &mut [f32]) {
    // Lane by lane one of the first sixteen halves, and one of the others.
    let alternating: [u16; 32] = std::array::from_fn(|i| (i / 2 + 16 * (i % 2)) as u16);
    // SAFETY: an array of 32 u16 has the size of a vector, all of whose bits are free.
    let alternating = unsafe { std::mem::transmute::<[u16; 32], __m512i>(alternating) };
    let (rounded_to, rest_to) = tiles.split_at_mut(SUMS);
    for pair in 0..TILE_COLUMNS / 2 {
        let value = |output: usize| match biases.get(output) {
            Some(&bias) => gelu(simd, simd.add(simd.load(&sums[output * GROUP_ROWS..]), simd.splat(bias))),
            None => simd.splat(0.0),
        };
        let (rounded, rest) = split(value(2 * pair), value(2 * pair + 1));
        for (halves, to) in [(rounded, &mut *rounded_to), (rest, &mut *rest_to)] {
            let pairs = _mm512_permutexvar_epi16(alternating, halves);
            simd.store(_mm512_castsi512_ps(pairs), &mut to[pair * GROUP_ROWS..]);
        }
    }
}

/// A tile of sums as 16 outputs of each row.
#[target_feature(enable = "avx512f")]
#[inline]
fn by_rows(sums: &[f32], width: usize) -> [__m512i; GROUP_ROWS] {
    assert_eq!(sums.len(), TILE_ROWS * width, "elements of a tile of sums");
    let mut outputs = [_mm512_setzero_si512(); TILE_ROWS];
    if width == 1 {
        // SAFETY: there are 16 elements.
        outputs[0] = unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) };
        return outputs;
    }
    let mask = ((1u32 << width) - 1) as u16;
    for output in 0..TILE_ROWS {
        // SAFETY: lanes outside of the mask, which has `width` lanes, are not read.
        outputs[output] = unsafe { _mm512_maskz_loadu_epi32(mask, sums[output * width..].as_ptr().cast()) };
    }
    transpose(outputs)
}

/// Four panels; where a weight has fewer, its last one again, whose sums nobody reads. `None` if it has none.
fn panels(weights: &PackedWeights, four: usize) -> Option<[&[u8]; PANELS]> {
    let panel = |i| weights.panel_or_last(four * PANELS + i).map(bytemuck::cast_slice);
    Some([panel(0)?, panel(1)?, panel(2)?, panel(3)?])
}

fn tiles_of(group: &[u32]) -> &[u8] {
    bytemuck::cast_slice(group)
}

/// Four panels by one group, over a part of the tiles of columns.
fn four_by_one(
    shaped: &Shaped,
    panels: [&[u8]; PANELS],
    group: &[u8],
    part: Range<usize>,
    ahead: usize,
    sums: &mut [f32],
) {
    let pair = 2 * 4 * TILE_ROWS * shaped.width();
    let panels = panels.map(|panel| panel[part.start * TILE_BYTES..part.end * TILE_BYTES].as_ptr());
    let group = group[..part.len() * pair].as_ptr();
    let sums = sums[..PANELS * TILE_ROWS * shaped.width()].as_mut_ptr();
    // SAFETY: the slices above have what is asked for.
    unsafe { shaped.four_by_one(panels, group, part.len(), ahead, sums) };
}

/// Each of some pairs of groups asks for its share of the next chunk of two panels: in which of them it begins, and at which
/// byte.
fn next_share(pairs: usize, pair: usize, tiles: usize) -> (usize, usize) {
    let begin = (pair * tiles * next_lines(pairs) * 64).min(2 * tiles * TILE_BYTES);
    (usize::from(begin >= tiles * TILE_BYTES), begin % (tiles * TILE_BYTES))
}

/// Two panels by two groups, over a part of the tiles of columns. `sums` begins with the first group's two tiles; those
/// of the second are behind the first group's four.
fn two_by_two(
    shaped: &Shaped,
    panels: [&[u8]; 2],
    groups: [&[u8]; 2],
    part: Range<usize>,
    (pairs, next): (usize, [*const u8; 2]),
    sums: &mut [f32],
) {
    assert_eq!(shaped.width(), GROUP_ROWS, "rows of a whole group");
    let bytes = part.start * TILE_BYTES..part.end * TILE_BYTES;
    let panels = panels.map(|panel| panel[bytes.clone()].as_ptr());
    let groups = groups.map(|group| group[..2 * bytes.len()].as_ptr());
    let (first, second) = sums.split_at_mut(PANELS * SUMS);
    let sums = [&mut first[..2 * SUMS], &mut second[..2 * SUMS]].map(|sums| sums.as_mut_ptr());
    // SAFETY: the slices above have what is asked for.
    unsafe { shaped.two_by_two(panels, groups, part.len(), (pairs, next), sums) };
}
