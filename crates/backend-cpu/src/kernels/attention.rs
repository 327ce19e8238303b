//! Attention over paged keys and values.
//!
//! A block holds [`BLOCK_TOKENS`] keys as columns, so that one vector has the same element of several keys, then as
//! many values in strips: for each [`STRIP`] elements, those of all values. What a product reads lies together. A query
//! meets whole blocks from the first to its own, whatever is computed beside it, so its result depends on nothing but its
//! sequence.

use super::exp::exp;
use super::simd::{Kernel, Simd};
use super::tiles::{Tile, blocks};
use std::ops::Range;
use step::BLOCK_TOKENS;

/// Elements that one head's keys and values of one block take.
pub fn block_len(head_dim: usize) -> usize {
    BLOCK_TOKENS * (head_dim + padded(head_dim))
}

/// Elements of a strip: a cache line, which has whole vectors.
const STRIP: usize = 16;

/// Elements of a value in whole strips.
fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(STRIP)
}

/// Writes the key, as it enters the product, and the value of the token at `position` into their block.
pub fn store(positions: &PositionTable, block: &mut [f32], position: usize, key: &[f32], value: &[f32]) {
    let head_dim = key.len();
    let token = position % BLOCK_TOKENS;
    let (keys, values) = block.split_at_mut(BLOCK_TOKENS * head_dim);
    positions.enter(key, position, 1.0, BLOCK_TOKENS, &mut keys[token..]);
    for (strip, value) in values.chunks_exact_mut(BLOCK_TOKENS * STRIP).zip(value.chunks(STRIP)) {
        strip[token * STRIP..][..value.len()].copy_from_slice(value);
    }
}

/// Query heads of one KV head: the columns of a tile.
#[derive(Clone, Debug)]
pub struct HeadTile {
    /// The KV head.
    pub group: usize,
    /// The query heads, among those of the rank.
    pub queries: Range<usize>,
    /// Where the first one's query is in a row of queries, keys and values.
    pub qkv_column: usize,
}

impl HeadTile {
    /// Of a query of a tile, counted row by row: its row and its head in the tile.
    #[inline(always)]
    fn query(&self, query: usize) -> (usize, usize) {
        (query / self.queries.len(), query % self.queries.len())
    }
}

/// Rows of one sequence whose positions lie in one block: the rows of a tile.
#[derive(Clone, Debug)]
pub struct RowTile {
    /// Of the batch.
    pub rows: Range<usize>,
    /// Of the first row.
    pub position: usize,
    /// The sequence's block table, in the batch's blocks.
    pub table: Range<usize>,
}

/// How positions enter, ready to use.
pub enum PositionTable {
    /// For each position, the cosines, then the sines of half a head.
    Rotary(Vec<f32>),
    /// For each query head, what is added to the scores of the keys, by position; as many as fill whole blocks.
    Alibi(Vec<Vec<f32>>),
}

impl PositionTable {
    /// A query or a key times `scale`, rotated, with `stride` from one element to the next.
    #[inline(always)]
    pub fn enter(&self, head: &[f32], position: usize, scale: f32, stride: usize, to: &mut [f32]) {
        match self {
            Self::Rotary(table) => {
                let half = head.len() / 2;
                let (cos, sin) = table[position * head.len()..][..head.len()].split_at(half);
                let (first, second) = head.split_at(half);
                for i in 0..half {
                    to[i * stride] = (first[i] * cos[i] - second[i] * sin[i]) * scale;
                    to[(i + half) * stride] = (second[i] * cos[i] + first[i] * sin[i]) * scale;
                }
            }
            Self::Alibi(_) => head.iter().enumerate().for_each(|(i, x)| to[i * stride] = x * scale),
        }
    }
}

/// One thread's room for a few queries and for their scores: of each block of keys, first all of the first query.
#[derive(Default)]
pub struct Scratch {
    queries: Vec<f32>,
    scores: Vec<f32>,
}

impl Scratch {
    /// Makes room for heads of `head_dim` columns at positions below `max_positions`.
    pub fn reserve(&mut self, head_dim: usize, max_positions: usize) {
        let grow = |buffer: &mut Vec<f32>, len| buffer.resize(buffer.len().max(len), 0.0);
        let [queries, scores] = Self::lens(head_dim, max_positions);
        grow(&mut self.queries, queries);
        grow(&mut self.scores, scores);
    }

    /// Elements of queries, and of scores.
    pub fn lens(head_dim: usize, max_positions: usize) -> [usize; 2] {
        [QUERIES * head_dim, QUERIES * max_positions.next_multiple_of(BLOCK_TOKENS)]
    }
}

