//! Attention over paged keys and values.
//!
//! A block holds [`BLOCK_TOKENS`] keys as columns, so that one vector has the same element of several keys, then as
//! many values as rows. A query meets whole blocks from the first to its own, whatever is computed beside it, so its
//! result depends on nothing but its sequence.

use super::exp::exp;
use super::simd::{Kernel, Simd};
use super::tiles::Tile;
use std::ops::Range;
use step::BLOCK_TOKENS;

/// Elements that one head's keys and values of one block take.
pub fn block_len(head_dim: usize) -> usize {
    BLOCK_TOKENS * (head_dim + padded(head_dim))
}

/// Elements from one value to the next: whole vectors.
fn padded(head_dim: usize) -> usize {
    head_dim.next_multiple_of(16)
}

/// Writes the key, as it enters the product, and the value of the token at `position` into their block.
pub fn store(positions: &PositionTable, block: &mut [f32], position: usize, key: &[f32], value: &[f32]) {
    let head_dim = key.len();
    let token = position % BLOCK_TOKENS;
    let (keys, values) = block.split_at_mut(BLOCK_TOKENS * head_dim);
    positions.enter(key, position, 1.0, BLOCK_TOKENS, &mut keys[token..]);
    values[token * padded(head_dim)..][..head_dim].copy_from_slice(value);
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

/// One thread's room for the queries of a few heads and for their scores.
#[derive(Default)]
pub struct Scratch {
    queries: Vec<f32>,
    scores: Vec<f32>,
}

impl Scratch {
    /// Makes room for heads of `head_dim` columns at positions below `max_positions`.
    pub fn reserve(&mut self, head_dim: usize, max_positions: usize) {
        let grow = |buffer: &mut Vec<f32>, len| buffer.resize(buffer.len().max(len), 0.0);
        grow(&mut self.queries, QUERIES * head_dim);
        grow(&mut self.scores, QUERIES * max_positions.next_multiple_of(BLOCK_TOKENS));
    }
}

/// Queries at a time: each vector of keys or values is loaded once for all of them.
const QUERIES: usize = 8;

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
    /// Room.
    pub scratch: &'a mut Scratch,
    /// Where it goes.
    pub y: Tile<'a, f32>,
}

impl Kernel for AttentionTile<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        // The queries of the tile are counted row by row.
        let count = self.y.rows.len() * self.heads.queries.len();
        let mut first = 0;
        while first < count {
            first += match count - first {
                QUERIES.. => self.attend::<S, QUERIES>(simd, first),
                4.. => self.attend::<S, 4>(simd, first),
                2.. => self.attend::<S, 2>(simd, first),
                _ => self.attend::<S, 1>(simd, first),
            };
        }
    }
}

impl AttentionTile<'_> {
    /// Of a query of the tile: its row in the tile, and its head in the tile.
    #[inline(always)]
    fn query(&self, query: usize) -> (usize, usize) {
        (query / self.heads.queries.len(), query % self.heads.queries.len())
    }

    /// `Q` queries from `first` on.
    #[inline(always)]
    fn attend<S: Simd, const Q: usize>(&mut self, simd: S, first: usize) -> usize {
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        for q in 0..Q {
            let (row, head) = self.query(first + q);
            let column = self.heads.qkv_column + head * self.head_dim;
            let query = &self.qkv[(self.y.rows.start + row) * self.qkv_columns + column..][..self.head_dim];
            self.positions.enter(query, self.position + row, scale, Q, &mut self.scratch.queries[q..]);
        }
        self.scores::<S, Q>(simd, first);
        let mut factors = [0.0; Q];
        for q in 0..Q {
            let keys = self.position + self.query(first + q).0 + 1;
            let padded_keys = self.context();
            let scores = &mut self.scratch.scores[q * padded_keys..][..padded_keys];
            // Finite, so that the exponential makes it 0.
            scores[keys..].fill(f32::MIN);
            factors[q] = 1.0 / exponentials(simd, scores);
        }
        self.values::<S, Q>(simd, first, factors);
        Q
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

    /// The scores of all keys.
    #[inline(always)]
    fn scores<S: Simd, const Q: usize>(&mut self, simd: S, first: usize) {
        let context = self.context();
        let mut scores = std::mem::take(&mut self.scratch.scores);
        for block in 0..context / BLOCK_TOKENS {
            let (keys, _) = self.block(block);
            let queries = &self.scratch.queries[..Q * self.head_dim];
            for lane in (0..BLOCK_TOKENS).step_by(S::LANES) {
                let mut sums = [simd.splat(0.0); Q];
                for (key, query) in keys.chunks_exact(BLOCK_TOKENS).zip(queries.chunks_exact(Q)) {
                    let key = simd.load(&key[lane..]);
                    for q in 0..Q {
                        sums[q] = simd.mul_add(key, simd.splat(query[q]), sums[q]);
                    }
                }
                let at = block * BLOCK_TOKENS + lane;
                for q in 0..Q {
                    if let PositionTable::Alibi(biases) = self.positions {
                        let head = self.heads.queries.start + self.query(first + q).1;
                        sums[q] = simd.add(sums[q], simd.load(&biases[head][at..]));
                    }
                    simd.store(sums[q], &mut scores[q * context + at..]);
                }
            }
        }
        self.scratch.scores = scores;
    }

    /// `y = factor · Σ weight · value`.
    #[inline(always)]
    fn values<S: Simd, const Q: usize>(&mut self, simd: S, first: usize, factors: [f32; Q]) {
        let (head_dim, context) = (self.head_dim, self.context());
        for element in (0..head_dim).step_by(S::LANES) {
            let mut sums = [simd.splat(0.0); Q];
            for block in 0..context / BLOCK_TOKENS {
                let (_, values) = self.block(block);
                let mut weights = [&[0.0; BLOCK_TOKENS]; Q];
                for q in 0..Q {
                    let weights_of_block = &self.scratch.scores[q * context + block * BLOCK_TOKENS..];
                    weights[q] = weights_of_block.first_chunk().expect("scores come in whole blocks");
                }
                for (token, value) in values.chunks_exact(padded(head_dim)).enumerate() {
                    let value = simd.load(&value[element..]);
                    for q in 0..Q {
                        sums[q] = simd.mul_add(value, simd.splat(weights[q][token]), sums[q]);
                    }
                }
            }
            for q in 0..Q {
                let (row, head) = self.query(first + q);
                let row = self.y.rows.start + row;
                let y = &mut self.y.row(row)[head * head_dim..][..head_dim][element..];
                let sum = simd.mul(sums[q], simd.splat(factors[q]));
                if y.len() < S::LANES { simd.store_part(sum, y) } else { simd.store(sum, y) }
            }
        }
    }
}

/// Replaces scores, whole blocks of them, by their exponentials relative to the largest, and gives their sum.
#[inline(always)]
fn exponentials<S: Simd>(simd: S, scores: &mut [f32]) -> f32 {
    let mut max = simd.splat(f32::MIN);
    for vector in scores.chunks_exact(S::LANES) {
        max = simd.max(simd.load(vector), max);
    }
    let max = simd.splat(simd.max_lane(max));
    let mut sum = simd.splat(0.0);
    for vector in scores.chunks_exact_mut(S::LANES) {
        let e = exp(simd, simd.sub(simd.load(vector), max));
        simd.store(e, vector);
        sum = simd.add(sum, e);
    }
    simd.sum(sum)
}
