//! Published figures of Falcon-180B on 8 A100-80GB, and the targets.

use model::FalconConfig;
use sizing::Node;

/// A shape of requests, with what is known and wanted of its output tokens per second for Falcon-180B on a p4de.24xlarge.
#[derive(Clone, Copy, Debug)]
pub struct ShapeFigures {
    /// Tokens of a prompt.
    pub input: usize,
    /// Tokens of an answer.
    pub output: usize,
    /// TensorRT-LLM 0.11, of this shape or of the one that is named.
    pub published: Option<(f64, &'static str)>,
    /// What this program is to reach.
    pub target: f64,
}

/// The shapes for which there are targets: none is longer than what Falcon was made for.
pub const SHAPES: [ShapeFigures; 4] = [
    ShapeFigures { input: 128, output: 128, published: Some((2171.8, "128/128")), target: 2400.0 },
    ShapeFigures { input: 128, output: 1920, published: Some((2657.9, "128/2048")), target: 3000.0 },
    ShapeFigures { input: 1920, output: 128, published: Some((238.6, "2048/128")), target: 245.0 },
    ShapeFigures { input: 1024, output: 1024, published: None, target: 1900.0 },
];

/// Whether these are figures of this model on this node.
pub fn concern(config: &FalconConfig, node: &Node, world: usize) -> bool {
    (config.layers, config.hidden, node.name, world) == (80, 14_848, "p4de.24xlarge", 8)
}

/// A published figure that is not a throughput of many requests.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    /// Whose, and of what.
    pub what: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// The published value, in `unit`.
    pub value: f64,
    /// Requests that give it.
    pub check: Check,
}

/// What is simulated to be held against a figure.
#[derive(Clone, Copy, Debug)]
pub enum Check {
    /// Output tokens per second of 2,000 requests at once.
    Throughput(usize, usize),
    /// Milliseconds from a prompt of so many tokens to its first token.
    FirstToken(usize),
    /// Seconds of one request of so many tokens in and out.
    Latency(usize, usize),
    /// Milliseconds between tokens of one request of so many tokens in and out.
    PerToken(usize, usize),
}

/// All of them, for kernels as those programs have them.
#[must_use]
pub fn published() -> Vec<Published> {
    let throughput =
        |value, input, output, what| Published { what, unit: "tok/s", value, check: Check::Throughput(input, output) };
    let other = |what, unit, value, check| Published { what, unit, value, check };
    vec![
        throughput(2171.8, 128, 128, "TensorRT-LLM 0.11, 128/128"),
        throughput(2657.9, 128, 2048, "TensorRT-LLM 0.11, 128/2048"),
        throughput(238.6, 2048, 128, "TensorRT-LLM 0.11, 2048/128"),
        throughput(1392.3, 2048, 2048, "TensorRT-LLM 0.11, 2048/2048"),
        other("TensorRT-LLM 0.9, first token of 128", "ms", 76.5, Check::FirstToken(128)),
        other("TensorRT-LLM 0.9, first token of 2048", "ms", 456.0, Check::FirstToken(2048)),
        other("DeepSpeed-FastGen, one client, 1200/60", "s", 2.95, Check::Latency(1200, 60)),
        other("DeepSpeed-FastGen, one client, 1200/128", "s", 5.8, Check::Latency(1200, 128)),
        other("JumpStart (TGI 0.9.3), batch 1", "ms/token", 45.0, Check::PerToken(128, 128)),
    ]
}
