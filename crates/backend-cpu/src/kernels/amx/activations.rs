//! Activations as pairs of tiles.

use super::transpose::transpose;
use super::{Amx, GROUP_ROWS, TILE_COLUMNS};
use crate::kernels::memory::Buffer;
use crate::kernels::norm::{Moments, moments};
use crate::kernels::pool::Pool;
use crate::kernels::simd::{Avx512, Simd};
use crate::kernels::tiles::Cuts;
use std::arch::x86_64::*;

/// Rows of activations in groups of [`Shape::width`], in chunks of [`CHUNK_TILES`] times 32 columns: first all groups
/// of the first chunk, then those of the next, so that what is used together lies together. For 32 columns of a group
/// there are two tiles, of the rounded values and of the rests; a tile is 16 pairs of columns, each with its two bf16 of
/// every row in turn.
#[derive(Clone, Copy)]
pub struct Packed<'a> {
    /// Rows and columns.
    pub shape: Shape,
    /// [`Shape::chunks`] chunks, or more.
    pub pairs: &'a [u32],
}

/// Rows and columns of packed activations.
#[derive(Clone, Copy, Default)]
pub struct Shape {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub columns: usize,
}

/// Room to pack activations.
#[derive(Default)]
pub struct Activations {
    pairs: Option<Buffer<u32>>,
    moments: Vec<Moments>,
    shape: Shape,
}

/// What is packed: rows of activations, or what becomes of them on the way.
pub enum Input<'a> {
    /// As they are.
    Plain(&'a [f32]),
    /// Rows that are layer-normalized while they are packed.
    Norm {
        /// The rows.
        x: &'a [f32],
        /// As long as a row.
        scale: &'a [f32],
        /// As long as a row.
        bias: &'a [f32],
        /// Added to the variance.
        eps: f32,
    },
}

/// Tiles of a chunk of columns: so few that those of two groups stay in the first-level cache while panels go by.
pub const CHUNK_TILES: usize = 6;
/// Columns of a chunk.
pub const CHUNK_COLUMNS: usize = CHUNK_TILES * TILE_COLUMNS;
/// Elements of rows whose moments a task computes, at least.
const MOMENTS_ELEMENTS: usize = 16_384;

impl Activations {
    /// Makes room for so many rows and columns; `None` if the system has none.
    pub fn reserve(&mut self, rows_max: usize, columns: usize) -> Option<()> {
        let len = Shape { rows: rows_max, columns }.len()?;
        if self.pairs.as_ref().is_none_or(|pairs| pairs.len() < len) {
            // The old room goes first.
            self.pairs = None;
            self.pairs = Some(Buffer::zeroed(len)?);
        }
        if self.moments.len() < rows_max {
            self.moments.resize(rows_max, Moments::default());
        }
        Some(())
    }

    /// Replaces what is there by `rows` rows of `columns` columns of `input`.
    ///
    /// # Panics
    ///
    /// If no room was made for them.
    pub fn pack(&mut self, amx: Amx, pool: &mut Pool, (rows, columns): (usize, usize), input: &Input<'_>) {
        let shape = Shape { rows, columns };
        self.shape = shape;
        let Self { pairs, moments, .. } = self;
        if let Input::Norm { x, eps, .. } = *input {
            let some = Cuts::Every(MOMENTS_ELEMENTS.div_ceil(columns.max(1)));
            pool.for_each_plain_tile(&mut moments[..rows], 1, some, Cuts::Every(1), |mut tile| {
                for row in tile.rows.clone() {
                    let x = &x[row * columns..][..columns];
                    // SAFETY: `amx` proves AVX-512.
                    tile.row(row)[0] = unsafe { vector_moments(amx.0, x, eps) };
                }
            });
        }
        let pairs = pairs.as_mut().map_or(&mut [][..], |pairs| &mut pairs[..shape.chunks() * shape.chunk_len()]);
        let (every, group) = (Cuts::Every(1), Cuts::Every(shape.group_len()));
        pool.for_each_plain_tile(pairs, shape.chunk_len(), every, group, |mut tile| {
            let first_row = tile.column_part * GROUP_ROWS;
            let first = tile.row_part * CHUNK_COLUMNS;
            let width = shape.width();
            let part = Part { first_row, rows: rows.min(first_row + GROUP_ROWS) - first_row, first, columns, width };
            // SAFETY: `amx` proves AVX-512 with bf16.
            unsafe { pack_part(amx.0, &part, input, moments, tile.row(first / CHUNK_COLUMNS)) };
        });
    }

