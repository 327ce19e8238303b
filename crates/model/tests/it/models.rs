//! The models that the tests run over: the published ones, written out, and the small ones of `testdata/models`.

use model::FalconConfig;
use std::path::PathBuf;

/// What the published `config.json` files say of the model.
pub const FALCON_7B: &str = r#"{
    "alibi": false, "apply_residual_connection_post_layernorm": false, "architectures": ["FalconForCausalLM"],
    "bias": false, "bos_token_id": 11, "eos_token_id": 11, "hidden_size": 4544, "layer_norm_epsilon": 1e-05,
    "model_type": "falcon", "multi_query": true, "new_decoder_architecture": false, "num_attention_heads": 71,
    "num_hidden_layers": 32, "parallel_attn": true, "vocab_size": 65024
}"#;
pub const FALCON_40B: &str = r#"{
    "alibi": false, "apply_residual_connection_post_layernorm": false, "bias": false, "eos_token_id": 11,
    "hidden_size": 8192, "layer_norm_epsilon": 1e-05, "model_type": "falcon", "new_decoder_architecture": true,
    "num_attention_heads": 128, "num_hidden_layers": 60, "num_kv_heads": 8, "parallel_attn": true, "vocab_size": 65024
}"#;
pub const FALCON_180B: &str = r#"{
    "alibi": false, "apply_residual_connection_post_layernorm": false, "bias": false, "eos_token_id": 11,
    "hidden_size": 14848, "layer_norm_epsilon": 1e-05, "model_type": "falcon", "multi_query": true,
    "new_decoder_architecture": true, "num_attention_heads": 232, "num_hidden_layers": 80, "num_kv_heads": 8,
    "parallel_attn": true, "vocab_size": 65024
}"#;
pub const FALCON2_11B: &str = r#"{
    "activation": "gelu", "alibi": false, "bias": false, "eos_token_id": 11, "ffn_hidden_size": 16384,
    "hidden_size": 4096, "layer_norm_epsilon": 1e-05, "max_position_embeddings": 8192, "model_type": "falcon",
    "multi_query": true, "new_decoder_architecture": true, "num_attention_heads": 32, "num_hidden_layers": 60,
    "num_kv_heads": 8, "num_ln_in_parallel_attn": 1, "parallel_attn": true, "rope_scaling": null,
    "rope_theta": 500042.0, "tie_word_embeddings": false, "vocab_size": 65024
}"#;
pub const FALCON_RW_1B: &str = r#"{
    "alibi": true, "apply_residual_connection_post_layernorm": false, "bias": true, "eos_token_id": 2,
    "hidden_size": 2048, "layer_norm_epsilon": 1e-05, "model_type": "falcon", "multi_query": false,
    "new_decoder_architecture": false, "num_attention_heads": 32, "num_hidden_layers": 24, "parallel_attn": false,
    "vocab_size": 50304
}"#;

pub fn parse(json: &str) -> FalconConfig {
    FalconConfig::from_json(json.as_bytes()).unwrap()
}

/// A file of `testdata/models`.
pub fn testdata(path: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/models").join(path);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every model, with its name.
pub fn all() -> Vec<(&'static str, FalconConfig)> {
    let published = [
        ("falcon-7b", FALCON_7B),
        ("falcon-40b", FALCON_40B),
        ("falcon-180b", FALCON_180B),
        ("falcon2-11b", FALCON2_11B),
        ("falcon-rw-1b", FALCON_RW_1B),
    ];
    let tiny = ["tiny-falcon-7b", "tiny-falcon-40b", "tiny-falcon-180b", "tiny-falcon-rw", "tiny-falcon2-11b"];
    let published = published.map(|(name, json)| (name, parse(json)));
    let tiny = tiny.map(|name| (name, FalconConfig::from_json(&testdata(&format!("{name}/config.json"))).unwrap()));
    published.into_iter().chain(tiny).collect()
}
