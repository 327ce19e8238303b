//! What the predictions rest on, each with its source. A guess is called one.

use serde::Serialize;
use sizing::{A100_TABLE, Gpu, Link, PCIE_GBPS, PCIE_LATENCY_US};

/// Of the plain read, what products of few rows reach beside what each takes for any size.
pub const PLAIN_READ_PERCENT: f64 = 98.0;
/// What products of few rows take for any size: ③ 6.4 to 7.6 µs on an H100, ①, which normalizes, 9.8 to 12.4.
pub(crate) const PRODUCT_US: f64 = 7.0;
pub(crate) const NORM_PRODUCT_US: f64 = 10.0;
/// Of the plain read, what cuBLAS reaches with large matrices.
pub(crate) const LIBRARY_READ_PERCENT: f64 = 98.0;
/// How memory and tensor cores overlap: (mᵖ + tᵖ)^(1/p).
pub(crate) const OVERLAP_POWER: f64 = 2.2;
pub(crate) const LAUNCH_US: f64 = 1.5;
pub(crate) const LIBRARY_LAUNCH_US: f64 = 8.0;
pub(crate) const ATTENTION_US: f64 = 6.0;
/// Of the plain read, what attention of single rows reaches.
pub(crate) const ATTENTION_READ_PERCENT: f64 = 66.0;
/// Of the tensor cores' peak, what attention of many rows reaches at most.
pub(crate) const PREFILL_ATTENTION_PERCENT: f64 = 45.0;
/// GFLOP/s of own attention for each multiprocessor and GHz, which instructions bound: an H100 came to 149 to 168 TFLOP/s with
/// a prompt of 2,047, and to 46 to 52 with 256 sequences as long, at 1.83 GHz.
pub(crate) const PREFILL_ATTENTION_GFLOPS: f64 = 640.0;
pub(crate) const ATTENTION_GFLOPS: f64 = 200.0;
pub(crate) const LINK_WAITS_US: f64 = 4.0;
pub(crate) const CHOICE_ROW_US: f64 = 18.0;
pub(crate) const STOCK_ATTENTION_US: f64 = 12.0;
pub(crate) const STOCK_GLUE_US: f64 = 14.0;
pub(crate) const STOCK_CHOICE_US: f64 = 60.0;

/// Something that a prediction rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Assumption {
    /// What is assumed.
    pub what: String,
    /// Where the value comes from.
    pub source: &'static str,
}

const H100_RUN: &str = "what an H100 took (docs/gpu.md); by multiprocessors and clock for other GPUs";

/// TFLOP/s of own attention that comes to `gflops` for each multiprocessor and GHz.
pub(crate) fn own_attention_tflops(gpu: &Gpu, gflops: f64) -> f64 {
    (gflops * gpu.multiprocessors as f64 * gpu.ghz / 1e3).min(gpu.tensor_tflops * PREFILL_ATTENTION_PERCENT / 100.0)
}

/// All that a prediction for `gpu` rests on.
#[must_use]
pub fn assumptions(gpu: &Gpu) -> Vec<Assumption> {
    let Gpu { name, spec_gbps, plain_read_gbps, tensor_tflops, tensor_percent, .. } = gpu;
    let mut all = vec![
        (format!("{name} memory: {spec_gbps} GB/s"), "the vendor's specification; floors are at this rate"),
        (format!("plain read: {plain_read_gbps} GB/s"), gpu.plain_read_source),
        (
            format!(
                "own products: {PLAIN_READ_PERCENT} % of the plain read, {PRODUCT_US} µs each, {NORM_PRODUCT_US} with norms"
            ),
            H100_RUN,
        ),
        (format!("tensor cores: {tensor_tflops} TFLOP/s in bf16"), "the vendor's specification"),
        (format!("products: {tensor_percent} % of the tensor cores"), gpu.tensor_percent_source),
        (format!("memory and tensor cores overlap as a {OVERLAP_POWER}-norm"), A100_TABLE),
        (format!("cuBLAS: {LIBRARY_READ_PERCENT} % of the plain read, {LIBRARY_LAUNCH_US} µs a product"), A100_TABLE),
        (format!("a launch within a graph: {LAUNCH_US} µs"), "a guess"),
        (
            format!(
                "attention of single rows: {ATTENTION_US} µs, {ATTENTION_READ_PERCENT} % of the plain read, and {:.0} TFLOP/s",
                own_attention_tflops(gpu, ATTENTION_GFLOPS)
            ),
            H100_RUN,
        ),
        (format!("attention of prompts: {:.0} TFLOP/s", own_attention_tflops(gpu, PREFILL_ATTENTION_GFLOPS)), H100_RUN),
    ];
    all.push(match &gpu.link {
        Link::NvLink { source, .. } => ("all-reduces: measured ones, for as many bytes".to_owned(), *source),
        Link::Pcie => (
            format!("all-reduces: {PCIE_LATENCY_US} µs, and {PCIE_GBPS} GB/s into each GPU"),
            "NVIDIA/nccl issue 1530 (8 bytes over RTX 4090), and a guess",
        ),
    });
    all.extend([
        (format!("logits between ranks: {} GB/s, {LINK_WAITS_US} µs of waits", gpu.link.gbps()), "a guess"),
        (format!("choice of tokens: {CHOICE_ROW_US} µs"), "a guess: six passes over a row of logits in the L2 cache"),
        (
            format!(
                "stock kernels: {STOCK_ATTENTION_US} µs attention, {STOCK_GLUE_US} µs glue a layer, attention of prompts at \
                 {PREFILL_ATTENTION_PERCENT} % of the tensor cores"
            ),
            "vLLM's flash attention on an A100, and guesses",
        ),
        ("nothing between steps, and no clock lowered for power or heat".to_owned(), "a guess"),
    ]);
    all.into_iter().map(|(what, source)| Assumption { what, source }).collect()
}
