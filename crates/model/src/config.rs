//! `config.json`, in both key spellings and all variants of Falcon.

use crate::fields::Fields;
use crate::keys;
use crate::rope::Rope;
use serde_json::Value;

/// A Falcon model's shape and variant.
#[derive(Clone, Debug, PartialEq)]
pub struct FalconConfig {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub q_heads: usize,
    /// Key and value heads; divides `q_heads`.
    pub kv_heads: usize,
    /// Width of a head, `hidden / q_heads`.
    pub head_dim: usize,
    /// Width of the feed-forward part.
    pub ffn: usize,
    /// Rows of the embedding table.
    pub vocab: usize,
    /// The longest sequence that the model was made for, in tokens.
    pub max_positions: usize,
    /// Epsilon of every layer norm.
    pub norm_eps: f32,
    /// Which layer norms a layer has, and how attention and feed-forward part follow each other.
    pub norms: LayerNorms,
    /// How rows of the fused query-key-value weight are ordered.
    pub attention: AttentionLayout,
    /// How positions enter attention.
    pub positions: Positions,
    /// Linear layers have biases.
    pub bias: bool,
    /// The output projection is the embedding table.
    pub tied: bool,
    /// Tokens that end a text, as far as this file names them.
    pub eos: Vec<u32>,
}

/// The layer norms of a layer, and with them its data flow (`A` attention with its projection, `M` the feed-forward
/// part).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerNorms {
    /// `x += A(input_layernorm(x)) + M(input_layernorm(x))`: Falcon-7B and Falcon2-11B.
    ParallelOne,
    /// `x += A(ln_attn(x)) + M(ln_mlp(x))`: Falcon-40B and 180B.
    ParallelTwo,
    /// `x += A(input_layernorm(x)); x += M(post_attention_layernorm(x))`: the RW models.
    Sequential,
}

/// Rows of the fused query-key-value weight: always `[kv head][its query heads, key, value]`, in three families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionLayout {
    /// One KV head for all query heads.
    MultiQuery,
    /// Several KV heads, each with its group of query heads.
    Grouped,
    /// A KV head for each query head.
    MultiHead,
}

/// How positions enter attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Positions {
    /// Rotary embeddings over the two halves of a head.
    Rotary(Rope),
    /// Linear biases added to the attention scores.
    Alibi,
}

/// Why a `config.json` is not a Falcon model that can be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum ConfigError {
    /// Not JSON.
    #[error("not valid JSON: {0}")]
    Json(serde_json::Error),
    /// JSON, but no object.
    #[error("expected a JSON object, found {found}")]
    NotAnObject { found: &'static str },
    /// A field without a default is not there.
    #[error("field `{field}` is missing")]
    Missing { field: String },
    /// A field's value is out of range or of another type.
    #[error("field `{field}`: expected {expected}, found {found}")]
    Invalid { field: String, expected: &'static str, found: String },
    /// A field asks for a variant that no published Falcon model has.
    #[error("field `{field}`: only {supported} is supported, found {found}")]
    Unsupported {
        field: String,
        /// The value that is supported.
        supported: String,
        found: String,
    },
    /// Two fields do not fit together.
    #[error("field `{field}` ({value}) must divide `{of}` ({total})")]
    Indivisible { field: String, value: usize, of: &'static str, total: usize },
}

/// Far beyond every real model; each layer has tensors to be listed.
const LAYERS_MAX: usize = 4096;

const Q_HEADS: [&str; 2] = ["num_attention_heads", "n_head"];
const LAYERS: [&str; 2] = ["num_hidden_layers", "n_layer"];
const KV_HEADS: [&str; 2] = ["num_kv_heads", "n_head_kv"];

impl FalconConfig {
    /// Reads the text of a `config.json`. Fields that are absent take the defaults of
    /// `configuration_falcon.py`, in the older key spelling, too.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], naming the field.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        let fields = Fields::parse(json)?;
        let model_type = fields.text("model_type")?.ok_or_else(|| fields.missing("model_type"))?;
        if !["falcon", "RefinedWeb", "RefinedWebModel"].contains(&model_type) {
            let found = Value::from(model_type);
            return Err(fields.invalid("model_type", "\"falcon\", \"RefinedWeb\" or \"RefinedWebModel\"", &found));
        }
        keys::refuse_what_changes_the_result(&fields)?;

        // RefinedWeb is the older name of the grouped architecture, from before the flag was there.
        let grouped = fields.flag("new_decoder_architecture")?.unwrap_or(model_type == "RefinedWeb");
        // transformers takes the older key where both are there.
        let hidden = fields.size(&["n_embed"])?.map_or_else(|| fields.required_size(&["hidden_size"]), Ok)?;
        let layers = fields.required_size(&LAYERS)?;
        if layers > LAYERS_MAX {
            return Err(fields.invalid(LAYERS[0], "a whole number from 1 to 4096", &Value::from(layers)));
        }
        let q_heads = fields.required_size(&Q_HEADS)?;
        divides(Q_HEADS[0], q_heads, "hidden_size", hidden)?;
        let (attention, kv_heads) = attention(&fields, grouped, q_heads)?;
        fields.only("head_dim", &Value::from(hidden / q_heads))?;
        let max_positions = fields.size(&["max_position_embeddings"])?.unwrap_or(2048);
        let positions = positions(&fields, hidden / q_heads, max_positions)?;
        let vocab = fields.size(&["vocab_size"])?.unwrap_or(65_024);
        Ok(Self {
            hidden,
            layers,
            q_heads,
            kv_heads,
            head_dim: hidden / q_heads,
            ffn: fields.size(&["ffn_hidden_size"])?.unwrap_or(4 * hidden),
            vocab,
            max_positions,
            norm_eps: fields.positive_float("layer_norm_epsilon")?.unwrap_or(1e-5) as f32,
            norms: norms(&fields, grouped)?,
            attention,
            positions,
            bias: fields.flag("bias")?.unwrap_or(false),
            tied: fields.flag("tie_word_embeddings")?.unwrap_or(true),
            eos: eos(&fields, vocab)?,
        })
    }

    /// The keys of a `config.json` that this program does not know, sorted. None of those that transformers gives a
    /// meaning for Falcon is among them: those are used, known to be harmless, or refused.
    #[must_use]
    pub fn unknown_keys(json: &[u8]) -> Vec<String> {
        let fields = Fields::parse(json).ok();
        let mut unknown: Vec<_> =
            fields.iter().flat_map(Fields::names).filter(|name| !keys::is_known(name)).map(str::to_owned).collect();
        unknown.sort_unstable();
        unknown
    }

    /// The method by which a `config.json` says that its checkpoint's weights were quantized, such as `gptq`.
    #[must_use]
    pub fn quantization_method(json: &[u8]) -> Option<String> {
        let fields = Fields::parse(json).ok()?;
        let quantization = ["quantization_config", "compression_config"];
        let quantization = quantization.iter().find_map(|name| fields.object(name).ok().flatten())?;
        let method = quantization.text("quant_method").ok().flatten();
        // The first configs of bitsandbytes do not name it.
        Some(method.unwrap_or("bitsandbytes").to_owned())
    }

    /// Query heads that share one KV head.
    #[must_use]
    pub fn queries_per_kv(&self) -> usize {
        self.q_heads / self.kv_heads
    }

    /// All parameters of the model, biases and norms included.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        crate::tensors(self).iter().map(|tensor| tensor.elements() as u64).sum()
    }
}

