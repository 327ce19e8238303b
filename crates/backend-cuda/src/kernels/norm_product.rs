//! `norm_product.cu`: products over the normalized rows of the residual stream, for up to 16 rows.

use super::norm::Moments;
use super::product::{Output, Plan, ProductArgs, ProductPart, ProductScratch, RowCount, Weight};
use crate::device::{Device, Kernel};
use crate::limits::NORM_PRODUCT_ROWS_MAX;
use crate::memory::View;
use backend::BackendError;

/// A product under its norm.
pub(crate) struct NormedPart {
    pub(crate) weight: Weight,
    pub(crate) scale: View<f32>,
    pub(crate) shift: View<f32>,
    pub(crate) y: Output,
}

/// The compiled instances of the kernel.
pub(crate) struct NormProduct([Kernel; 2]);

impl NormProduct {
    pub(crate) fn load(device: &Device) -> Result<Self, BackendError> {
        let ptx = include_str!("../../../../kernels/ptx/norm_product.ptx");
        device.kernels(ptx, ["norm_product_8", "norm_product_16"]).map(Self)
    }

    /// `yᵢ = normᵢ(x)·Wᵢᵀ + bᵢ`, for one product or two. With `gather` (0: none), row r of the product is of row `gather[r]`
    /// of x.
    pub(crate) fn launch(
        &self,
        device: &Device,
        plan: (&Plan, &ProductScratch<'_>),
        x: (&View<f32>, Moments, u64),
        parts: &[NormedPart],
        eps: f32,
        rows: RowCount,
    ) -> Result<(), BackendError> {
        let ((plan, scratch), (x, moments, gather)) = (plan, x);
        assert!(
            (1..=2).contains(&parts.len()) && rows.most <= NORM_PRODUCT_ROWS_MAX,
            "one product or two of up to 16 rows"
        );
        x.check("the inputs of a product", 8);
        moments.check(x.columns);
        let mut part = [ProductPart::default(); 2];
        for (part, of) in part.iter_mut().zip(parts) {
            assert_eq!(x.columns, of.weight.weight.columns, "columns of a product's inputs");
            *part = ProductPart::new(&of.weight, x.at, x.stride, &of.y).normalized(&of.scale, &of.shift);
        }
        let args = ProductArgs::new(part, rows, plan, scratch).normalizing(gather, moments.at, moments.stride, eps);
        // SAFETY: as for `product.rs`; moments are as many as the columns need, and the rows to gather are rows of x, which
        // the caller asserts.
        unsafe { device.launch(&self.0[plan.instance], plan.grid, 128, plan.shared_bytes, &args) }
    }
}
