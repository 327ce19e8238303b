use crate::models::{FALCON_7B, FALCON_40B, FALCON_180B, FALCON_RW_1B, FALCON2_11B, parse, testdata};
use model::{AttentionLayout, ConfigError, FalconConfig, LayerNorms, Partition, Positions, Rope, RopeScaling};
use serde_json::{Value, json};

#[test]
fn published_configs_are_read_in_full() {
    let falcon_7b = FalconConfig {
        hidden: 4544,
        layers: 32,
        q_heads: 71,
        kv_heads: 1,
        head_dim: 64,
        ffn: 18_176,
        vocab: 65_024,
        max_positions: 2048,
        norm_eps: 1e-5,
        norms: LayerNorms::ParallelOne,
        attention: AttentionLayout::MultiQuery,
        positions: Positions::Rotary(Rope::plain(10_000.0)),
        bias: false,
        tied: true,
        eos: vec![11],
    };
    let grouped = FalconConfig {
        kv_heads: 8,
        norms: LayerNorms::ParallelTwo,
        attention: AttentionLayout::Grouped,
        ..falcon_7b.clone()
    };
    let falcon_40b = FalconConfig { hidden: 8192, layers: 60, q_heads: 128, ffn: 32_768, ..grouped.clone() };
    let falcon_180b = FalconConfig { hidden: 14_848, layers: 80, q_heads: 232, ffn: 59_392, ..grouped.clone() };
    let falcon2_11b = FalconConfig {
        hidden: 4096,
        layers: 60,
        q_heads: 32,
        head_dim: 128,
        ffn: 16_384,
        max_positions: 8192,
        norms: LayerNorms::ParallelOne,
        positions: Positions::Rotary(Rope::plain(500_042.0)),
        tied: false,
        ..grouped
    };
    let falcon_rw_1b = FalconConfig {
        hidden: 2048,
        layers: 24,
        q_heads: 32,
        kv_heads: 32,
        ffn: 8192,
        vocab: 50_304,
        norms: LayerNorms::Sequential,
        attention: AttentionLayout::MultiHead,
        positions: Positions::Alibi,
        bias: true,
        eos: vec![2],
        ..falcon_7b
    };
    assert_eq!(parse(FALCON_7B), falcon_7b);
    assert_eq!(parse(FALCON_40B), falcon_40b);
    assert_eq!(parse(FALCON_180B), falcon_180b);
    assert_eq!(parse(FALCON2_11B), falcon2_11b);
    assert_eq!(parse(FALCON_RW_1B), falcon_rw_1b);
}

#[test]
fn parameters_are_the_published_counts() {
    assert_eq!(parse(FALCON_7B).parameters(), 6_921_720_704);
    assert_eq!(parse(FALCON_40B).parameters(), 41_303_293_952);
    assert_eq!(parse(FALCON_180B).parameters(), 178_557_088_768);
    assert_eq!(parse(FALCON2_11B).parameters(), 11_102_822_400);
    assert_eq!(parse(FALCON_RW_1B).parameters(), 1_311_625_216);
}

#[test]
fn older_key_spelling_gives_the_same_model() {
    for name in ["tiny-falcon-7b", "tiny-falcon-40b"] {
        let new = FalconConfig::from_json(&testdata(&format!("{name}/config.json"))).unwrap();
        let old = FalconConfig::from_json(&testdata(&format!("{name}/config_legacy.json"))).unwrap();
        assert_eq!(new, old, "{name}");
    }
}

