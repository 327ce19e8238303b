//! Small models, for tests of what is allocated.

use model::{AttentionLayout, FalconConfig, LayerNorms, Positions, Rope};

/// The variants of the architecture, each with a name, of about 10 MB to 30 MB: so large that what allocators round up to is
/// below a percent. The first has heads of 24 elements, which fill no whole vectors.
#[must_use]
pub fn small_models() -> [(&'static str, FalconConfig); 3] {
    let grouped = FalconConfig {
        hidden: 1_024,
        layers: 3,
        q_heads: 16,
        kv_heads: 4,
        head_dim: 64,
        ffn: 4_096,
        vocab: 8_011,
        max_positions: 2_048,
        norm_eps: 1e-5,
        norms: LayerNorms::ParallelTwo,
        attention: AttentionLayout::Grouped,
        positions: Positions::Rotary(Rope::plain(10_000.0)),
        bias: false,
        tied: true,
        eos: Vec::new(),
    };
    let multi_query = FalconConfig {
        hidden: 712,
        q_heads: 11,
        kv_heads: 1,
        head_dim: 24,
        ffn: 2_848,
        norms: LayerNorms::ParallelOne,
        attention: AttentionLayout::MultiQuery,
        ..grouped.clone()
    };
    let multi_head = FalconConfig {
        hidden: 512,
        q_heads: 8,
        kv_heads: 8,
        ffn: 2_048,
        norms: LayerNorms::Sequential,
        attention: AttentionLayout::MultiHead,
        positions: Positions::Alibi,
        bias: true,
        tied: false,
        ..grouped.clone()
    };
    [("multi-query", multi_query), ("grouped", grouped), ("multi-head, with biases and ALiBi", multi_head)]
}
