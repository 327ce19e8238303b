//! The KV cache: blocks of keys and values of all layers, and attention over them.

use crate::cpu_step::CpuStep;
use crate::executor::Executor;
use crate::kernels::attention::{AttentionTile, HeadTile, PositionTable, QUERIES, block_len, store};
use crate::kernels::memory::Buffer;
use crate::kernels::pool::Pool;
use crate::kernels::simd::dispatch;
use crate::kernels::tiles::Cuts;
use crate::memory::{CpuTensor, buffer};
use backend::{AttentionShape, BackendError, Positions, Tensor, positions};
use step::BLOCK_TOKENS;

/// Keys and values in f32, of shape (layers, KV heads, blocks, block); see [`block_len`].
pub struct CpuKvCache {
    shape: AttentionShape,
    blocks: usize,
    values: Buffer<f32>,
    positions: PositionTable,
    head_tiles: Vec<HeadTile>,
    /// Where the head tiles begin and end in a row of results.
    head_cuts: Vec<usize>,
}

impl CpuKvCache {
    pub(crate) fn new(shape: &AttentionShape, layers: usize, blocks: usize) -> Result<Self, BackendError> {
        assert_eq!(shape.head_width, shape.head_dim, "heads stand as wide as they are");
        let len = Self::len(shape, layers, blocks);
        let head_tiles = head_tiles(shape);
        let ends = head_tiles.iter().map(|tile| tile.queries.end * shape.head_dim);
        Ok(Self {
            head_cuts: std::iter::once(0).chain(ends).collect(),
            head_tiles,
            shape: shape.clone(),
            blocks,
            values: buffer("the KV cache", len)?,
            positions: position_table(shape),
        })
    }

    /// Elements of keys and values.
    pub(crate) fn len(shape: &AttentionShape, layers: usize, blocks: usize) -> usize {
        layers * shape.groups.len() * blocks * block_len(shape.head_dim)
    }

    /// Elements of the table of positions.
    pub(crate) fn positions_len(shape: &AttentionShape) -> usize {
        let positions = shape.max_positions.next_multiple_of(BLOCK_TOKENS);
        positions
            * match &shape.positions {
                Positions::Rotary { .. } => shape.head_dim / 2 * 2,
                Positions::Alibi { slopes } => slopes.len(),
            }
    }

    /// [`backend::Backend::attend`].
    pub(crate) fn attend(
        &mut self,
        executor: &mut Executor,
        qkv: &CpuTensor,
        step: &CpuStep<'_>,
        layer: usize,
        y: &mut CpuTensor,
    ) {
        let batch = step.input.batch;
        assert_eq!(qkv.columns(), self.shape.qkv_columns(), "columns of queries, keys and values");
        assert_eq!(y.columns(), self.shape.attended_columns(), "columns of attention's result");
        assert!(qkv.rows() == batch.rows() && y.rows() == batch.rows(), "rows of attention");
        if y.used().is_empty() {
            return;
        }
        assert!(step.positions <= self.shape.max_positions, "{} positions", step.positions);
        self.store(&mut executor.pool, qkv, step, layer);
        let heads_len = self.blocks * block_len(self.shape.head_dim);
        let layer = &self.values[layer * self.shape.groups.len() * heads_len..][..self.shape.groups.len() * heads_len];
        let this = &*self;
        let (rows, heads) = (Cuts::At(&step.row_cuts), Cuts::At(&this.head_cuts));
        let (isa, columns) = (executor.isa, y.columns());
        executor.pool.for_each_tile(y.used_mut(), columns, rows, heads, &mut executor.scratch, |scratch, tile| {
            let row_tile = &step.row_tiles[tile.row_part];
            let heads = &this.head_tiles[tile.column_part];
            let attention = AttentionTile {
                cache: &layer[heads.group * heads_len..][..heads_len],
                table: &batch.blocks[row_tile.table.clone()],
                positions: &this.positions,
                qkv: qkv.used(),
                qkv_columns: qkv.columns(),
                head_dim: this.shape.head_dim,
                heads,
                position: row_tile.position,
                scratch: &mut scratch.attention,
                y: tile,
            };
            dispatch(isa, attention);
        });
    }

    /// Rotates the batch's keys and stores them with their values.
    fn store(&mut self, pool: &mut Pool, qkv: &CpuTensor, step: &CpuStep<'_>, layer: usize) {
        let (head_dim, groups) = (self.shape.head_dim, self.shape.groups.len());
        let block_len = block_len(head_dim);
        let head_len = self.blocks * block_len;
        let layer = &mut self.values[layer * groups * head_len..][..groups * head_len];
        let (shape, positions, batch) = (&self.shape, &self.positions, step.input.batch);
        pool.for_each_plain_tile(layer, head_len, Cuts::Every(1), Cuts::Every(head_len), |mut tile| {
            let group = tile.row_part;
            let before: usize = shape.groups[..group].iter().map(|group| group.queries + 2).sum();
            let column = (before + shape.groups[group].queries) * head_dim;
            let head = tile.row(group);
            for row_tile in &step.row_tiles {
                let block = batch.blocks[row_tile.table.clone()][row_tile.position / BLOCK_TOKENS] as usize;
                let block = &mut head[block * block_len..][..block_len];
                for (row, position) in row_tile.rows.clone().zip(row_tile.position..) {
                    let (key, value) = qkv.row(row)[column..][..2 * head_dim].split_at(head_dim);
                    store(positions, block, position, key, value);
                }
            }
        });
    }
}

/// Cuts each group into tiles of as many query heads as meet keys and values together.
fn head_tiles(shape: &AttentionShape) -> Vec<HeadTile> {
    let mut tiles = Vec::new();
    let (mut query, mut qkv_head) = (0, 0);
    for (group, heads) in shape.groups.iter().enumerate() {
        for first in (0..heads.queries).step_by(QUERIES) {
            tiles.push(HeadTile {
                group,
                queries: query + first..query + heads.queries.min(first + QUERIES),
                qkv_column: (qkv_head + first) * shape.head_dim,
            });
        }
        query += heads.queries;
        qkv_head += heads.queries + 2;
    }
    tiles
}

fn position_table(shape: &AttentionShape) -> PositionTable {
    let positions = 0..shape.max_positions.next_multiple_of(BLOCK_TOKENS);
    match &shape.positions {
        Positions::Rotary { inverse_frequencies, factor } => {
            let mut table = Vec::with_capacity(positions.len() * shape.head_dim);
            for position in positions {
                let frequencies = inverse_frequencies.iter();
                let rotations = frequencies.map(|frequency| positions::rotation(*frequency, *factor, position));
                table.extend(rotations.clone().map(|(cos, _)| cos));
                table.extend(rotations.map(|(_, sin)| sin));
            }
            PositionTable::Rotary(table)
        }
        Positions::Alibi { slopes } => {
            assert_eq!(slopes.len(), shape.queries(), "a slope for each query head");
            let biases = |slope: &f32| {
                positions.clone().map(|position| positions::alibi_bias(*slope, shape.head_dim, position)).collect()
            };
            PositionTable::Alibi(slopes.iter().map(biases).collect())
        }
    }
}
