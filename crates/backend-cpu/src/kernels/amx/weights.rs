//! Weights as tiles.

use super::{TILE_COLUMNS, TILE_ROWS};
use crate::kernels::memory::Buffer;
use half::bf16;

/// A weight: for each 16 outputs a panel, which is one tile for each 32 columns. A tile is 16 rows of 32 elements; what
/// lies outside of the weight is 0.
pub struct PackedWeights {
    tiles: Buffer<bf16>,
    columns: usize,
}

impl PackedWeights {
    /// All zero; `None` if the system has no room.
    pub fn zeroed(rows: usize, columns: usize) -> Option<Self> {
        Some(Self { tiles: Buffer::zeroed(Self::len(rows, columns)?)?, columns })
    }

    /// Elements of the tiles; `None` if they cannot be counted.
    pub fn len(rows: usize, columns: usize) -> Option<usize> {
        rows.div_ceil(TILE_ROWS).checked_mul(panel_len(columns))
    }

    /// The panels, one after the other, each of [`panel_len`] elements.
    pub fn panels_mut(&mut self) -> &mut [bf16] {
        &mut self.tiles
    }

    /// Tiles of a panel.
    pub fn panel_tiles(&self) -> usize {
        self.columns.div_ceil(TILE_COLUMNS)
    }

    /// The panel of outputs `16 * panel` and on; the last one for those behind it. `None` if there is none.
    pub fn panel_or_last(&self, panel: usize) -> Option<&[bf16]> {
        let len = panel_len(self.columns);
        let last = self.tiles.len().checked_div(len)?.checked_sub(1)?;
        Some(&self.tiles[panel.min(last) * len..][..len])
    }

    /// The elements of a row, widened.
    pub fn read_row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.columns, "columns of a weight");
        let panel = &self.tiles[row / TILE_ROWS * panel_len(self.columns)..];
        let tiles = panel.chunks_exact(TILE_ROWS * TILE_COLUMNS);
        for (out, tile) in out.chunks_mut(TILE_COLUMNS).zip(tiles) {
            let part = &tile[row % TILE_ROWS * TILE_COLUMNS..];
            out.iter_mut().zip(part).for_each(|(out, w)| *out = w.to_f32());
        }
    }
}

/// Elements of a panel.
pub fn panel_len(columns: usize) -> usize {
    columns.div_ceil(TILE_COLUMNS) * TILE_COLUMNS * TILE_ROWS
}

/// Fills a panel, which is zero, from its rows: row-major, 16 of them or fewer.
pub fn pack_panel(rows: &[bf16], columns: usize, panel: &mut [bf16]) {
    for (row, values) in rows.chunks_exact(columns).enumerate() {
        let tiles = panel.chunks_exact_mut(TILE_ROWS * TILE_COLUMNS);
        for (values, tile) in values.chunks(TILE_COLUMNS).zip(tiles) {
            let to = &mut tile[row * TILE_COLUMNS..];
            // A whole line is copied in registers.
            match (<&[bf16; TILE_COLUMNS]>::try_from(values), to.first_chunk_mut::<TILE_COLUMNS>()) {
                (Ok(values), Some(to)) => *to = *values,
                _ => to[..values.len()].copy_from_slice(values),
            }
        }
    }
}