#[test]
fn variants_come_from_fields_and_absent_fields_have_defaults() {
    let least = json!({"model_type": "falcon", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1});
    let with = |fields: Value| read(&edited(&least, &fields)).unwrap();
    let plain = with(json!({}));
    assert_eq!((plain.norms, plain.attention), (LayerNorms::ParallelOne, AttentionLayout::MultiQuery));
    assert_eq!(plain.positions, Positions::Rotary(Rope::plain(10_000.0)));
    assert_eq!((plain.ffn, plain.vocab, plain.max_positions, plain.norm_eps), (256, 65_024, 2048, 1e-5));
    assert_eq!((plain.bias, plain.tied, plain.eos), (false, true, vec![11]));

    // `num_kv_heads` means nothing without the grouped architecture, and null is as good as absent.
    assert_eq!(with(json!({"num_kv_heads": 3, "vocab_size": null})).kv_heads, 1);
    assert_eq!(with(json!({"multi_query": false})).attention, AttentionLayout::MultiHead);
    assert_eq!(with(json!({"parallel_attn": false})).norms, LayerNorms::Sequential);
    let grouped = with(json!({"new_decoder_architecture": true}));
    assert_eq!((grouped.norms, grouped.kv_heads), (LayerNorms::ParallelTwo, 4));
    assert_eq!(with(json!({"model_type": "RefinedWeb", "n_head_kv": 2})).queries_per_kv(), 2);
    assert_eq!(with(json!({"eos_token_id": [11, 12]})).eos, [11, 12]);
    // Unlike absent, null is a statement here, and means the same as an empty list. Nobody has named the default.
    assert!(with(json!({"eos_token_id": null})).eos.is_empty());
    assert!(with(json!({"eos_token_id": []})).eos.is_empty());
    assert!(with(json!({"vocab_size": 11})).eos.is_empty());
    // No rotary embedding, so heads may be of odd width.
    assert_eq!(with(json!({"hidden_size": 20, "alibi": true})).head_dim, 5);
}

#[test]
fn errors_name_the_field_what_was_expected_and_what_was_found() {
    const SIZE: &str = "expected a whole number from 1 to 1048576, found";
    const ID: &str = "field `eos_token_id`: expected a token id or a list of token ids, found";
    let cases = [
        (json!({"model_type": null}), "field `model_type` is missing".to_owned()),
        (json!({"hidden_size": null}), "field `hidden_size` is missing".to_owned()),
        (json!({"num_attention_heads": null}), "field `num_attention_heads` is missing".to_owned()),
        (json!({"num_hidden_layers": null}), "field `num_hidden_layers` is missing".to_owned()),
        (
            json!({"model_type": "llama"}),
            r#"field `model_type`: expected "falcon", "RefinedWeb" or "RefinedWebModel", found "llama""#.to_owned(),
        ),
        (json!({"model_type": 7}), "field `model_type`: expected a string, found 7".to_owned()),
        (json!({"hidden_size": 0}), format!("field `hidden_size`: {SIZE} 0")),
        (json!({"vocab_size": -1}), format!("field `vocab_size`: {SIZE} -1")),
        (json!({"num_hidden_layers": null, "n_layer": 1.5}), format!("field `n_layer`: {SIZE} 1.5")),
        (json!({"max_position_embeddings": 1_048_577}), format!("field `max_position_embeddings`: {SIZE} 1048577")),
        (json!({"ffn_hidden_size": "wide"}), format!("field `ffn_hidden_size`: {SIZE} \"wide\"")),
        (json!({"multi_query": 1}), "field `multi_query`: expected true or false, found 1".to_owned()),
        (json!({"rope_theta": 0}), "field `rope_theta`: expected a number above 0 within f32, found 0".to_owned()),
        (
            json!({"layer_norm_epsilon": 1e39}),
            "field `layer_norm_epsilon`: expected a number above 0 within f32, found 1e+39".to_owned(),
        ),
        (json!({"eos_token_id": [1, "two"]}), format!("{ID} [1,\"two\"]")),
        (json!({"eos_token_id": 4_294_967_296_u64}), format!("{ID} 4294967296")),
        (
            json!({"activation": "relu"}),
            r#"field `activation`: only "gelu" or "gelu_python" is supported, found "relu""#.to_owned(),
        ),
        (
            json!({"apply_residual_connection_post_layernorm": true}),
            "field `apply_residual_connection_post_layernorm`: only false is supported, found true".to_owned(),
        ),
        (json!({"rope_scaling": {"type": "linear"}}), "field `rope_scaling.factor` is missing".to_owned()),
        (
            json!({"num_attention_heads": 70}),
            "field `num_attention_heads` (70) must divide `hidden_size` (4544)".to_owned(),
        ),
        (
            json!({"new_decoder_architecture": true, "num_kv_heads": 3}),
            "field `num_kv_heads` (3) must divide `num_attention_heads` (71)".to_owned(),
        ),
        (
            json!({"new_decoder_architecture": true, "num_ln_in_parallel_attn": 3}),
            "field `num_ln_in_parallel_attn`: expected 1 or 2, found 3".to_owned(),
        ),
        (
            json!({"new_decoder_architecture": true, "parallel_attn": false}),
            "field `parallel_attn`: only true is supported, found false".to_owned(),
        ),
        (json!({"hidden_size": 213}), "field `2 (rotary halves)` (2) must divide `head size` (3)".to_owned()),
    ];
    let base: Value = serde_json::from_str(FALCON_7B).unwrap();
    for (fields, expected) in cases {
        assert_eq!(read(&edited(&base, &fields)).unwrap_err().to_string(), expected, "{fields}");
    }
    let array = FalconConfig::from_json(b"[1]").unwrap_err();
    assert_eq!(array.to_string(), "expected a JSON object, found an array");
    assert!(FalconConfig::from_json(b"{").unwrap_err().to_string().starts_with("not valid JSON: "));
}

