//! The kernels: each file is named as its source in `kernels/`, and checks shapes, types and alignment before a launch.

use crate::device::Device;
use backend::BackendError;

pub(crate) mod all_reduce;
pub(crate) mod attention;
pub(crate) mod embed;
pub(crate) mod gather;
pub(crate) mod gelu;
pub(crate) mod norm;
pub(crate) mod norm_product;
pub(crate) mod plain_read;
pub(crate) mod prefill_attention;
pub(crate) mod product;
pub(crate) mod rotate_store;
pub(crate) mod sample;

/// All of them, loaded.
pub(crate) struct Kernels {
    pub(crate) all_reduce: all_reduce::AllReduce,
    pub(crate) attention: attention::AttentionKernels,
    pub(crate) embed: embed::Embed,
    pub(crate) gather: gather::Gather,
    pub(crate) gelu: gelu::Gelu,
    pub(crate) norm: norm::Norm,
    pub(crate) norm_product: norm_product::NormProduct,
    pub(crate) prefill_attention: prefill_attention::PrefillAttention,
    pub(crate) product: product::Product,
    pub(crate) rotate_store: rotate_store::RotateStore,
    pub(crate) sample: sample::SampleKernel,
}

impl Kernels {
    /// Loads the PTX that is built into the program; the driver compiles it for the device.
    pub(crate) fn load(device: &Device) -> Result<Self, BackendError> {
        Ok(Self {
            all_reduce: all_reduce::AllReduce::load(device)?,
            attention: attention::AttentionKernels::load(device)?,
            embed: embed::Embed::load(device)?,
            gather: gather::Gather::load(device)?,
            gelu: gelu::Gelu::load(device)?,
            norm: norm::Norm::load(device)?,
            norm_product: norm_product::NormProduct::load(device)?,
            prefill_attention: prefill_attention::PrefillAttention::load(device)?,
            product: product::Product::load(device)?,
            rotate_store: rotate_store::RotateStore::load(device)?,
            sample: sample::SampleKernel::load(device)?,
        })
    }
}
