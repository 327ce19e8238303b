//! What the instructions do to tiles.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2.

/// Number of tile registers.
const TILES: usize = 8;
/// Rows of a tile, at most.
const ROWS: usize = 16;
/// Bytes of a row, at most.
const ROW_BYTES: usize = 64;
/// Lanes of a row: an f32, or a pair of bf16.
const LANES: usize = ROW_BYTES / 4;

/// A thread's tiles.
#[derive(Clone)]
pub struct Tiles {
    configured: bool,
    tiles: [Tile; TILES],
}

#[derive(Clone, Copy)]
struct Tile {
    rows: usize,
    row_bytes: usize,
    lanes: [[u32; LANES]; ROWS],
}

impl Tiles {
    /// Without a shape.
    pub const fn released() -> Self {
        Self { configured: false, tiles: [Tile { rows: 0, row_bytes: 0, lanes: [[0; LANES]; ROWS] }; TILES] }
    }

    /// Takes shapes from the 64 bytes of a configuration; all tiles become zero.
    ///
    /// # Panics
    ///
    /// If the CPU would refuse them.
    pub fn configure(&mut self, shapes: &[u8; 64]) {
        assert_eq!(shapes[0], 1, "a palette of tiles");
        assert_eq!(shapes[1], 0, "the row to begin with");
        *self = Self::released();
        self.configured = true;
        for (i, tile) in self.tiles.iter_mut().enumerate() {
            let row_bytes = u16::from_le_bytes([shapes[16 + 2 * i], shapes[17 + 2 * i]]);
            (tile.rows, tile.row_bytes) = (shapes[48 + i].into(), row_bytes.into());
            assert!(tile.rows <= ROWS && tile.row_bytes <= ROW_BYTES, "tile {i}: {} × {row_bytes}", tile.rows);
            assert_eq!(tile.rows == 0, row_bytes == 0, "tile {i} has rows without bytes, or bytes without rows");
        }
    }

    /// Rows of a tile, and the bytes of each.
    ///
    /// # Panics
    ///
    /// If it has no shape.
    pub fn shape(&self, tile: usize) -> (usize, usize) {
        assert!(self.configured && self.tiles[tile].rows > 0, "tile {tile} has no shape");
        (self.tiles[tile].rows, self.tiles[tile].row_bytes)
    }

    /// Makes a tile zero, what lies outside of its shape, too: as a load does before it, and `tilezero`.
    pub fn zero(&mut self, tile: usize) {
        let (rows, row_bytes) = self.shape(tile);
        self.tiles[tile] = Tile { rows, row_bytes, lanes: [[0; LANES]; ROWS] };
    }

    /// The lanes of a row of a tile.
    pub fn row(&self, tile: usize, row: usize) -> &[u32] {
        &self.tiles[tile].lanes[row][..self.shape(tile).1 / 4]
    }

    /// The lanes of a row of a tile.
    pub fn row_mut(&mut self, tile: usize, row: usize) -> &mut [u32] {
        let lanes = self.shape(tile).1 / 4;
        &mut self.tiles[tile].lanes[row][..lanes]
    }