fn rope(fields: &Value) -> Rope {
    let base = json!({"model_type": "falcon", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1});
    match read(&edited(&base, fields)).unwrap().positions {
        Positions::Rotary(rope) => rope,
        Positions::Alibi => panic!("{fields} has rotary embeddings"),
    }
}

#[test]
fn rope_parameters_go_before_a_theta_beside_them_and_rope_scaling_before_both() {
    let default = json!({"rope_type": "default", "rope_theta": 500.0});
    assert_eq!(rope(&json!({"rope_parameters": default})), Rope::plain(500.0));
    assert_eq!(rope(&json!({"rope_parameters": default, "rope_theta": 20})), Rope::plain(500.0));
    assert_eq!(rope(&json!({"rope_parameters": {"rope_type": "default"}, "rope_theta": 20})), Rope::plain(20.0));
    assert_eq!(rope(&json!({"rope_parameters": {}, "rope_scaling": null})), Rope::plain(10_000.0));
    assert_eq!(rope(&json!({"rope_parameters": {"type": "dynamic", "factor": 2.0}})), Rope::plain(10_000.0));
    let linear = RopeScaling::Linear { factor: 4.0 };
    for key in ["rope_type", "type"] {
        let scaling = json!({key: "linear", "factor": 4});
        assert_eq!(rope(&json!({"rope_scaling": scaling, "rope_theta": 20})), Rope { theta: 20.0, scaling: linear });
        let both = json!({"rope_scaling": scaling, "rope_parameters": default});
        assert_eq!(rope(&both), Rope { theta: 10_000.0, scaling: linear });
    }
}

