//! The keys of `config.json`: what is used, what is refused unless it changes nothing, and what never changes a result.

use crate::ConfigError;
use crate::fields::Fields;
use serde_json::{Value, json};

/// Keys by which a config says what the model computes, read in [`crate::FalconConfig::from_json`].
const USED: [&str; 26] = [
    "alibi",
    "bias",
    "eos_token_id",
    "ffn_hidden_size",
    "head_dim",
    "hidden_size",
    "layer_norm_epsilon",
    "max_position_embeddings",
    "model_type",
    "multi_query",
    "n_embed",
    "n_head",
    "n_head_kv",
    "n_layer",
    "new_decoder_architecture",
    "num_attention_heads",
    "num_hidden_layers",
    "num_kv_heads",
    "num_ln_in_parallel_attn",
    "original_max_position_embeddings",
    "parallel_attn",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
    "vocab_size",
];

/// Keys that would change what a model computes, with the values that change nothing: others are refused. `null` is absent.
fn supported_values() -> Vec<(&'static str, Vec<Value>)> {
    vec![
        // Two names of the same function, x·Φ(x).
        ("activation", vec![json!("gelu"), json!("gelu_python")]),
        ("add_cross_attention", vec![json!(false)]),
        ("apply_residual_connection_post_layernorm", vec![json!(false)]),
        // transformers makes its KV cache from these three, whatever the model's own code does.
        ("attention_chunk_size", vec![]),
        ("is_encoder_decoder", vec![json!(false)]),
        ("layer_types", vec![]),
        ("partial_rotary_factor", vec![json!(1.0)]),
        ("pruned_heads", vec![json!({}), json!([])]),
        ("rotary", vec![json!(true), json!(false)]),
        ("sliding_window", vec![]),
    ]
}

/// Keys that say nothing about what a forward pass computes. `quantization_config` is held against the weights' types.
const HARMLESS: [&str; 61] = [
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "chunk_size_feed_forward",
    "compression_config",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "is_decoder",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "problem_type",
    "quantization_config",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "typical_p",
    "use_bfloat16",
    "use_cache",
];

/// # Errors
///
/// The first key, by name, whose value would change what the model computes.
pub(crate) fn refuse_what_changes_the_result(fields: &Fields) -> Result<(), ConfigError> {
    supported_values().iter().try_for_each(|(name, supported)| fields.one_of(name, supported))
}

pub(crate) fn is_known(name: &str) -> bool {
    USED.contains(&name) || HARMLESS.contains(&name) || supported_values().iter().any(|(refused, _)| *refused == name)
}
