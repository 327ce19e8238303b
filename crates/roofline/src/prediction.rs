//! The times that `peregrine plan --predict` prints.

use crate::assumptions::{Assumption, PLAIN_READ_PERCENT, assumptions};
use crate::{Batch, Kernels, Timing};
use model::FalconConfig;
use serde::Serialize;
use sizing::Node;

/// Positions that sequences have when they decode.
const CONTEXT: u64 = 256;
const DECODE_BATCHES: [u64; 8] = [1, 8, 16, 32, 64, 128, 256, 512];
const PROMPTS: [u64; 3] = [128, 1024, 2047];
/// The lower of the two parts of the plain read for which times are given.
const LOWER_READ_PERCENT: f64 = 90.0;

/// How long steps would take. Nothing of it was measured.
#[derive(Debug, Serialize)]
pub struct Prediction {
    /// How much to believe of it.
    pub note: &'static str,
    /// Of the plain read, what products reach in `predicted_ms`.
    pub read_percent: f64,
    /// The same, for `predicted_at_lower_ms`.
    pub lower_read_percent: f64,
    /// Positions that sequences have when they decode.
    pub context: u64,
    /// Steps in which each sequence gains a token.
    pub decode: Vec<StepPrediction>,
    /// Prompts, run at once: times to the first token. `size` is in tokens.
    pub prompts: Vec<StepPrediction>,
    /// What a step of one sequence consists of.
    pub launches: Vec<LaunchPrediction>,
    /// What all this rests on.
    pub assumptions: Vec<Assumption>,
}

/// How long a step would take, in milliseconds.
#[derive(Debug, Serialize)]
pub struct StepPrediction {
    /// Sequences, or tokens of a prompt.
    pub size: u64,
    /// Below which no kernels come.
    pub floor_ms: f64,
    /// With this program's kernels.
    pub predicted_ms: f64,
    /// With products that reach less of the plain read.
    pub predicted_at_lower_ms: f64,
    /// With kernels as other programs have them.
    pub stock_ms: f64,
}

/// A launch of a step of one sequence.
#[derive(Debug, Serialize)]
pub struct LaunchPrediction {
    /// Its name in `kernels/README.md`.
    pub name: &'static str,
    /// How often a step has it.
    pub times: u64,
    /// Bytes of the device's memory that one must move.
    pub bytes: u64,
    /// Bytes that one must move between devices, or sum up over them.
    pub link_bytes: u64,
    /// Below which one does not come, in microseconds.
    pub floor_us: f64,
    /// What one would take, in microseconds.
    pub predicted_us: f64,
}

const NOTE: &str = "computed, not measured on this node; what has been measured is in docs/gpu.md";

impl Prediction {
    /// For a model over `world` GPUs of `node`, whose KV cache has room for `kv_tokens` tokens.
    #[must_use]
    pub fn new(config: &FalconConfig, node: &'static Node, world: usize, kv_tokens: usize) -> Self {
        let own = Timing::new(config, node, world, Kernels::Own);
        let lower = own.clone().at_read_percent(LOWER_READ_PERCENT);
        let stock = Timing::new(config, node, world, Kernels::Stock);
        let step = |size: u64, batch: &Batch| StepPrediction {
            size,
            floor_ms: rounded(own.floor_seconds(batch) * 1e3),
            predicted_ms: rounded(own.step_seconds(batch) * 1e3),
            predicted_at_lower_ms: rounded(lower.step_seconds(batch) * 1e3),
            stock_ms: rounded(stock.step_seconds(batch) * 1e3),
        };
        let fits = |tokens: u64| tokens <= kv_tokens as u64;
        let batches = DECODE_BATCHES.into_iter().filter(|batch| fits(batch * (CONTEXT + 1)));
        let prompts = PROMPTS.into_iter().filter(|&tokens| tokens < config.max_positions as u64 && fits(tokens + 1));
        let launches = own.launches(&Batch::decode(1, CONTEXT)).into_iter().map(|launch| LaunchPrediction {
            name: launch.name,
            times: launch.times,
            bytes: launch.bytes,
            link_bytes: launch.link_bytes,
            floor_us: rounded(own.launch_floor_seconds(&launch) * 1e6),
            predicted_us: rounded(own.launch_seconds(&launch) * 1e6),
        });
        Self {
            note: NOTE,
            read_percent: PLAIN_READ_PERCENT,
            lower_read_percent: LOWER_READ_PERCENT,
            context: CONTEXT,
            decode: batches.map(|size| step(size, &Batch::decode(size, CONTEXT))).collect(),
            prompts: prompts.map(|size| step(size, &Batch::prompt(size))).collect(),
            launches: launches.collect(),
            assumptions: assumptions(node.gpu),
        }
    }
}

/// To thousandths: more would be an appearance of knowledge.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