/// The numbers are those of `ROPE_INIT_FUNCTIONS` in transformers 5.24.0, which computes them in f32.
#[test]
fn scaled_frequencies_are_those_of_transformers() {
    let yarn = json!({
        "rope_type": "yarn", "rope_theta": 500.0, "factor": 8.0, "original_max_position_embeddings": 32, "beta_fast": 4.0,
        "beta_slow": 0.5, "truncate": false, "mscale": 1.0, "mscale_all_dim": 0.5
    });
    let cases = [
        (
            json!({"rope_parameters": yarn, "max_position_embeddings": 64}),
            [1.0, 0.356_288, 0.094_717_59, 0.012_156_16, 0.005_590_17, 0.002_570_714, 0.001_182_177, 0.000_543_639_8],
            1.094_179_988_101_349,
        ),
        (
            json!({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}),
            [1.0, 0.316_227_8, 0.1, 0.025_693_51, 0.006_25, 0.001_383_497, 0.000_25, 7.905_695e-5],
            1.138_629_436_111_989,
        ),
        (
            json!({"rope_parameters": {"rope_type": "linear", "factor": 4.0}}),
            [0.25, 0.079_056_94, 0.025, 0.007_905_695, 0.002_5, 0.000_790_569_5, 0.000_25, 7.905_695e-5],
            1.0,
        ),
    ];
    for (fields, frequencies, factor) in cases {
        let rope = rope(&fields);
        assert!((rope.attention_factor() - factor).abs() < 1e-12, "{fields}: {}", rope.attention_factor());
        let found = rope.inverse_frequencies(16);
        let close = found.iter().zip(&frequencies).all(|(found, expected)| (found / expected - 1.0f64).abs() < 1e-6);
        assert!(close && found.len() == frequencies.len(), "{fields}: {found:?}");
    }
}

