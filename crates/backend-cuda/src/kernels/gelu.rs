//! `gelu.cu`: the exact GELU, from f32 to bf16.

use super::product::RowCount;
use crate::device::{Device, Kernel};
use crate::memory::View;
use backend::BackendError;
use half::bf16;

#[repr(C)]
#[derive(Clone, Copy)]
struct GeluArgs {
    x: u64,
    y: u64,
    rows: u64,
    columns: i32,
    x_stride: i32,
    y_stride: i32,
    reserved: i32,
}
const _: () = assert!(size_of::<GeluArgs>() == 40);

pub(crate) struct Gelu(Kernel);

impl Gelu {
    pub(crate) fn load(device: &Device) -> Result<Self, BackendError> {
        let [gelu] = device.kernels(include_str!("../../../../kernels/ptx/gelu.ptx"), ["gelu_bf16"])?;
        Ok(Self(gelu))
    }

    /// `y = gelu(x)`, over the whole strides.
    pub(crate) fn launch(
        &self,
        device: &Device,
        x: &View<f32>,
        y: &View<bf16>,
        rows: RowCount,
    ) -> Result<(), BackendError> {
        x.check("the input of gelu", 4);
        y.check("the output of gelu", 4);
        assert!(x.stride == y.stride && x.rows >= rows.most && y.rows >= rows.most, "shapes of gelu");
        let args = GeluArgs {
            x: x.at,
            y: y.at,
            rows: rows.at,
            columns: x.stride as i32,
            x_stride: x.stride as i32,
            y_stride: y.stride as i32,
            reserved: 0,
        };
        // SAFETY: shapes and alignment were checked above.
        unsafe { device.launch(&self.0, [x.stride.div_ceil(1024), rows.most, 1], 256, 0, &args) }
    }
}