    /// What was packed last.
    pub fn packed(&self) -> Packed<'_> {
        Packed { shape: self.shape, pairs: self.pairs.as_deref().unwrap_or_default() }
    }
}

impl Packed<'_> {
    /// The tiles of a group from a column of tiles on: to the end of its chunk, and where there is only one group, to the
    /// last column and behind it.
    pub fn tiles(&self, group: usize, tile: usize) -> &[u32] {
        let Self { shape, pairs } = self;
        let pairs = &pairs[shape.tile_at(group, tile)..];
        let len =
            if shape.groups() == 1 { usize::MAX } else { (CHUNK_TILES - tile % CHUNK_TILES) * 2 * shape.tile_len() };
        &pairs[..len.min(pairs.len())]
    }

    /// The elements of a row: their rounded values with the rests.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        let (tile_len, width) = (self.shape.tile_len(), self.shape.width());
        for (column, out) in out.iter_mut().enumerate() {
            let (tile, within) = (column / TILE_COLUMNS, column % TILE_COLUMNS);
            let at = self.shape.tile_at(row / GROUP_ROWS, tile) + within / 2 * width + row % GROUP_ROWS;
            let half = |pair: u32| f32::from_bits(pair >> (16 * (within % 2)) << 16);
            *out = half(self.pairs[at]) + half(self.pairs[at + tile_len]);
        }
    }
}

impl Shape {
    /// Elements of this shape; `None` if they cannot be counted.
    pub fn len(self) -> Option<usize> {
        self.rows.next_multiple_of(GROUP_ROWS).checked_mul(self.columns.next_multiple_of(CHUNK_COLUMNS))
    }

    /// Rows of a group: 16, or all where there are fewer.
    pub fn width(self) -> usize {
        self.rows.clamp(1, GROUP_ROWS)
    }

    /// Groups of rows.
    pub fn groups(self) -> usize {
        self.rows.div_ceil(GROUP_ROWS)
    }

    /// Chunks of columns.
    pub fn chunks(self) -> usize {
        self.columns.div_ceil(CHUNK_COLUMNS)
    }

    /// Elements of a chunk.
    pub fn chunk_len(self) -> usize {
        self.groups() * self.group_len()
    }

    /// Where the two tiles of a group and a column of tiles begin.
    pub fn tile_at(self, group: usize, tile: usize) -> usize {
        let (chunk, within) = (tile / CHUNK_TILES, tile % CHUNK_TILES);
        chunk * self.chunk_len() + group * self.group_len() + within * 2 * self.tile_len()
    }

    /// Elements of a tile.
    pub fn tile_len(self) -> usize {
        TILE_COLUMNS / 2 * self.width()
    }

    /// Elements of a group's part of a chunk.
    fn group_len(self) -> usize {
        CHUNK_TILES * 2 * self.tile_len()
    }
}

/// Columns of the rows of one group.
struct Part {
    first_row: usize,
    rows: usize,
    /// The first column.
    first: usize,
    /// Of the whole row.
    columns: usize,
    width: usize,
}