    /// `sums += left · right`, where a lane of `left` is a pair of a row's columns, and a row of `right` is such pairs of all
    /// its columns: products of the pairs' first halves and of their second halves are summed apart, and then together.
    /// Denormal numbers are for the caller to flush.
    ///
    /// # Panics
    ///
    /// If their shapes do not fit.
    #[inline(always)]
    pub fn multiply(&mut self, sums: usize, left: usize, right: usize) {
        let [to, a, b] = [sums, left, right].map(|tile| self.shape(tile));
        assert_eq!((to.0, a.1 / 4, to.1), (a.0, b.0, b.1), "rows, pairs and columns of a product");
        assert!(sums != left && left != right && right != sums, "three tiles");
        let (left, right) = (&self.tiles[left].lanes, &self.tiles[right].lanes);
        let mut added = [[0f32; LANES]; ROWS];
        for (added, left) in added.iter_mut().zip(left) {
            let (mut firsts, mut seconds) = ([0f32; LANES], [0f32; LANES]);
            for (&pair, pairs) in left.iter().zip(right) {
                for lane in 0..LANES {
                    // A product of two bf16 is exact in f32.
                    firsts[lane] += first(pair) * first(pairs[lane]);
                    seconds[lane] += second(pair) * second(pairs[lane]);
                }
            }
            for lane in 0..LANES {
                added[lane] = firsts[lane] + seconds[lane];
            }
        }
        for (sums, added) in self.tiles[sums].lanes.iter_mut().zip(&added) {
            for (sum, added) in sums.iter_mut().zip(added) {
                *sum = (f32::from_bits(*sum) + added).to_bits();
            }
        }
    }
}

/// A pair's first half, widened.
#[inline(always)]
fn first(pair: u32) -> f32 {
    f32::from_bits(pair << 16)
}

/// The second bf16 of a pair, widened.
#[inline(always)]
fn second(pair: u32) -> f32 {
    f32::from_bits(pair & 0xffff_0000)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sums of 3 × 2 in tile 0; 3 rows of 4 columns in tile 1; 4 columns of 2 in tile 2.
    fn shaped() -> Tiles {
        let mut shapes = [0; 64];
        shapes[0] = 1;
        for (tile, rows, bytes) in [(0, 3, 8), (1, 3, 8), (2, 2, 8)] {
            (shapes[48 + tile], shapes[16 + 2 * tile]) = (rows, bytes);
        }
        let mut tiles = Tiles::released();
        tiles.configure(&shapes);
        tiles
    }

    fn pair(first: f32, second: f32) -> u32 {
        second.to_bits() & 0xffff_0000 | first.to_bits() >> 16
    }

    #[test]
    fn a_product_adds_to_the_sums() {
        let mut tiles = shaped();
        let left = [[1.0, 2.0, 3.0, 4.0], [0.5, -1.0, 0.0, 2.0], [0.0, 0.0, 0.0, -8.0]];
        let right = [[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]];
        for (row, left) in left.iter().enumerate() {
            tiles.row_mut(0, row).fill(100f32.to_bits());
            tiles.row_mut(1, row).copy_from_slice(&[pair(left[0], left[1]), pair(left[2], left[3])]);
        }
        for k in 0..2 {
            let pairs = [0, 1].map(|n| pair(right[2 * k][n], right[2 * k + 1][n]));
            tiles.row_mut(2, k).copy_from_slice(&pairs);
        }
        tiles.multiply(0, 1, 2);
        let sums: Vec<f32> = (0..3).flat_map(|row| tiles.row(0, row).to_vec()).map(f32::from_bits).collect();
        assert_eq!(sums, [130.0, 400.0, 106.5, 165.0, 68.0, -220.0]);
    }

    #[test]
    fn first_and_second_halves_are_summed_apart() {
        let mut tiles = shaped();
        // One after the other, 2^24 + 1 - 2^24 + 1 would lose the first 1.
        let large = 16_777_216.0;
        tiles.row_mut(1, 0).copy_from_slice(&[pair(large, 1.0), pair(-large, 1.0)]);
        (0..2).for_each(|k| tiles.row_mut(2, k).fill(pair(1.0, 1.0)));
        tiles.multiply(0, 1, 2);
        assert_eq!(tiles.row(0, 0), [2f32.to_bits(); 2]);
    }

    #[test]
    #[should_panic(expected = "tile 3 has no shape")]
    fn a_tile_without_a_shape_is_refused() {
        shaped().zero(3);
    }

    #[test]
    #[should_panic(expected = "rows, pairs and columns of a product")]
    fn shapes_that_do_not_fit_are_refused() {
        shaped().multiply(2, 1, 0);
    }
}
