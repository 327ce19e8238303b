//! Every tensor of a checkpoint: its name, its shape, and how it is cut over ranks.

use crate::{FalconConfig, LayerNorms, Partition};
use std::fmt;
use std::ops::Range;

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the checkpoint's own")]
pub enum Role {
    WordEmbeddings,
    InputNorm,
    AttentionNorm,
    MlpNorm,
    PostAttentionNorm,
    QueryKeyValue,
    Dense,
    DenseHTo4h,
    Dense4hToH,
    FinalNorm,
    LmHead,
}

/// The matrix (or scale) of a layer, or its bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Part {
    Weight,
    Bias,
}

/// One tensor of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TensorId {
    /// The decoder layer, or `None` outside of the layers.
    pub layer: Option<usize>,
    /// What it is for.
    pub role: Role,
    /// Weight or bias.
    pub part: Part,
}

impl TensorId {
    /// The embedding table.
    pub const EMBEDDINGS: Self = Self { layer: None, role: Role::WordEmbeddings, part: Part::Weight };
    /// The output projection.
    pub const LM_HEAD: Self = Self { layer: None, role: Role::LmHead, part: Part::Weight };
}

impl fmt::Display for TensorId {
    /// The name under which a Hugging Face checkpoint stores the tensor.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.role != Role::LmHead {
            f.write_str("transformer.")?;
        }
        if let Some(layer) = self.layer {
            write!(f, "h.{layer}.")?;
        }
        let rule = rule(self.role);
        write!(f, "{}.{}", rule.name, if self.part == Part::Weight { "weight" } else { "bias" })
    }
}

/// How a tensor is cut over ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Rows of the query heads that the rank owns and of the KV heads which those read.
    HeadRows,
    /// Columns of the query heads that the rank owns.
    HeadColumns,
    /// Rows of the rank's feed-forward range.
    FfnRows,
    /// Columns of the rank's feed-forward range.
    FfnColumns,
    /// Rows of the rank's vocabulary range.
    VocabRows,
    /// Whole on every rank.
    Replicated,
    /// Whole on rank 0, absent elsewhere: the bias of a product whose parts are summed over ranks.
    FirstRank,
}

struct Rule {
    role: Role,
    name: &'static str,
    weight: Cut,
    bias: Cut,
}

/// THE shard table. Every tensor of every checkpoint is cut by one of its lines.
const RULES: [Rule; 11] = {
    use Cut::{FfnColumns, FfnRows, FirstRank, HeadColumns, HeadRows, Replicated, VocabRows};
    const fn row(role: Role, name: &'static str, weight: Cut, bias: Cut) -> Rule {
        Rule { role, name, weight, bias }
    }
    [
        row(Role::WordEmbeddings, "word_embeddings", VocabRows, VocabRows),
        row(Role::InputNorm, "input_layernorm", Replicated, Replicated),
        row(Role::AttentionNorm, "ln_attn", Replicated, Replicated),
        row(Role::MlpNorm, "ln_mlp", Replicated, Replicated),
        row(Role::PostAttentionNorm, "post_attention_layernorm", Replicated, Replicated),
        row(Role::QueryKeyValue, "self_attention.query_key_value", HeadRows, HeadRows),
        row(Role::Dense, "self_attention.dense", HeadColumns, FirstRank),
        row(Role::DenseHTo4h, "mlp.dense_h_to_4h", FfnRows, FfnRows),
        row(Role::Dense4hToH, "mlp.dense_4h_to_h", FfnColumns, FirstRank),
        row(Role::FinalNorm, "ln_f", Replicated, Replicated),
        row(Role::LmHead, "lm_head", VocabRows, VocabRows),
    ]
};

fn rule(role: Role) -> &'static Rule {
    RULES.iter().find(|rule| rule.role == role).expect("RULES has a line for every role")
}

/// A tensor that a checkpoint of the model must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Which tensor.
    pub id: TensorId,
    /// Rows and columns; a vector has rows only.
    pub shape: Vec<usize>,
    /// How it is cut.
    pub cut: Cut,
}

