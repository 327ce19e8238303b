//! `sample.cu`: from whole rows of logits to tokens.

use crate::device::{Device, Kernel};
use crate::memory::View;
use backend::BackendError;
use bytemuck::{Pod, Zeroable};

/// The most tokens that a row can report.
pub(crate) const TOP_N_MAX: usize = 32;

/// Flags of [`SampleRow`].
pub(crate) const DRAW: u32 = 1;
pub(crate) const MASKED: u32 = 2;
pub(crate) const WATERMARK: u32 = 4;
pub(crate) const SCORE: u32 = 8;
pub(crate) const APPEND: u32 = 16;
pub(crate) const EXTRAS: u32 = 32;

/// One row of logits: what is wanted.
#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct SampleRow {
    pub(crate) row: u32,
    pub(crate) slot: u32,
    pub(crate) position: u32,
    pub(crate) flags: u32,
    pub(crate) seed: [u32; 2],
    pub(crate) top_k: u32,
    pub(crate) top_n: u32,
    pub(crate) temperature: f32,
    pub(crate) top_p: f32,
    pub(crate) typical_p: f32,
    pub(crate) repetition_penalty: f32,
    pub(crate) relative_frequency_penalty: f32,
    pub(crate) token: u32,
    pub(crate) extras: u32,
    pub(crate) reserved: u32,
}

/// What few rows want.
#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
pub(crate) struct SampleExtras {
    pub(crate) min_p: f32,
    pub(crate) presence_penalty: f32,
    pub(crate) frequency_penalty: f32,
    pub(crate) prompt: u32,
    pub(crate) biases: u32,
    pub(crate) reserved: [u32; 3],
}

/// What is added to a logit.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct TokenBias {
    pub(crate) id: u32,
    pub(crate) bias: f32,
}

/// A token of a result.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct ScoredToken {
    pub(crate) id: u32,
    pub(crate) logprob: f32,
    pub(crate) model_logprob: f32,
}

/// One row: what was chosen.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(crate) struct SampleResult {
    pub(crate) token: ScoredToken,
    pub(crate) top: u32,
    pub(crate) tops: [ScoredToken; TOP_N_MAX],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct SampleArgs {
    step: u64,
    rows: u64,
    logits: u64,
    masks: u64,
    extras: u64,
    history: u64,
    scores: u64,
    counts: u64,
    results: u64,
    vocab: i32,
    mask_words: i32,
    history_stride: i32,
    reserved: i32,
}
const _: () = assert!(size_of::<SampleRow>() == 64 && size_of::<SampleResult>() == 400);
const _: () = assert!(size_of::<SampleExtras>() == 32 && size_of::<TokenBias>() == 8);
const _: () = assert!(size_of::<SampleArgs>() == 88);

/// Where a launch finds what it needs.
pub(crate) struct SampleAt {
    /// `StepInputs`, of which `samples` counts.
    pub(crate) step: u64,
    pub(crate) rows: u64,
    pub(crate) masks: u64,
    pub(crate) mask_words: usize,
    pub(crate) extras: u64,
    pub(crate) history: u64,
    pub(crate) history_stride: usize,
    /// (rows, vocabulary) words each.
    pub(crate) scores: u64,
    /// Zeros between launches.
    pub(crate) counts: u64,
    pub(crate) results: u64,
}

pub(crate) struct SampleKernel(Kernel);

impl SampleKernel {
    pub(crate) fn load(device: &Device) -> Result<Self, BackendError> {
        let [sample] = device.kernels(include_str!("../../../../kernels/ptx/sample.ptx"), ["sample"])?;
        Ok(Self(sample))
    }

    /// Uses `rows` rows of whole logits.
    pub(crate) fn launch(
        &self,
        device: &Device,
        at: &SampleAt,
        logits: &View<f32>,
        rows: usize,
    ) -> Result<(), BackendError> {
        assert!(logits.stride == logits.columns && logits.rows >= rows, "shape of the logits");
        assert!(at.history_stride <= 1 << 16, "counts of tokens have 16 bits");
        let args = SampleArgs {
            step: at.step,
            rows: at.rows,
            logits: logits.at,
            masks: at.masks,
            extras: at.extras,
            history: at.history,
            scores: at.scores,
            counts: at.counts,
            results: at.results,
            vocab: logits.columns as i32,
            mask_words: at.mask_words as i32,
            history_stride: at.history_stride as i32,
            reserved: 0,
        };
        // SAFETY: the logits were checked above; the rest was laid out for as many rows and this vocabulary by the caller.
        unsafe { device.launch(&self.0, [rows, 1, 1], 1024, 0, &args) }
    }
}
