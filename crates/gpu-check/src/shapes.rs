//! What is measured: one rank's part of each published model, as a model of its own.

use anyhow::{Context, Result};
use model::{AttentionLayout, FalconConfig, Partition};
use sizing::Published;

/// A part's name, the published model, and over how many ranks it is cut.
pub const SHAPES: [(&str, &str, usize); 3] = [
    ("180b-tp8", "huggingface-llm-falcon-180b-bf16", 8),
    ("40b-tp4", "huggingface-llm-falcon-40b-bf16", 4),
    ("7b", "huggingface-llm-falcon-7b-bf16", 1),
];
/// The part of a tiny run.
pub const TINY: &str = "tiny";

/// A shape, and what is run with it.
pub struct Shape {
    /// One rank's part, as if it were a model. Its sums have no other ranks to wait for.
    pub config: FalconConfig,
    /// Rows of a step that decodes.
    pub batches: Vec<u64>,
    /// Rows of a prompt.
    pub prompt: u64,
    /// Positions of a sequence when kernels are measured.
    pub context: u64,
    /// Positions of a sequence when whole ranks are.
    pub rank_context: u64,
    /// Steps that are timed.
    pub steps: u64,
    /// Bytes that a plain read is measured with.
    pub plain_read_bytes: usize,
    /// Bytes of weights, and of keys and values, over which measured launches go by turns: many times any L2 cache.
    pub working_set_bytes: u64,
    /// How often a launch is timed at least.
    pub launches: usize,
}

impl Shape {
    /// The shape with this name.
    pub fn named(name: &str) -> Result<Self> {
        if name == TINY {
            return Ok(Self::tiny());
        }
        let (_, id, world) = SHAPES.iter().find(|(known, ..)| *known == name).context("there is no such shape")?;
        let whole = Published::find(id).context("the model is not published")?.config();
        Ok(Self {
            config: one_rank(&whole, *world),
            batches: vec![1, 8, 64, 256],
            prompt: 2047,
            context: 2047,
            rank_context: 256,
            steps: 64,
            plain_read_bytes: 2 << 30,
            working_set_bytes: 1 << 30,
            launches: 20,
        })
    }

    fn tiny() -> Self {
        let seven = Published::find(SHAPES[2].1).expect("7B is published").config();
        let config = FalconConfig { hidden: 256, layers: 2, q_heads: 3, ffn: 512, vocab: 300, ..seven };
        Self {
            config,
            batches: vec![1, 3, 20],
            prompt: 70,
            context: 40,
            rank_context: 20,
            steps: 3,
            plain_read_bytes: 1 << 20,
            working_set_bytes: 0,
            launches: 1,
        }
    }
}

/// What the first of `world` ranks has of a model, as a model of one rank.
fn one_rank(whole: &FalconConfig, world: usize) -> FalconConfig {
    let Partition { q_heads, kv_heads, ffn, vocab, .. } = Partition::new(whole, 0, world);
    let attention = if kv_heads.len() == 1 { AttentionLayout::MultiQuery } else { whole.attention };
    FalconConfig {
        q_heads: q_heads.len(),
        kv_heads: kv_heads.len(),
        ffn: ffn.len(),
        vocab: vocab.len(),
        attention,
        ..whole.clone()
    }
}