impl TensorSpec {
    /// Elements of the whole tensor.
    #[must_use]
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Every tensor of the model, in the order in which a forward pass meets them.
#[must_use]
pub fn tensors(config: &FalconConfig) -> Vec<TensorSpec> {
    let mut specs = vec![spec(config, None, Role::WordEmbeddings, Part::Weight)];
    for layer in 0..config.layers {
        for &(role, has_bias) in &layer_roles(config) {
            specs.push(spec(config, Some(layer), role, Part::Weight));
            if has_bias {
                specs.push(spec(config, Some(layer), role, Part::Bias));
            }
        }
    }
    specs.push(spec(config, None, Role::FinalNorm, Part::Weight));
    specs.push(spec(config, None, Role::FinalNorm, Part::Bias));
    if !config.tied {
        specs.push(spec(config, None, Role::LmHead, Part::Weight));
    }
    specs
}

/// The roles of one layer, and whether each has a bias.
fn layer_roles(config: &FalconConfig) -> Vec<(Role, bool)> {
    let norms: &[Role] = match config.norms {
        LayerNorms::ParallelOne => &[Role::InputNorm],
        LayerNorms::ParallelTwo => &[Role::AttentionNorm, Role::MlpNorm],
        LayerNorms::Sequential => &[Role::InputNorm, Role::PostAttentionNorm],
    };
    let products = [Role::QueryKeyValue, Role::Dense, Role::DenseHTo4h, Role::Dense4hToH];
    let norms = norms.iter().map(|&role| (role, true));
    norms.chain(products.map(|role| (role, config.bias))).collect()
}

pub(crate) fn spec(config: &FalconConfig, layer: Option<usize>, role: Role, part: Part) -> TensorSpec {
    let heads = config.q_heads * config.head_dim;
    let shape = match role {
        Role::WordEmbeddings | Role::LmHead => vec![config.vocab, config.hidden],
        Role::QueryKeyValue => vec![heads + 2 * config.kv_heads * config.head_dim, config.hidden],
        Role::Dense => vec![config.hidden, heads],
        Role::DenseHTo4h => vec![config.ffn, config.hidden],
        Role::Dense4hToH => vec![config.hidden, config.ffn],
        Role::InputNorm | Role::AttentionNorm | Role::MlpNorm | Role::PostAttentionNorm | Role::FinalNorm => {
            vec![config.hidden]
        }
    };
    let rule = rule(role);
    TensorSpec {
        id: TensorId { layer, role, part },
        // A bias has one element for each row of its weight.
        shape: if part == Part::Weight { shape } else { shape[..1].to_vec() },
        cut: if part == Part::Weight { rule.weight } else { rule.bias },
    }
}

/// One rank's part of a tensor: some ranges of its rows, one range of its columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardTensor {
    /// Which tensor.
    pub id: TensorId,
    /// Columns of the whole tensor; 1 for a vector.
    pub columns_total: usize,
    /// The rank's rows of the whole tensor, in local order.
    pub rows: Vec<Range<usize>>,
    /// The rank's columns of the whole tensor.
    pub columns: Range<usize>,
}

impl ShardTensor {
    /// Rows of the local matrix.
    #[must_use]
    pub fn local_rows(&self) -> usize {
        self.rows.iter().map(ExactSizeIterator::len).sum()
    }

    /// Columns of the local matrix.
    #[must_use]
    pub fn local_columns(&self) -> usize {
        self.columns.len()
    }

    /// Elements of the local matrix.
    #[must_use]
    pub fn local_elements(&self) -> usize {
        self.local_rows() * self.local_columns()
    }
}

/// The tensors that a rank holds, each with its part. A tensor of which the rank owns nothing is not listed.
#[must_use]
pub fn shard(config: &FalconConfig, partition: &Partition) -> Vec<ShardTensor> {
    let parts = tensors(config).into_iter().map(|spec| {
        let rows = spec.shape[0];
        let columns_total = spec.shape.get(1).copied().unwrap_or(1);
        let (rows, columns) = match spec.cut {
            Cut::HeadRows => (head_rows(config, partition), 0..columns_total),
            Cut::HeadColumns => (vec![0..rows], scale(&partition.q_heads, config.head_dim)),
            Cut::FfnRows => (vec![partition.ffn.clone()], 0..columns_total),
            Cut::FfnColumns => (vec![0..rows], partition.ffn.clone()),
            Cut::VocabRows => (vec![partition.vocab.clone()], 0..columns_total),
            Cut::Replicated => (vec![0..rows], 0..columns_total),
            Cut::FirstRank => (vec![0..if partition.rank == 0 { rows } else { 0 }], 0..columns_total),
        };
        ShardTensor { id: spec.id, columns_total, rows, columns }
    });
    parts.filter(|tensor| tensor.local_elements() > 0).collect()
}

/// Rows of the fused query-key-value weight, `[kv head][query heads, key, value]`: adjacent ranges are joined, so a cut
/// at the edges of groups is one range, and a cut inside a group gives two (its query rows; its key and value rows).
fn head_rows(config: &FalconConfig, partition: &Partition) -> Vec<Range<usize>> {
    let per_kv = config.queries_per_kv();
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for group in &partition.groups {
        let first_head = group.kv_head * (per_kv + 2);
        let queries = first_head + group.q_first - group.kv_head * per_kv;
        let key = first_head + per_kv;
        for heads in [queries..queries + group.q_count, key..key + 2] {
            let rows = scale(&heads, config.head_dim);
            match ranges.last_mut() {
                Some(last) if last.end == rows.start => last.end = rows.end,
                _ => ranges.push(rows),
            }
        }
    }
    ranges
}

fn scale(range: &Range<usize>, by: usize) -> Range<usize> {
    range.start * by..range.end * by
}
