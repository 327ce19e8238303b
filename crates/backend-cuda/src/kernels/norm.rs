//! `norm.cu`: rows of the residual stream, normalized to bf16.

use super::product::RowCount;
use crate::device::{Device, Kernel};
use crate::memory::View;
use backend::BackendError;
use half::bf16;

/// Columns of a row that share a mean and an M2.
pub(crate) const MOMENT_COLUMNS: usize = 128;

/// The moments of rows: pairs of mean and M2.
#[derive(Clone, Copy)]
pub(crate) struct Moments {
    pub(crate) at: u64,
    /// Pairs from one row to the next; 0 where all rows have the same.
    pub(crate) stride: usize,
}

impl Moments {
    /// Asserts that there are as many as rows of `columns` have.
    pub(crate) fn check(self, columns: usize) {
        assert!(self.stride == 0 || self.stride >= columns.div_ceil(MOMENT_COLUMNS), "moments of {columns} columns");
    }
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct NormPart {
    scale: u64,
    shift: u64,
    y: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct NormArgs {
    part: [NormPart; 2],
    x: u64,
    rows: u64,
    gather: u64,
    moments: u64,
    eps: f32,
    columns: i32,
    x_stride: i32,
    y_stride: i32,
    moment_stride: i32,
    reserved: i32,
}
const _: () = assert!(size_of::<NormArgs>() == 104);

/// A norm's scale, its shift, and where it goes.
pub(crate) type NormTo = (View<f32>, View<f32>, View<bf16>);

pub(crate) struct Norm(Kernel);

impl Norm {
    pub(crate) fn load(device: &Device) -> Result<Self, BackendError> {
        let [norm] = device.kernels(include_str!("../../../../kernels/ptx/norm.ptx"), ["norm"])?;
        Ok(Self(norm))
    }

    /// `yᵢ = normᵢ(x)` for one norm or two; `gather` as in `norm_product.rs`.
    pub(crate) fn launch(
        &self,
        device: &Device,
        x: (&View<f32>, Moments, u64),
        norms: &[NormTo],
        eps: f32,
        rows: RowCount,
    ) -> Result<(), BackendError> {
        let (x, moments, gather) = x;
        assert!((1..=2).contains(&norms.len()), "one norm or two");
        assert!(x.columns.is_multiple_of(4), "{} columns: expected a multiple of 4", x.columns);
        x.check("the input of a norm", 4);
        moments.check(x.columns);
        let mut part = [NormPart::default(); 2];
        for (part, (scale, shift, y)) in part.iter_mut().zip(norms) {
            y.check("the output of a norm", 4);
            scale.check("a norm's scale", 1);
            shift.check("a norm's shift", 1);
            assert!(scale.columns >= x.columns && shift.columns >= x.columns, "columns of a norm");
            assert!(y.columns >= x.columns && y.stride == norms[0].2.stride, "columns of a norm's output");
            assert!(y.rows >= rows.most, "rows of a norm's output");
            *part = NormPart { scale: scale.at, shift: shift.at, y: y.at };
        }
        let args = NormArgs {
            part,
            x: x.at,
            rows: rows.at,
            gather,
            moments: moments.at,
            eps,
            columns: x.columns as i32,
            x_stride: x.stride as i32,
            y_stride: norms[0].2.stride as i32,
            moment_stride: moments.stride as i32,
            reserved: 0,
        };
        // SAFETY: shapes, strides and alignment were checked above; rows of x that are gathered are the caller's to assert.
        unsafe { device.launch(&self.0, [rows.most, x.columns.div_ceil(1024), 1], 256, 0, &args) }
    }
}
