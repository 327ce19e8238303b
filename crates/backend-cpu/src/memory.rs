//! Activations and weights.

use crate::Isa;
use crate::kernels::amx::{Packed, PackedWeights, Shape};
use crate::kernels::linear::{RowSegment, Rows};
use crate::kernels::memory::Buffer;
use backend::{BackendError, MappedTensor, MappedWeight, Tensor};
use bytemuck::Pod;
use half::bf16;
use std::ops::Range;
use std::sync::Arc;

/// Activations: row-major f32.
pub struct CpuTensor {
    values: Buffer<f32>,
    /// The rows in use are packed for a product, which they are for nothing else; see [`Packed`].
    is_packed: bool,
    rows: usize,
    rows_max: usize,
    columns: usize,
}

impl CpuTensor {
    /// With room for packed rows, too, where the instruction set packs them.
    pub(crate) fn new(rows_max: usize, columns: usize, isa: Isa) -> Result<Self, BackendError> {
        let len = Self::len(rows_max, columns, isa);
        Ok(Self {
            values: buffer("a tensor", len.unwrap_or(usize::MAX))?,
            is_packed: false,
            rows: 0,
            rows_max,
            columns,
        })
    }

    /// Elements of all rows; `None` if they cannot be counted.
    pub(crate) fn len(rows_max: usize, columns: usize, isa: Isa) -> Option<usize> {
        match isa {
            Isa::Amx => Shape { rows: rows_max, columns }.len(),
            Isa::Plain | Isa::Avx2 | Isa::Avx512 => rows_max.checked_mul(columns),
        }
    }

    /// The rows in use.
    pub(crate) fn used(&self) -> &[f32] {
        assert!(!self.is_packed, "rows of a tensor that is packed");
        &self.values[..self.rows * self.columns]
    }

    /// The rows in use.
    pub(crate) fn used_mut(&mut self) -> &mut [f32] {
        assert!(!self.is_packed, "rows of a tensor that is packed");
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

    /// The rows in use, if they are packed.
    pub(crate) fn packed(&self) -> Option<Packed<'_>> {
        let shape = Shape { rows: self.rows, columns: self.columns };
        self.is_packed.then(|| Packed { shape, pairs: bytemuck::cast_slice(&self.values) })
    }

    /// From here on the rows in use are packed: their shape, and the chunks to fill.
    pub(crate) fn pack(&mut self) -> (Shape, &mut [f32]) {
        self.is_packed = true;
        let shape = Shape { rows: self.rows, columns: self.columns };
        (shape, &mut self.values[..shape.chunks() * shape.chunk_len()])
    }

    /// From here on they are rows, which have to be written.
    pub(crate) fn unpack(&mut self) {
        self.is_packed = false;
    }

    /// The elements of the rows in use, in either form.
    pub(crate) fn to_vec(&self) -> Vec<f32> {
        let Some(packed) = self.packed() else { return self.used().to_vec() };
        let mut values = vec![0.0; self.rows * self.columns];
        for (row, values) in values.chunks_exact_mut(self.columns.max(1)).enumerate() {
            packed.read_row(row, values);
        }
        values
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
        self.unpack();
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
    Rows(RowMajor),
    /// Packed for the matrix unit.
    Tiles(PackedWeights),
}

/// Rows that lie somewhere.
pub(crate) struct RowMajor {
    pub(crate) memory: Memory,
    pub(crate) segments: Vec<RowSegment>,
}

/// Where the elements of a weight lie.
pub(crate) enum Memory {
    /// In memory of their own.
    Own(Buffer<bf16>),
    /// In a file.
    Mapped(Arc<dyn MappedTensor>),
}

impl RowMajor {
    /// Rows of `columns` elements in memory of their own, one behind the other.
    pub(crate) fn own(values: Buffer<bf16>, columns: usize) -> Self {
        Self { memory: Memory::Own(values), segments: vec![RowSegment { first_row: 0, start: 0, stride: columns }] }
    }

    /// A part of a mapped tensor.
    pub(crate) fn mapped(weight: &MappedWeight) -> Self {
        let stride = weight.columns_total;
        let segment = |first_row: &mut usize, rows: &Range<usize>| {
            let segment =
                RowSegment { first_row: *first_row, start: rows.start * stride + weight.columns.start, stride };
            *first_row += rows.len();
            Some(segment)
        };
        let segments = weight.rows.iter().filter(|rows| !rows.is_empty()).scan(0, segment).collect();
        Self { memory: Memory::Mapped(Arc::clone(&weight.tensor)), segments }
    }

    pub(crate) fn rows(&self, columns: usize) -> Rows<'_> {
        let elements = match &self.memory {
            Memory::Own(values) => values,
            Memory::Mapped(tensor) => tensor.elements(),
        };
        Rows { elements, segments: &self.segments, columns }
    }
}

impl CpuMatrix {
    /// Widens the elements of a row.
    pub(crate) fn read_row(&self, row: usize, out: &mut [f32]) {
        match &self.weight {
            Weight::Rows(rows) => {
                let values = rows.rows(self.columns).row(row);
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
