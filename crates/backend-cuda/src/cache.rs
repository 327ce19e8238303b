//! The KV cache: (layers, blocks, KV heads, [key, value], 16 positions, head) in bf16, and the tables that attention needs.

use crate::kernels::attention::{HeadTile, TILE_HEADS, WIDTHS};
use crate::memory::{Arena, Buffer};
use crate::tensor::CudaVector;
use crate::weights::WeightUpload;
use backend::{AttentionShape, BackendError, Positions, positions};
use half::bf16;
use step::BLOCK_TOKENS;

/// Keys and values of all layers.
pub struct CudaKvCache {
    memory: Buffer,
    pub(crate) shape: AttentionShape,
    pub(crate) blocks: usize,
    /// Index of [`WIDTHS`].
    pub(crate) width: usize,
    /// `HeadTile`s.
    pub(crate) tiles: Buffer,
    pub(crate) tile_count: usize,
    /// (positions, half a head) pairs of cosine and sine; none where nothing is rotated.
    rotations: Option<Buffer>,
    /// Of ALiBi, one for each query head.
    slopes: Option<Buffer>,
}

/// The width at which kernels take a head of `head_dim` elements, or `head_dim` itself if there is none.
pub(crate) fn head_width(head_dim: usize) -> usize {
    WIDTHS.into_iter().find(|&width| head_dim <= width).unwrap_or(head_dim)
}

impl CudaKvCache {
    pub(crate) fn new(
        arena: &Arena,
        weights: &mut WeightUpload,
        shape: &AttentionShape,
        layers: usize,
        blocks: usize,
    ) -> Result<Self, BackendError> {
        let width = check(shape)?;
        let tiles = head_tiles(shape);
        let tiles_at = arena.buffer("tables of attention", tiles.len() * size_of::<HeadTile>())?;
        // The pieces that carry weights carry f32; these are as good as any other words.
        weights.vector(tiles_at.at(), bytemuck::cast_slice(&tiles))?;
        let (rotations, slopes) = match &shape.positions {
            Positions::Rotary { inverse_frequencies, factor } => {
                (Some(rotations(shape, inverse_frequencies, *factor)), None)
            }
            Positions::Alibi { slopes } => (None, Some(slopes.clone())),
        };
        let mut table = |values: Option<Vec<f32>>| {
            let Some(values) = values else { return Ok::<_, BackendError>(None) };
            let buffer = arena.buffer("tables of attention", CudaVector::bytes(values.len()))?;
            weights.vector(buffer.at(), &values)?;
            Ok(Some(buffer))
        };
        Ok(Self {
            memory: arena.buffer("the KV cache", cache_bytes(shape, layers, blocks))?,
            shape: shape.clone(),
            blocks,
            width,
            tiles: tiles_at,
            tile_count: tiles.len(),
            rotations: table(rotations)?,
            slopes: table(slopes)?,
        })
    }

    /// Where a layer begins.
    pub(crate) fn layer(&self, layer: usize) -> u64 {
        let bytes = layer_bytes(&self.shape, self.blocks);
        assert!((layer + 1) * bytes <= self.memory.bytes(), "layer {layer} of the KV cache");
        self.memory.at() + (layer * bytes) as u64
    }

    /// The address of the rotations, or 0.
    pub(crate) fn rotations(&self) -> u64 {
        self.rotations.as_ref().map_or(0, Buffer::at)
    }

    /// The address of the slopes, or 0.
    pub(crate) fn slopes(&self) -> u64 {
        self.slopes.as_ref().map_or(0, Buffer::at)
    }
}

/// Bytes of keys and values of all layers.
pub(crate) fn cache_bytes(shape: &AttentionShape, layers: usize, blocks: usize) -> usize {
    layers * layer_bytes(shape, blocks)
}

/// Bytes of the two tables of attention: head tiles, and rotations or slopes.
pub(crate) fn table_bytes(shape: &AttentionShape) -> [usize; 2] {
    let positions = match &shape.positions {
        Positions::Rotary { .. } => shape.max_positions * shape.head_width,
        Positions::Alibi { slopes } => slopes.len(),
    };
    [head_tiles(shape).len() * size_of::<HeadTile>(), CudaVector::bytes(positions)]
}

fn layer_bytes(shape: &AttentionShape, blocks: usize) -> usize {
    blocks * shape.groups.len() * 2 * BLOCK_TOKENS * shape.head_width * size_of::<bf16>()
}