/// Packs a part of `input`, with the moments of all rows where it is to be normalized.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn pack_part(simd: Avx512, part: &Part, input: &Input<'_>, moments: &[Moments], pairs: &mut [u32]) {
    // What runs within the loops is written here, where it is compiled for the instruction set.
    match *input {
        Input::Plain(x) => pack(simd, part, x, |v, _, _| v, pairs),
        Input::Norm { x, scale, bias, .. } => {
            assert!(scale.len() == part.columns && bias.len() == part.columns, "lengths of a norm");
            let of_rows = &moments[part.first_row..][..part.rows];
            let normal = |v, row: usize, column| {
                let (scale, bias) = (load(simd, &scale[column..]), load(simd, &bias[column..]));
                of_rows[row].normal(simd, v, scale, bias)
            };
            pack(simd, part, x, normal, pairs);
        }
    }
}

/// The moments of a row.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn vector_moments(simd: Avx512, x: &[f32], eps: f32) -> Moments {
    moments(simd, x, eps)
}

/// Up to a vector of elements, with 0 behind them.
#[inline(always)]
fn load(simd: Avx512, from: &[f32]) -> __m512 {
    if from.len() >= Avx512::LANES { simd.load(from) } else { simd.load_part(from) }
}

/// Splits and packs what `map` makes of vectors of `x`, their row and their column.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
#[inline]
fn pack(simd: Avx512, part: &Part, x: &[f32], map: impl Fn(__m512, usize, usize) -> __m512, pairs: &mut [u32]) {
    let zero = _mm512_setzero_si512();
    let tile_len = TILE_COLUMNS / 2 * part.width;
    for (i, tiles) in pairs.chunks_exact_mut(2 * tile_len).enumerate() {
        let column = part.first + i * TILE_COLUMNS;
        if column >= part.columns {
            return;
        }
        let (mut rounded, mut rest) = ([zero; GROUP_ROWS], [zero; GROUP_ROWS]);
        for row in 0..part.rows {
            let x = &x[(part.first_row + row) * part.columns..][..part.columns];
            let vector = |column: usize| match x.get(column..) {
                Some(x) if !x.is_empty() => map(load(simd, x), row, column),
                _ => simd.splat(0.0),
            };
            (rounded[row], rest[row]) = split(vector(column), vector(column + Avx512::LANES));
        }
        let (rounded_to, rest_to) = tiles.split_at_mut(tile_len);
        store_tile(rounded, part.width, rounded_to);
        store_tile(rest, part.width, rest_to);
    }
}

/// 32 values rounded to bf16, and what that leaves of them, rounded too: 0 beside infinity and what is not a number.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
#[inline]
pub fn split(low: __m512, high: __m512) -> (__m512i, __m512i) {
    // SAFETY: both are vectors of 512 bits, all of which are free.
    let bits = |v: __m512bh| unsafe { std::mem::transmute::<__m512bh, __m512i>(v) };
    let rounded = bits(_mm512_cvtne2ps_pbh(high, low));
    let low = rest(low, _mm512_castsi512_si256(rounded));
    let high = rest(high, _mm512_extracti64x4_epi64::<1>(rounded));
    (rounded, bits(_mm512_cvtne2ps_pbh(high, low)))
}

/// What rounding took from `x`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[inline]
fn rest(x: __m512, rounded: __m256i) -> __m512 {
    let rounded = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(rounded)));
    let finite = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(_mm512_abs_ps(rounded), _mm512_set1_ps(f32::INFINITY));
    _mm512_maskz_sub_ps(finite, x, rounded)
}

/// Rows of 16 pairs become 16 rows of the first `width` rows' pairs.
#[target_feature(enable = "avx512f")]
#[inline]
fn store_tile(rows: [__m512i; GROUP_ROWS], width: usize, to: &mut [u32]) {
    assert_eq!(to.len(), 16 * width, "room for a tile");
    if width == 1 {
        // SAFETY: there is room for 16 elements.
        unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), rows[0]) };
        return;
    }
    let mask = ((1u32 << width) - 1) as u16;
    let pairs = transpose(rows);
    for pair in 0..16 {
        // SAFETY: only the lanes below `width` are written.
        unsafe { _mm512_mask_storeu_epi32(to[pair * width..].as_mut_ptr().cast(), mask, pairs[pair]) };
    }
}