/// Queries at a time, at most.
pub const QUERIES: usize = 8;

/// `y = Σ softmax(q·kⱼ / √head_dim + bias(j)) · vⱼ` for one tile of `y`.
pub struct AttentionTile<'a> {
    /// The blocks of the KV head, [`block_len`] elements each.
    pub cache: &'a [f32],
    /// The sequence's block table.
    pub table: &'a [u32],
    /// How positions enter.
    pub positions: &'a PositionTable,
    /// Queries, keys and values of the batch, row-major.
    pub qkv: &'a [f32],
    /// Columns of `qkv`.
    pub qkv_columns: usize,
    /// Columns of a head.
    pub head_dim: usize,
    /// The columns of the tile.
    pub heads: &'a HeadTile,
    /// Position of the tile's first row.
    pub position: usize,
    /// Buffers of each thread.
    pub scratch: &'a mut Scratch,
    /// Where it goes.
    pub y: Tile<'a, f32>,
}

impl Kernel for AttentionTile<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let count = self.y.rows.len() * self.heads.queries.len();
        for queries in blocks(0..count, S::PANEL_ROWS) {
            match queries.len() {
                5.. => self.attend::<S, 8>(simd, queries),
                3.. => self.attend::<S, 4>(simd, queries),
                2 => self.attend::<S, 2>(simd, queries),
                _ => self.attend::<S, 1>(simd, queries),
            }
        }
    }
}

impl AttentionTile<'_> {
    /// Up to `Q` queries: if there are fewer, the last one is computed again.
    #[inline(always)]
    fn attend<S: Simd, const Q: usize>(&mut self, simd: S, queries: Range<usize>) {
        let queries: [usize; Q] = std::array::from_fn(|q| (queries.start + q).min(queries.end - 1));
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        for (query, to) in queries.into_iter().zip(self.scratch.queries.chunks_exact_mut(self.head_dim)) {
            let (row, head) = self.heads.query(query);
            let column = self.heads.qkv_column + head * self.head_dim;
            let query = &self.qkv[(self.y.rows.start + row) * self.qkv_columns + column..][..self.head_dim];
            self.positions.enter(query, self.position + row, scale, 1, to);
        }
        // The sums, the vectors and a factor stay in registers.
        let at_once = if S::REGISTERS < 32 { 2 } else { 3 };
        for vectors in blocks(0..self.context() / S::LANES, at_once) {
            match vectors.len() {
                3 => self.scores::<S, Q, 3>(simd, queries, vectors.start),
                2 => self.scores::<S, Q, 2>(simd, queries, vectors.start),
                _ => self.scores::<S, Q, 1>(simd, queries, vectors.start),
            }
        }
        let last = self.context() - BLOCK_TOKENS;
        for q in 0..Q {
            let keys = self.position + self.heads.query(queries[q]).0 + 1;
            // Finite, so that the exponential makes it 0.
            self.scratch.scores[last * Q + q * BLOCK_TOKENS..][keys - last..BLOCK_TOKENS].fill(f32::MIN);
        }
        let sums = exponentials::<S, Q>(simd, &mut self.scratch.scores[..(last + BLOCK_TOKENS) * Q]);
        let factors = sums.map(|sum| 1.0 / sum);
        for vectors in blocks(0..self.head_dim.div_ceil(S::LANES), 2) {
            match vectors.len() {
                2 => self.values::<S, Q, 2>(simd, queries, factors, vectors.start),
                _ => self.values::<S, Q, 1>(simd, queries, factors, vectors.start),
            }
        }
    }

    /// How many keys the blocks up to the one of the queries hold.
    #[inline(always)]
    fn context(&self) -> usize {
        (self.position / BLOCK_TOKENS + 1) * BLOCK_TOKENS
    }

    #[inline(always)]
    fn block(&self, block: usize) -> (&[f32], &[f32]) {
        let len = block_len(self.head_dim);
        self.cache[self.table[block] as usize * len..][..len].split_at(BLOCK_TOKENS * self.head_dim)
    }

    /// The scores of `V` vectors of keys.
    #[inline(always)]
    fn scores<S: Simd, const Q: usize, const V: usize>(&mut self, simd: S, queries: [usize; Q], first: usize) {
        let mut sums = [[simd.splat(0.0); V]; Q];
        let keys = std::array::from_fn(|v| {
            let key = (first + v) * S::LANES;
            &self.block(key / BLOCK_TOKENS).0[key % BLOCK_TOKENS..]
        });
        accumulate(simd, &mut sums, (keys, BLOCK_TOKENS), (&self.scratch.queries, self.head_dim), self.head_dim);
        for q in 0..Q {
            for v in 0..V {
                let at = (first + v) * S::LANES;
                if let PositionTable::Alibi(biases) = self.positions {
                    let head = self.heads.queries.start + self.heads.query(queries[q]).1;
                    sums[q][v] = simd.add(sums[q][v], simd.load(&biases[head][at..]));
                }
                let (block, token) = (at / BLOCK_TOKENS, at % BLOCK_TOKENS);
                simd.store(sums[q][v], &mut self.scratch.scores[(block * Q + q) * BLOCK_TOKENS + token..]);
            }
        }
    }

    /// `y = factor · Σ weight · value`, of `V` vectors of elements.
    #[inline(always)]
    fn values<S: Simd, const Q: usize, const V: usize>(
        &mut self,
        simd: S,
        queries: [usize; Q],
        factors: [f32; Q],
        first: usize,
    ) {
        let head_dim = self.head_dim;
        let mut sums = [[simd.splat(0.0); V]; Q];
        let weights = self.scratch.scores.chunks_exact(Q * BLOCK_TOKENS).take(self.context() / BLOCK_TOKENS);
        for (block, weights) in weights.enumerate() {
            let (_, values) = self.block(block);
            let elements = std::array::from_fn(|v| {
                let element = (first + v) * S::LANES;
                &values[element / STRIP * BLOCK_TOKENS * STRIP + element % STRIP..]
            });
            accumulate(simd, &mut sums, (elements, STRIP), (weights, BLOCK_TOKENS), BLOCK_TOKENS);
        }
        for q in 0..Q {
            let (row, head) = self.heads.query(queries[q]);
            let row = self.y.rows.start + row;
            for v in 0..V {
                let y = &mut self.y.row(row)[head * head_dim..][..head_dim][(first + v) * S::LANES..];
                let sum = simd.mul(sums[q][v], simd.splat(factors[q]));
                if y.len() < S::LANES { simd.store_part(sum, y) } else { simd.store(sum, y) }
            }
        }
    }
}