/// The ends of a text: none if `eos_token_id` is null or an empty list; if it is absent 11, FalconConfig's default, where
/// the model has that token.
fn eos(fields: &Fields, vocab: usize) -> Result<Vec<u32>, ConfigError> {
    let default = (!fields.has("eos_token_id") && vocab > 11).then_some(11);
    Ok(fields.token_ids("eos_token_id")?.unwrap_or_else(|| default.into_iter().collect()))
}

fn attention(fields: &Fields, grouped: bool, q_heads: usize) -> Result<(AttentionLayout, usize), ConfigError> {
    if grouped {
        // Without the grouped architecture the field means nothing, whatever it says.
        let kv_heads = fields.size(&KV_HEADS)?.unwrap_or(q_heads);
        divides(KV_HEADS[0], kv_heads, Q_HEADS[0], q_heads)?;
        Ok((AttentionLayout::Grouped, kv_heads))
    } else if fields.flag("multi_query")?.unwrap_or(true) {
        Ok((AttentionLayout::MultiQuery, 1))
    } else {
        Ok((AttentionLayout::MultiHead, q_heads))
    }
}

fn norms(fields: &Fields, grouped: bool) -> Result<LayerNorms, ConfigError> {
    let norms = fields.size(&["num_ln_in_parallel_attn"])?;
    let other = |norms| fields.invalid("num_ln_in_parallel_attn", "1 or 2", &Value::from(norms));
    if grouped {
        fields.only("parallel_attn", &Value::from(true))?;
        return match norms {
            None | Some(2) => Ok(LayerNorms::ParallelTwo),
            Some(1) => Ok(LayerNorms::ParallelOne),
            Some(norms) => Err(other(norms)),
        };
    }
    match norms {
        _ if !fields.flag("parallel_attn")?.unwrap_or(true) => Ok(LayerNorms::Sequential),
        None | Some(1) => Ok(LayerNorms::ParallelOne),
        Some(2) => Err(fields.unsupported(
            "num_ln_in_parallel_attn",
            "1 (as `new_decoder_architecture` is not true)",
            &Value::from(2),
        )),
        Some(norms) => Err(other(norms)),
    }
}

fn positions(fields: &Fields, head_dim: usize, max_positions: usize) -> Result<Positions, ConfigError> {
    let alibi = fields.flag("alibi")?.unwrap_or(false);
    fields.only("rotary", &Value::from(!alibi))?;
    if alibi {
        return Ok(Positions::Alibi);
    }
    divides("2 (rotary halves)", 2, "head size", head_dim)?;
    Ok(Positions::Rotary(Rope::read(fields, head_dim, max_positions)?))
}

fn divides(field: &str, value: usize, of: &'static str, total: usize) -> Result<(), ConfigError> {
    let field = field.to_owned();
    if total.is_multiple_of(value) { Ok(()) } else { Err(ConfigError::Indivisible { field, value, of, total }) }
}