#[test]
fn keys_that_would_change_the_result_are_refused_by_name() {
    let base: Value = serde_json::from_str(FALCON_7B).unwrap();
    let refused = [
        (json!({"sliding_window": 4096}), "field `sliding_window`: only null is supported, found 4096"),
        (json!({"layer_types": ["full_attention"]}), "`layer_types`: only null"),
        (json!({"attention_chunk_size": 8}), "`attention_chunk_size`: only null"),
        (json!({"partial_rotary_factor": 0.5}), "`partial_rotary_factor`: only 1.0 is supported, found 0.5"),
        (
            json!({"rope_parameters": {"partial_rotary_factor": 0.5}}),
            "`rope_parameters.partial_rotary_factor`: only 1.0 is supported, found 0.5",
        ),
        (json!({"rope_parameters": 7}), "field `rope_parameters`: expected an object, found 7"),
        (json!({"rope_parameters": {"rope_type": "yarn"}}), "field `rope_parameters.factor` is missing"),
        (
            json!({"rope_scaling": {"rope_type": "llama3"}}),
            r#"`rope_scaling.rope_type`: only default, dynamic, linear or yarn is supported, found "llama3""#,
        ),
        (json!({"rope_scaling": {"type": "longrope"}}), r#"`rope_scaling.type`: only default"#),
        (json!({"head_dim": 32}), "field `head_dim`: only 64 is supported, found 32"),
        (json!({"rotary": false}), "field `rotary`: only true is supported, found false"),
        (json!({"num_ln_in_parallel_attn": 2}), "field `num_ln_in_parallel_attn`: only 1 (as"),
        (json!({"pruned_heads": {"0": [1]}}), "field `pruned_heads`"),
        (json!({"is_encoder_decoder": true}), "field `is_encoder_decoder`: only false"),
        (json!({"activation": "gelu_new"}), "field `activation`"),
    ];
    for (fields, expected) in refused {
        let error = read(&edited(&base, &fields)).unwrap_err().to_string();
        assert!(error.contains(expected), "{fields}: {error}");
    }
    let harmless = json!({
        "sliding_window": null, "head_dim": 64, "rotary": true, "partial_rotary_factor": 1, "pruned_heads": {},
        "activation": "gelu_python", "hidden_dropout": 0.5, "use_cache": false, "is_encoder_decoder": false
    });
    assert_eq!(read(&edited(&base, &harmless)).unwrap(), parse(FALCON_7B));
    // transformers takes the older name of the two.
    assert_eq!(read(&edited(&base, &json!({"hidden_size": 1, "n_embed": 4544}))).unwrap(), parse(FALCON_7B));
}

#[test]
fn keys_are_known_or_told() {
    assert_eq!(FalconConfig::unknown_keys(FALCON2_11B.as_bytes()), [""; 0]);
    for name in ["tiny-falcon-7b/config_legacy.json", "tiny-falcon-40b/config.json"] {
        assert_eq!(FalconConfig::unknown_keys(&testdata(name)), [""; 0], "{name}");
    }
    assert_eq!(FalconConfig::unknown_keys(br#"{"z": 1, "alibi": true, "a": 2}"#), ["a", "z"]);
}

#[test]
fn the_method_of_quantization_is_told() {
    let method = |json: Value| FalconConfig::quantization_method(json.to_string().as_bytes());
    assert_eq!(method(json!({})), None);
    assert_eq!(method(json!({"quantization_config": null})), None);
    assert_eq!(method(json!({"quantization_config": {"quant_method": "gptq"}})).as_deref(), Some("gptq"));
    assert_eq!(method(json!({"quantization_config": {"load_in_8bit": true}})).as_deref(), Some("bitsandbytes"));
    assert_eq!(method(json!({"compression_config": {"quant_method": "x"}})).as_deref(), Some("x"));
}

#[test]
fn long_values_are_cut_short_in_errors() {
    let long = edited(&serde_json::from_str(FALCON_7B).unwrap(), &json!({"model_type": "ü".repeat(10_000)}));
    assert!(read(&long).unwrap_err().to_string().chars().count() < 200);
}

#[test]
fn damaged_configs_give_an_error_or_a_consistent_model() {
    let mut rng = seeded();
    let sources = [FALCON_7B, FALCON_40B, FALCON_180B, FALCON2_11B, FALCON_RW_1B];
    for round in 0..10_000 {
        let mut bytes = rng.choice(sources).unwrap().as_bytes().to_vec();
        match round % 3 {
            0 => rng.fill(&mut bytes),
            1 => bytes.truncate(rng.usize(..bytes.len())),
            _ => {
                for _ in 0..rng.usize(1..4) {
                    let at = rng.usize(..bytes.len());
                    bytes[at] = *rng.choice(b"0123456789-.eE\"{}[]:,tfn \xff").unwrap();
                }
            }
        }
        let Ok(config) = FalconConfig::from_json(&bytes) else { continue };
        assert_eq!(config.q_heads * config.head_dim, config.hidden);
        assert_eq!(config.queries_per_kv() * config.kv_heads, config.q_heads);
        assert!(config.norm_eps.is_normal());
        let world = rng.usize(1..17);
        let _ = Partition::new(&config, rng.usize(..world), world);
    }
}

fn read(config: &Value) -> Result<FalconConfig, ConfigError> {
    FalconConfig::from_json(config.to_string().as_bytes())
}

/// `base` with `fields` put over its own.
fn edited(base: &Value, fields: &Value) -> Value {
    let mut config = base.as_object().unwrap().clone();
    config.extend(fields.as_object().unwrap().clone());
    Value::Object(config)
}

/// A generator whose seed is in the output of a failing test.
fn seeded() -> fastrand::Rng {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    fastrand::Rng::with_seed(seed)
}

#[test]
fn ends_of_a_text_of_a_generation_config() {
    let read = |json: &str| model::generation_eos(json.as_bytes());
    for (json, expected) in [
        (r#"{"eos_token_id": 11, "do_sample": true}"#, &[11][..]),
        (r#"{"eos_token_id": [11, 65024]}"#, &[11, 65024]),
        (r#"{"eos_token_id": []}"#, &[]),
        (r#"{"eos_token_id": null}"#, &[]),
        (r#"{"bos_token_id": 11}"#, &[]),
    ] {
        assert_eq!(read(json).unwrap(), expected, "{json}");
    }
    let error = read(r#"{"eos_token_id": "</s>"}"#).unwrap_err().to_string();
    assert_eq!(error, r#"field `eos_token_id`: expected a token id or a list of token ids, found "</s>""#);
    assert_eq!(read("[11]").unwrap_err().to_string(), "expected a JSON object, found an array");
}
