//! Activations and weights.

use crate::kernels::amx::PackedWeights;
use crate::kernels::memory::Buffer;
use backend::{BackendError, Tensor};
use bytemuck::Pod;
use half::bf16;

/// Activations.
pub struct CpuTensor {
    pub(crate) values: Buffer<f32>,
    rows: usize,
    rows_max: usize,
    columns: usize,
}

impl CpuTensor {
    pub(crate) fn new(rows_max: usize, columns: usize) -> Result<Self, BackendError> {
        Ok(Self { values: buffer("a tensor", rows_max * columns)?, rows: 0, rows_max, columns })
    }

    /// The rows in use.
    pub(crate) fn used(&self) -> &[f32] {
        &self.values[..self.rows * self.columns]
    }

    /// The rows in use.
    pub(crate) fn used_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.rows * self.columns]
    }

    /// A row in use.
    pub(crate) fn row(&self, row: usize) -> &[f32] {
        &self.used()[row * self.columns..][..self.columns]
    }

    /// A row in use.
    pub(crate) fn row_mut(&mut self, row: usize) -> &mut [f32] {
        let columns = self.columns;
        &mut self.used_mut()[row * columns..][..columns]
    }
}

impl Tensor for CpuTensor {
    fn rows(&self) -> usize {
        self.rows
    }

    fn columns(&self) -> usize {
        self.columns
    }

    fn set_rows(&mut self, rows: usize) {
        assert!(rows <= self.rows_max, "{rows} rows in a tensor of {}", self.rows_max);
        self.rows = rows;
    }
}

/// A weight.
pub struct CpuMatrix {
    pub(crate) weight: Weight,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

/// The form in which the instruction set wants it.
pub(crate) enum Weight {
    /// Row-major.
    Rows(Buffer<bf16>),
    /// Packed for the matrix unit.
    Tiles(PackedWeights),
}

impl CpuMatrix {
    /// Widens the elements of a row.
    pub(crate) fn read_row(&self, row: usize, out: &mut [f32]) {
        match &self.weight {
            Weight::Rows(values) => {
                let values = &values[row * self.columns..][..self.columns];
                out.iter_mut().zip(values).for_each(|(out, w)| *out = w.to_f32());
            }
            Weight::Tiles(weights) => weights.read_row(row, out),
        }
    }
}

/// Zeros, or the error that names what they were for.
pub(crate) fn buffer<T: Pod>(what: &'static str, len: usize) -> Result<Buffer<T>, BackendError> {
    Buffer::zeroed(len).ok_or(BackendError::OutOfMemory { what, bytes: len.saturating_mul(size_of::<T>()) })
}
