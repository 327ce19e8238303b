//! Activations, weights and vectors on the device.

use crate::kernels::norm::{MOMENT_COLUMNS, Moments};
use crate::kernels::product::{RowCount, Weight};
use crate::memory::{Arena, Buffer, View};
use backend::{BackendError, Tensor};
use half::bf16;
use std::cell::Cell;

/// Elements of a row are a multiple of this, so that rows of bf16 are a multiple of 16 bytes.
pub(crate) const PAD: usize = 8;

/// Activations: (rows, columns), as f32, as bf16, or both, and the moments of its rows.
///
/// Residual stream, partial sums and logits are f32; what a product reads is bf16. Rows are padded to multiples of 8
/// columns, and what stands there is zeros.
pub struct CudaTensor {
    memory: Buffer,
    /// Where the f32 are, if not in `memory`: in a buffer that the peers read.
    alias: Option<u64>,
    /// How many rows are in use, for kernels.
    count: RowCount,
    /// The numbers 0, 1, 2 … on the device.
    counts: RowCount,
    rows_max: usize,
    columns: usize,
    stride: usize,
    form: Form,
    /// Whether the bf16 are those of the f32.
    rounded: Cell<bool>,
    /// Whether the moments are those of the f32.
    has_moments: Cell<bool>,
}

/// What a tensor holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    F32,
    Bf16,
}

impl CudaTensor {
    /// `counts` are the numbers of rows on the device, see [`exactly`].
    pub(crate) fn new(arena: &Arena, rows_max: usize, columns: usize, counts: RowCount) -> Result<Self, BackendError> {
        let stride = columns.next_multiple_of(PAD);
        Ok(Self {
            memory: arena.buffer("activations", Self::bytes(rows_max, columns))?,
            alias: None,
            count: exactly(counts, 0),
            counts,
            rows_max,
            columns,
            stride,
            form: Form::F32,
            rounded: Cell::new(false),
            has_moments: Cell::new(false),
        })
    }

    /// Bytes of `rows_max` rows: their f32, their bf16, and their moments.
    pub(crate) fn bytes(rows_max: usize, columns: usize) -> usize {
        let stride = columns.next_multiple_of(PAD);
        let moments = moment_stride(stride) * 2 * size_of::<f32>();
        rows_max * (stride * (size_of::<f32>() + size_of::<bf16>()) + moments)
    }

    /// The most rows that it can hold.
    pub(crate) fn rows_max(&self) -> usize {
        self.rows_max
    }

    /// How many rows are in use.
    pub(crate) fn count(&self) -> RowCount {
        self.count
    }

    /// Sets how many rows are in use.
    pub(crate) fn set_count(&mut self, count: RowCount) {
        assert!(count.most <= self.rows_max, "{} rows in a tensor of {}", count.most, self.rows_max);
        if count.most > self.count.most {
            self.rounded.set(false);
            self.has_moments.set(false);
        }
        self.count = count;
    }

    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// The tensor is about to be written, as `form`.
    pub(crate) fn becomes(&mut self, form: Form) {
        self.form = form;
        self.alias = None;
        self.rounded.set(false);
        self.has_moments.set(false);
    }

    /// The tensor is about to be written as f32, to memory at `at` that is not its own.
    pub(crate) fn becomes_alias(&mut self, at: u64) {
        self.becomes(Form::F32);
        self.alias = Some(at);
    }

    /// The address of its f32, if in memory that is not its own.
    pub(crate) fn alias(&self) -> Option<u64> {
        self.alias
    }

    /// As f32.
    pub(crate) fn f32(&self) -> View<f32> {
        View::new(self.alias.unwrap_or(self.memory.at()), self.rows_max, self.columns, self.stride)
    }

    /// As bf16, the padding counted as columns: as products read it.
    pub(crate) fn bf16(&self) -> View<bf16> {
        let behind = self.rows_max * self.stride * size_of::<f32>();
        View::new(self.memory.at() + behind as u64, self.rows_max, self.stride, self.stride)
    }

    /// A second bf16 copy, in the place of the f32, where those are not needed.
    pub(crate) fn second_bf16(&self) -> View<bf16> {
        View::new(self.memory.at(), self.rows_max, self.stride, self.stride)
    }

    pub(crate) fn moments(&self) -> Moments {
        let behind = self.rows_max * self.stride * (size_of::<f32>() + size_of::<bf16>());
        Moments { at: self.memory.at() + behind as u64, stride: moment_stride(self.stride) }
    }

    pub(crate) fn rounded(&self) -> &Cell<bool> {
        &self.rounded
    }

    pub(crate) fn has_moments(&self) -> &Cell<bool> {
        &self.has_moments
    }
}

/// Pairs of moments from one row to the next: their address stays a multiple of 16 bytes.
fn moment_stride(stride: usize) -> usize {
    stride.div_ceil(MOMENT_COLUMNS).next_multiple_of(2)
}

impl Tensor for CudaTensor {
    fn rows(&self) -> usize {
        self.count.most
    }

    fn columns(&self) -> usize {
        self.columns
    }

    fn set_rows(&mut self, rows: usize) {
        self.set_count(exactly(self.counts, rows));
    }
}

/// `rows` rows are in use, of the numbers at `counts`.
pub(crate) fn exactly(counts: RowCount, rows: usize) -> RowCount {
    assert!(rows <= counts.most, "{rows} rows, at most {} are possible", counts.most);
    RowCount { at: counts.at + (rows * size_of::<u32>()) as u64, most: rows }
}

/// A weight: bf16, row-major, rows and columns padded with zeros to multiples of 8.
pub struct CudaMatrix {
    pub(crate) memory: Buffer,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl CudaMatrix {
    /// Elements, with padding.
    pub(crate) fn elements(rows: usize, columns: usize) -> usize {
        rows.next_multiple_of(PAD) * columns.next_multiple_of(PAD)
    }

    /// With its padding.
    pub(crate) fn view(&self) -> View<bf16> {
        let (rows, columns) = (self.rows.next_multiple_of(PAD), self.columns.next_multiple_of(PAD));
        View::new(self.memory.at(), rows, columns, columns)
    }

    /// As a product takes it.
    pub(crate) fn weight(&self, bias: Option<&CudaVector>) -> Weight {
        Weight { weight: self.view(), bias: bias.map(CudaVector::view) }
    }
}

/// A bias, or a norm's scale: f32, padded with zeros to a multiple of 8.
pub struct CudaVector {
    pub(crate) memory: Buffer,
    pub(crate) len: usize,
}

impl CudaVector {
    /// Bytes of `len` elements.
    pub(crate) fn bytes(len: usize) -> usize {
        len.next_multiple_of(PAD) * size_of::<f32>()
    }

    pub(crate) fn view(&self) -> View<f32> {
        let padded = self.len.next_multiple_of(PAD);
        View::new(self.memory.at(), 1, padded, padded)
    }
}