/// `sums[q][v] += Σ vectors[v][i] · factors[q][i]`, over `len` places `i`; between two vectors, and between the factors of
/// two queries, are as many elements as is said beside them. All sums stay in registers, and what is loaded is used for
/// each of them.
#[inline(always)]
fn accumulate<S: Simd, const Q: usize, const V: usize>(
    simd: S,
    sums: &mut [[S::V; V]; Q],
    (vectors, stride): ([&[f32]; V], usize),
    (factors, query_stride): (&[f32], usize),
    len: usize,
) {
    let needed = (len.max(1) - 1) * stride + S::LANES;
    assert!(vectors.iter().all(|vectors| vectors.len() >= needed), "{len} vectors");
    assert!(factors.len() >= (Q - 1) * query_stride + len, "{len} factors of {Q} queries");
    for i in 0..len {
        // SAFETY: the slices have `len` vectors each.
        let loaded: [S::V; V] = std::array::from_fn(|v| unsafe { simd.load_at(vectors[v].as_ptr().add(i * stride)) });
        for q in 0..Q {
            // SAFETY: there are `len` factors of each query.
            let factor = simd.splat(unsafe { *factors.get_unchecked(q * query_stride + i) });
            for v in 0..V {
                sums[q][v] = simd.mul_add(loaded[v], factor, sums[q][v]);
            }
        }
    }
}

/// Replaces the scores of `Q` queries, whole blocks of them, by their exponentials relative to each query's largest, and gives
/// their sums.
#[inline(always)]
fn exponentials<S: Simd, const Q: usize>(simd: S, scores: &mut [f32]) -> [f32; Q] {
    let mut max = [simd.splat(f32::MIN); Q];
    for block in scores.chunks_exact(Q * BLOCK_TOKENS) {
        for q in 0..Q {
            for vector in block[q * BLOCK_TOKENS..][..BLOCK_TOKENS].chunks_exact(S::LANES) {
                max[q] = simd.max(simd.load(vector), max[q]);
            }
        }
    }
    let max = max.map(|max| simd.splat(simd.max_lane(max)));
    let mut sums = [simd.splat(0.0); Q];
    for block in scores.chunks_exact_mut(Q * BLOCK_TOKENS) {
        for q in 0..Q {
            for vector in block[q * BLOCK_TOKENS..][..BLOCK_TOKENS].chunks_exact_mut(S::LANES) {
                let e = exp(simd, simd.sub(simd.load(vector), max[q]));
                simd.store(e, vector);
                sums[q] = simd.add(sums[q], e);
            }
        }
    }
    sums.map(|sum| simd.sum(sum))
}
