//! `prefill_attention.cu`: attention of sequences with many rows in a step.

use super::attention::{Attention, WIDTHS};
use crate::device::{Device, Kernel};
use backend::BackendError;

/// Rows of a sequence that an item stands for.
pub(crate) const ITEM_ROWS: usize = 4;

pub(crate) struct PrefillAttention([Kernel; 3]);

impl PrefillAttention {
    pub(crate) fn load(device: &Device) -> Result<Self, BackendError> {
        let ptx = include_str!("../../../../kernels/ptx/prefill_attention.ptx");
        device.kernels(ptx, ["prefill_attention_16", "prefill_attention_32", "prefill_attention_64"]).map(Self)
    }

    /// For the step's prefill items; `rotate_store.rs` comes before.
    pub(crate) fn launch(&self, device: &Device, attention: &Attention<'_>) -> Result<(), BackendError> {
        let grid = [attention.tile_count, attention.step.prefill_items, 1];
        let shared_bytes = 768 * WIDTHS[attention.width];
        // SAFETY: `args` checks shapes and alignment; items were made from the step's own sequences.
        unsafe { device.launch(&self.0[attention.width], grid, 256, shared_bytes, &attention.args()) }
    }
}
