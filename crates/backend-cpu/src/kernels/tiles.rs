//! Disjoint tiles of a matrix, for the tasks of a job to write.

use super::pool::Pool;
use std::marker::PhantomData;
use std::ops::Range;

/// How one axis is cut.
#[derive(Clone, Copy)]
pub enum Cuts<'a> {
    /// Into parts of this many, the last one shorter.
    Every(usize),
    /// Between neighbours of this ascending list.
    At(&'a [usize]),
}

impl Cuts<'_> {
    fn parts(self, len: usize) -> usize {
        match self {
            Self::Every(step) => len.div_ceil(step),
            Self::At(cuts) => {
                assert!(cuts.is_sorted() && cuts.last().is_none_or(|&last| last <= len), "cuts {cuts:?} of {len}");
                cuts.len().saturating_sub(1)
            }
        }
    }

    fn part(self, len: usize, part: usize) -> Range<usize> {
        match self {
            Self::Every(step) => part * step..len.min((part + 1) * step),
            Self::At(cuts) => cuts[part]..cuts[part + 1],
        }
    }
}

/// A range in parts of this many, the last one shorter.
pub fn blocks(range: Range<usize>, step: usize) -> impl Iterator<Item = Range<usize>> {
    range.clone().step_by(step).map(move |start| start..range.end.min(start + step))
}

/// A rectangle of a row-major matrix, which only its holder can write.
pub struct Tile<'a, T> {
    /// Of the matrix.
    pub rows: Range<usize>,
    /// Of the matrix.
    pub columns: Range<usize>,
    /// Which of the row cuts' parts.
    pub row_part: usize,
    /// Which of the column cuts' parts.
    pub column_part: usize,
    base: *mut T,
    stride: usize,
    of: PhantomData<&'a mut [T]>,
}

impl<T> Tile<'_, T> {
    /// The tile's part of a row of the matrix.
    #[inline(always)]
    pub fn row(&mut self, row: usize) -> &mut [T] {
        assert!(self.rows.contains(&row), "row {row} of {:?}", self.rows);
        // SAFETY: the cuts made the tile of rows and columns that lie in the matrix, and nobody else has it or a tile that
        // overlaps. The slice borrows the tile, so there is one at a time.
        unsafe {
            let start = self.base.add(row * self.stride + self.columns.start);
            std::slice::from_raw_parts_mut(start, self.columns.len())
        }
    }
}

