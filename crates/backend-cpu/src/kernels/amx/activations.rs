//! Activations as pairs of tiles.

use super::transpose::transpose;
use super::{Amx, GROUP_ROWS, TILE_COLUMNS};
use crate::kernels::gelu::gelu;
use crate::kernels::memory::Buffer;
use crate::kernels::norm::{Moments, moments};
use crate::kernels::pool::Pool;
use crate::kernels::simd::{Avx512, Simd};
use crate::kernels::tiles::{Cuts, Tile};
use std::arch::x86_64::*;

/// Rows of activations in groups of [`Activations::width`]. For each group and 32 columns there are two tiles, of the
/// rounded values and of the rests; a tile is 16 pairs of columns, each with its two bf16 of every row in turn.
#[derive(Default)]
pub struct Activations {
    pairs: Option<Buffer<u32>>,
    rows: usize,
    columns: usize,
}

/// What is packed: rows of activations, or what becomes of them on the way.
pub enum Input<'a> {
    /// As they are.
    Plain(&'a [f32]),
    /// Through GELU.
    Gelu(&'a [f32]),
    /// Normalized.
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

/// Tiles of columns that a thread packs at a time, at least.
const TASK_TILES: usize = 64;

impl Activations {
    /// Makes room for so many rows and columns; `None` if the system has none.
    pub fn reserve(&mut self, rows_max: usize, columns: usize) -> Option<()> {
        let len = rows_max.next_multiple_of(GROUP_ROWS).checked_mul(columns.next_multiple_of(TILE_COLUMNS))?;
        if self.pairs.as_ref().is_none_or(|pairs| pairs.len() < len) {
            // The old room goes first.
            self.pairs = None;
            self.pairs = Some(Buffer::zeroed(len)?);
        }
        Some(())
    }

    /// Replaces what is there by `rows` rows of `columns` columns of `input`.
    ///
    /// # Panics
    ///
    /// If no room was made for them.
    pub fn pack(&mut self, amx: Amx, pool: &mut Pool, (rows, columns): (usize, usize), input: &Input<'_>) {
        (self.rows, self.columns) = (rows, columns);
        let (width, len) = (self.width(), self.group_len());
        let pairs = self.pairs.as_mut().map_or(&mut [][..], |pairs| &mut pairs[..rows.div_ceil(GROUP_ROWS) * len]);
        // A norm looks at whole rows first.
        let whole = matches!(input, Input::Norm { .. });
        let task = if whole { len.max(1) } else { TASK_TILES * TILE_COLUMNS * width };
        pool.for_each_plain_tile(pairs, len, Cuts::Every(1), Cuts::Every(task), |mut tile| {
            let first = tile.columns.start / width;
            let first_row = tile.rows.start * GROUP_ROWS;
            let part = Part { first_row, rows: rows.min(first_row + GROUP_ROWS) - first_row, first, columns, width };
            pack_part(amx, &part, input, &mut tile);
        });
    }

    /// Rows of a group: 16, or all where there are fewer.
    pub fn width(&self) -> usize {
        self.rows.clamp(1, GROUP_ROWS)
    }

    /// The tiles of a group, or of the last one.
    pub fn group(&self, group: usize) -> &[u32] {
        let len = self.group_len();
        self.pairs.as_ref().map_or(&[], |pairs| &pairs[group * len..][..len])
    }

    fn group_len(&self) -> usize {
        self.columns.next_multiple_of(TILE_COLUMNS) * self.width()
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

fn pack_part(amx: Amx, part: &Part, input: &Input<'_>, tile: &mut Tile<'_, u32>) {
    let group = tile.rows.start;
    let pairs = tile.row(group);
    // SAFETY: `amx` proves AVX-512 with bf16.
    unsafe {
        match *input {
            Input::Plain(x) => pack(amx.0, part, x, |v, _, _| v, pairs),
            Input::Gelu(x) => pack(amx.0, part, x, |v, _, _| gelu(amx.0, v), pairs),
            Input::Norm { x, scale, bias, eps } => pack_normal(amx.0, part, (x, scale, bias, eps), pairs),
        }
    }
}

/// Packs normalized rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn pack_normal(simd: Avx512, part: &Part, (x, scale, bias, eps): (&[f32], &[f32], &[f32], f32), pairs: &mut [u32]) {
    assert!(scale.len() == part.columns && bias.len() == part.columns, "lengths of a norm");
    let mut of_rows = [Moments::default(); GROUP_ROWS];
    for (row, of_row) in of_rows[..part.rows].iter_mut().enumerate() {
        *of_row = moments(simd, &x[(part.first_row + row) * part.columns..][..part.columns], eps);
    }
    let normal = |v, row: usize, column| {
        let (scale, bias) = (load(simd, &scale[column..]), load(simd, &bias[column..]));
        of_rows[row].normal(simd, v, scale, bias)
    };
    pack(simd, part, x, normal, pairs);
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
fn split(low: __m512, high: __m512) -> (__m512i, __m512i) {
    let infinity = _mm512_set1_ps(f32::INFINITY);
    let rest = |x: __m512, rounded: __m256i| {
        let rounded = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(rounded)));
        let finite = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(_mm512_abs_ps(rounded), infinity);
        _mm512_maskz_sub_ps(finite, x, rounded)
    };
    // SAFETY: both are vectors of 512 bits, all of which are free.
    let bits = |v: __m512bh| unsafe { std::mem::transmute::<__m512bh, __m512i>(v) };
    let rounded = bits(_mm512_cvtne2ps_pbh(high, low));
    let low = rest(low, _mm512_castsi512_si256(rounded));
    let high = rest(high, _mm512_extracti64x4_epi64::<1>(rounded));
    (rounded, bits(_mm512_cvtne2ps_pbh(high, low)))
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
    for (to, pairs) in to.chunks_exact_mut(width).zip(transpose(rows)) {
        // SAFETY: only the lanes below `width` are written.
        unsafe { _mm512_mask_storeu_epi32(to.as_mut_ptr().cast(), mask, pairs) };
    }
}