/// The index of the heads' width, if kernels can do what the shape asks for.
fn check(shape: &AttentionShape) -> Result<usize, BackendError> {
    let AttentionShape { head_dim, head_width, max_positions, .. } = *shape;
    let refuse = |message: String| BackendError::Device { operation: "making the KV cache", message };
    let Some(width) = WIDTHS.iter().position(|&width| width == head_width) else {
        let most = WIDTHS[WIDTHS.len() - 1];
        return Err(refuse(format!("heads of {head_dim} elements: the cuda backend has kernels for up to {most}")));
    };
    let positions_max = 256 * head_width;
    if max_positions > positions_max {
        let text = format!("{max_positions} positions: the cuda backend has room for {positions_max} with such heads");
        return Err(refuse(text));
    }
    // The bias of positions is divided by the root of the kernel's width, after it has been rounded.
    if head_dim != head_width && matches!(shape.positions, Positions::Alibi { .. }) {
        let widths = WIDTHS.map(|width| width.to_string()).join(", ");
        let text = format!("ALiBi with heads of {head_dim} elements: the cuda backend has it for {widths}");
        return Err(refuse(format!("{text}; use --backend cpu")));
    }
    Ok(width)
}

/// Groups in tiles of up to 32 query heads.
pub(crate) fn head_tiles(shape: &AttentionShape) -> Vec<HeadTile> {
    let width = shape.head_width;
    let (mut tiles, mut first_query, mut column) = (Vec::new(), 0, 0);
    for (kv_head, group) in shape.groups.iter().enumerate() {
        for first in (0..group.queries).step_by(TILE_HEADS) {
            tiles.push(HeadTile {
                kv_head: kv_head as i32,
                first_query: (first_query + first) as i32,
                queries: (group.queries - first).min(TILE_HEADS) as i32,
                query_column: (column + first * width) as i32,
                key_column: (column + group.queries * width) as i32,
                value_column: (column + (group.queries + 1) * width) as i32,
                stores: i32::from(first == 0),
                reserved: 0,
            });
        }
        first_query += group.queries;
        column += (group.queries + 2) * width;
    }
    tiles
}

/// Cosine and sine for each position and element of half a head. Kernels divide scores by the root of the width where the
/// model divides by the root of `head_dim`; so both query and key are scaled by the fourth root of their ratio.
fn rotations(shape: &AttentionShape, inverse_frequencies: &[f64], factor: f64) -> Vec<f32> {
    let half_width = shape.head_width / 2;
    let scale = (shape.head_width as f64 / shape.head_dim as f64).powf(0.25) as f32;
    let mut table = Vec::with_capacity(shape.max_positions * shape.head_width);
    for position in 0..shape.max_positions {
        for i in 0..half_width {
            // What stands behind the half is zeros, however it is rotated.
            let frequency = inverse_frequencies.get(i);
            let (cos, sin) =
                frequency.map_or((0.0, 0.0), |frequency| positions::rotation(*frequency, factor, position));
            table.extend([cos * scale, sin * scale]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use backend::KvGroup;

    fn shape(head_dim: usize, queries: &[usize]) -> AttentionShape {
        AttentionShape {
            head_dim,
            head_width: head_width(head_dim),
            groups: queries.iter().map(|&queries| KvGroup { queries }).collect(),
            positions: Positions::rotary(10_000.0, head_dim),
            max_positions: 4,
        }
    }

    #[test]
    fn a_large_group_has_several_tiles_of_which_the_first_stores() {
        let tiles = head_tiles(&shape(64, &[71, 2]));
        let queries: Vec<_> = tiles.iter().map(|tile| (tile.kv_head, tile.first_query, tile.queries)).collect();
        assert_eq!(queries, [(0, 0, 32), (0, 32, 32), (0, 64, 7), (1, 71, 2)]);
        assert_eq!(tiles.iter().map(|tile| tile.stores).collect::<Vec<_>>(), [1, 0, 0, 1]);
        assert_eq!((tiles[2].query_column, tiles[2].key_column, tiles[2].value_column), (64 * 64, 71 * 64, 72 * 64));
        assert_eq!(tiles[3].query_column, 73 * 64);
    }

    #[test]
    fn heads_have_the_next_compiled_width() {
        let widths = [8, 16, 24, 32, 64].map(head_width);
        assert_eq!(widths, [16, 16, 32, 32, 64]);
        assert!(check(&shape(80, &[1])).unwrap_err().to_string().contains("up to 64"));
    }

    #[test]
    fn padded_heads_have_scaled_rotations() {
        let table = rotations(&shape(24, &[1]), &[1.0; 12], 1.0);
        let scale = (32.0f32 / 24.0).powf(0.25);
        assert_eq!(table.len(), 4 * 16 * 2);
        assert!((table[0] - scale).abs() < 1e-6 && table[1] == 0.0);
        assert_eq!(table[12 * 2..16 * 2], [0.0; 8]);
    }
}