impl Pool {
    /// Cuts a row-major matrix with rows of `columns` elements into tiles and calls `run` for each, on any thread. Each
    /// thread has its own element of `scratch`.
    ///
    /// # Panics
    ///
    /// If `scratch` is shorter than the pool has threads, or if `run` panics.
    pub fn for_each_tile<T: Send, S: Send>(
        &mut self,
        matrix: &mut [T],
        columns: usize,
        row_cuts: Cuts<'_>,
        column_cuts: Cuts<'_>,
        scratch: &mut [S],
        run: impl Fn(&mut S, Tile<'_, T>) + Sync,
    ) {
        let mut matrices = [CutMatrix::new(matrix, columns, row_cuts, column_cuts)];
        self.for_each_tile_of(&mut matrices, scratch, |scratch, _, tile| run(scratch, tile));
    }

    /// As [`Pool::for_each_tile`], for the tiles of several matrices in one job; `run` is told the number of the matrix.
    ///
    /// # Panics
    ///
    /// As [`Pool::for_each_tile`].
    pub fn for_each_tile_of<T: Send, S: Send>(
        &mut self,
        matrices: &mut [CutMatrix<'_, T>],
        scratch: &mut [S],
        run: impl Fn(&mut S, usize, Tile<'_, T>) + Sync,
    ) {
        assert!(scratch.len() >= self.threads(), "scratch for each thread");
        let scratch = Shared(scratch.as_mut_ptr(), PhantomData);
        let matrices = &*matrices;
        self.run(matrices.iter().map(|matrix| matrix.tiles).sum(), &|thread, task| {
            let (mut number, mut tile) = (0, task);
            while tile >= matrices[number].tiles {
                tile -= matrices[number].tiles;
                number += 1;
            }
            // SAFETY: each task has a tile of its own, and the matrices are borrowed until all tasks are done.
            let tile = unsafe { matrices[number].tile(tile) };
            // SAFETY: `thread` is below the number of threads and so within `scratch`, and a thread runs one task at a
            // time, so nobody else has this element.
            let scratch = unsafe { &mut *scratch.get().add(thread) };
            run(scratch, number, tile);
        });
    }

    /// As [`Pool::for_each_tile`], without scratch.
    pub fn for_each_plain_tile<T: Send>(
        &mut self,
        matrix: &mut [T],
        columns: usize,
        row_cuts: Cuts<'_>,
        column_cuts: Cuts<'_>,
        run: impl Fn(Tile<'_, T>) + Sync,
    ) {
        let mut scratch = vec![(); self.threads()];
        self.for_each_tile(matrix, columns, row_cuts, column_cuts, &mut scratch, |(), tile| run(tile));
    }

    /// Cuts `values` into parts of `len` elements, the last one shorter, and calls `run` for each with its range, on any
    /// thread.
    ///
    /// # Panics
    ///
    /// If `run` panics.
    pub fn for_each_part<T: Send>(
        &mut self,
        values: &mut [T],
        len: usize,
        run: impl Fn(Range<usize>, &mut [T]) + Sync,
    ) {
        let columns = values.len();
        self.for_each_plain_tile(values, columns, Cuts::Every(1), Cuts::Every(len), |mut tile| {
            run(tile.columns.clone(), tile.row(0));
        });
    }
}

/// A row-major matrix, cut into tiles.
pub struct CutMatrix<'a, T> {
    base: Shared<'a, T>,
    rows: usize,
    columns: usize,
    row_cuts: Cuts<'a>,
    column_cuts: Cuts<'a>,
    column_parts: usize,
    tiles: usize,
}

impl<'a, T> CutMatrix<'a, T> {
    /// A matrix with rows of `columns` elements.
    pub fn new(matrix: &'a mut [T], columns: usize, row_cuts: Cuts<'a>, column_cuts: Cuts<'a>) -> Self {
        let rows = matrix.len().checked_div(columns).unwrap_or(0);
        let base = Shared(matrix.as_mut_ptr(), PhantomData);
        let column_parts = column_cuts.parts(columns);
        let tiles = if matrix.is_empty() { 0 } else { row_cuts.parts(rows) * column_parts };
        Self { base, rows, columns, row_cuts, column_cuts, column_parts, tiles }
    }

    /// # Safety
    ///
    /// Nobody else has this tile, as long as it is used.
    unsafe fn tile(&self, tile: usize) -> Tile<'_, T> {
        let (row_part, column_part) = (tile / self.column_parts, tile % self.column_parts);
        Tile {
            rows: self.row_cuts.part(self.rows, row_part),
            columns: self.column_cuts.part(self.columns, column_part),
            row_part,
            column_part,
            base: self.base.get(),
            stride: self.columns,
            of: PhantomData,
        }
    }
}

/// A pointer to what is borrowed for the tasks of a job, which share it.
struct Shared<'a, T>(*mut T, PhantomData<&'a mut [T]>);

impl<T> Shared<'_, T> {
    fn get(&self) -> *mut T {
        self.0
    }
}

// SAFETY: what is behind the pointer goes to one thread at a time (see its two uses), and is `Send`.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_what_the_cuts_say() {
        let mut pool = Pool::new(3, 0).unwrap();
        let mut matrix = vec![0; 7 * 11];
        pool.for_each_plain_tile(&mut matrix, 11, Cuts::Every(3), Cuts::At(&[0, 4, 4, 10]), |mut tile| {
            for row in tile.rows.clone() {
                let parts = 10 * tile.row_part + tile.column_part + 1;
                tile.row(row).iter_mut().for_each(|x| *x += parts);
            }
        });
        for (i, x) in matrix.into_iter().enumerate() {
            let (row, column) = (i / 11, i % 11);
            let column_part = [0, 2][usize::from(column >= 4)];
            assert_eq!(
                x,
                if column == 10 { 0 } else { 10 * (row / 3) + column_part + 1 },
                "row {row}, column {column}"
            );
        }
    }
}
