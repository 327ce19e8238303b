//! `rotate_store.cu`: rotates queries and keys of a step, and stores keys and values.

use super::attention::Attention;
use crate::device::{Device, Kernel};
use backend::BackendError;

pub(crate) struct RotateStore([Kernel; 3]);

impl RotateStore {
    pub(crate) fn load(device: &Device) -> Result<Self, BackendError> {
        let ptx = include_str!("../../../../kernels/ptx/rotate_store.ptx");
        device.kernels(ptx, ["rotate_store_16", "rotate_store_32", "rotate_store_64"]).map(Self)
    }

    /// For all rows of the step.
    pub(crate) fn launch(&self, device: &Device, attention: &Attention<'_>) -> Result<(), BackendError> {
        let grid = [attention.step.rows, attention.tile_count, 1];
        // SAFETY: `args` checks shapes and alignment; block tables were checked when the step was uploaded.
        unsafe { device.launch(&self.0[attention.width], grid, 128, 0, &attention.args()) }
    }
}
