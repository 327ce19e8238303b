use crate::models::{self, FALCON_7B, FALCON_40B, FALCON2_11B, parse};
use model::{FalconConfig, NamesError, Part, Role, TensorId, TensorNames, tensors};
use std::collections::BTreeMap;

const EMBEDDINGS: &str = "transformer.word_embeddings.weight";
const HEAD: &str = "lm_head.weight";

type Stored = BTreeMap<String, Vec<usize>>;

fn stored(config: &FalconConfig) -> Stored {
    tensors(config).into_iter().map(|spec| (spec.id.to_string(), spec.shape)).collect()
}

fn hold(config: &FalconConfig, stored: &Stored) -> Result<TensorNames, NamesError> {
    TensorNames::find(config, stored.iter().map(|(name, shape)| (&**name, &**shape)))
}

#[test]
fn names_are_those_of_the_published_checkpoints() {
    let names = |json: &str| stored(&parse(json));
    let falcon_7b = names(FALCON_7B);
    assert_eq!(falcon_7b.len(), 32 * 6 + 3);
    assert_eq!(falcon_7b["transformer.h.31.input_layernorm.bias"], [4544]);
    assert_eq!(falcon_7b["transformer.h.0.self_attention.query_key_value.weight"], [4672, 4544]);
    let falcon_40b = names(FALCON_40B);
    assert_eq!(falcon_40b.len(), 60 * 8 + 3);
    assert_eq!(falcon_40b["transformer.h.7.ln_attn.weight"], [8192]);
    assert_eq!(falcon_40b["transformer.h.7.ln_mlp.bias"], [8192]);
    assert_eq!(falcon_40b["transformer.h.59.mlp.dense_4h_to_h.weight"], [8192, 32_768]);
    let falcon2_11b = names(FALCON2_11B);
    assert_eq!(falcon2_11b[HEAD], [65_024, 4096]);
    assert_eq!(falcon2_11b["transformer.ln_f.weight"], [4096]);
    let falcon_rw = names(models::FALCON_RW_1B);
    assert_eq!(falcon_rw["transformer.h.23.post_attention_layernorm.weight"], [2048]);
    assert_eq!(falcon_rw["transformer.h.0.mlp.dense_h_to_4h.bias"], [8192]);
    assert_eq!(falcon_rw["transformer.h.0.self_attention.dense.bias"], [2048]);
}

#[test]
fn a_whole_checkpoint_matches_and_any_fault_names_its_tensor() {
    for (model, config) in models::all() {
        let whole = stored(&config);
        let checkpoint = hold(&config, &whole).unwrap();
        for spec in tensors(&config).into_iter().filter(|spec| spec.id.layer.unwrap_or(0) == 0) {
            let name = spec.id.to_string();
            assert_eq!(checkpoint.name(spec.id), name, "{model}");

            let mut lacking = whole.clone();
            lacking.remove(&name);
            let missing = NamesError::Missing { name: name.clone(), expected: spec.shape.clone() };
            assert_eq!(hold(&config, &lacking).unwrap_err(), missing, "{model}");

            let mut misshapen = whole.clone();
            let found = [&spec.shape[..], &[1]].concat();
            misshapen.insert(name.clone(), found.clone());
            let shape = NamesError::Shape { name, expected: spec.shape, found };
            assert_eq!(hold(&config, &misshapen).unwrap_err(), shape, "{model}");
        }
        let mut foreign = whole;
        foreign.insert("transformer.h.0.gate.weight".to_owned(), vec![3]);
        foreign.insert("transformer.z".to_owned(), vec![]);
        let unknown = NamesError::Unknown { name: "transformer.h.0.gate.weight".to_owned(), found: vec![3] };
        assert_eq!(hold(&config, &foreign).unwrap_err(), unknown, "{model}");
    }
}

#[test]
fn a_tied_table_may_be_stored_under_either_name_or_both() {
    let config = parse(FALCON_7B);
    let table = TensorId { layer: None, role: Role::WordEmbeddings, part: Part::Weight };
    let mut tensors = stored(&config);
    let shape = tensors[EMBEDDINGS].clone();

    tensors.insert(HEAD.to_owned(), shape.clone());
    assert_eq!(hold(&config, &tensors).unwrap().name(table), EMBEDDINGS);

    tensors.remove(EMBEDDINGS);
    assert_eq!(hold(&config, &tensors).unwrap().name(table), HEAD);

    tensors.insert(EMBEDDINGS.to_owned(), shape.clone());
    tensors.insert(HEAD.to_owned(), vec![1, 2]);
    let wrong = NamesError::Shape { name: HEAD.to_owned(), expected: shape.clone(), found: vec![1, 2] };
    assert_eq!(hold(&config, &tensors).unwrap_err(), wrong);

    tensors.remove(EMBEDDINGS);
    tensors.remove(HEAD);
    let missing = NamesError::Missing { name: EMBEDDINGS.to_owned(), expected: shape };
    assert_eq!(hold(&config, &tensors).unwrap_err(), missing);
}

/// The same tensors under other names.
fn renamed(stored: &Stored, rename: impl Fn(&str) -> String) -> Stored {
    stored.iter().map(|(name, shape)| (rename(name), shape.clone())).collect()
}

#[test]
fn one_prefix_may_stand_before_all_names() {
    let table = TensorId::EMBEDDINGS;
    let bare = |name: &str| name.strip_prefix("transformer.").unwrap_or(name).to_owned();
    for config in [parse(FALCON_7B), parse(FALCON2_11B)] {
        let whole = stored(&config);
        for prefix in ["", "module.", "_orig_mod.", "base_model.model.", "model.", "module._orig_mod.", "module.model."]
        {
            let names = hold(&config, &renamed(&whole, |name| format!("{prefix}{name}"))).unwrap();
            assert_eq!(names.name(table), format!("{prefix}{EMBEDDINGS}"));
            let names = hold(&config, &renamed(&whole, |name| format!("{prefix}{}", bare(name)))).unwrap();
            assert_eq!(names.name(table), format!("{prefix}word_embeddings.weight"));
        }
        // What is missing is named as it would stand there.
        let mut lacking = renamed(&whole, |name| format!("module.{name}"));
        lacking.remove("module.transformer.ln_f.bias");
        let error = hold(&config, &lacking).unwrap_err().to_string();
        assert!(error.starts_with("tensor `module.transformer.ln_f.bias` (shape"), "{error}");
    }
}

#[test]
fn prefixes_that_are_mixed_or_not_known_are_told() {
    let config = parse(FALCON2_11B);
    let whole = stored(&config);
    let mixed = renamed(&whole, |name| if name.contains(".h.3.") { format!("module.{name}") } else { name.to_owned() });
    let error = hold(&config, &mixed).unwrap_err().to_string();
    for part in ["`transformer.` (`transformer.", "`module.transformer.` (`module.transformer.h.3."] {
        assert!(error.contains(part), "{error}");
    }
    let head_apart = renamed(&whole, |name| if name == HEAD { name.to_owned() } else { format!("model.{name}") });
    let error = hold(&config, &head_apart).unwrap_err().to_string();
    assert!(error.contains("no prefix (`lm_head.weight`)") && error.contains("`model.transformer.`"), "{error}");
    let unknown = renamed(&whole, |name| format!("backbone.{name}"));
    let error = hold(&config, &unknown).unwrap_err().to_string();
    assert!(error.contains("begin with `backbone.transformer.`"), "{error}");
}

#[test]
fn buffers_that_are_computed_are_let_pass() {
    let config = parse(FALCON_7B);
    let mut tensors = stored(&config);
    let buffers = ["h.0.self_attention.rotary_emb.inv_freq", "rotary_emb.inv_freq", "h.1.self_attention.masked_bias"];
    tensors.extend(buffers.map(|name| (format!("transformer.{name}"), vec![32])));
    assert_eq!(hold(&config, &tensors).unwrap().buffers(), 3);
    tensors.insert("v_head.summary.weight".to_owned(), vec![1, 4544]);
    assert!(
        matches!(hold(&config, &tensors), Err(NamesError::Unknown { name, .. }) if name == "v_head.summary.weight")
    );
}

#[test]
fn a_head_stored_beside_a_tied_table_can_be_used() {
    let config = parse(FALCON_7B);
    let mut tensors = stored(&config);
    assert_eq!(hold(&config, &tensors).unwrap().stored_head(), None);
    tensors.insert(HEAD.to_owned(), tensors[EMBEDDINGS].clone());
    let mut names = hold(&config, &tensors).unwrap();
    assert_eq!(names.stored_head(), Some(HEAD));
    names.untie();
    assert_eq!((names.stored_head(), names.name(TensorId::LM_HEAD)), (None, HEAD));
    assert!(TensorNames::may_be_absent(&config, HEAD) && !TensorNames::may_be_absent(&config, EMBEDDINGS));
    assert!(!TensorNames::may_be_absent(&parse(FALCON2_11B), HEAD));
}

#[test]
fn an_untied_head_must_be_stored_beside_the_table() {
    let config = parse(FALCON2_11B);
    for name in [EMBEDDINGS, HEAD] {
        let mut tensors = stored(&config);
        let expected = tensors.remove(name).unwrap();
        assert_eq!(hold(&config, &tensors).unwrap_err(), NamesError::Missing { name: name.to_owned(), expected });
    }
}

#[test]
fn errors_say_what_was_expected_and_what_was_found() {
    let config = parse(FALCON_7B);
    let mut tensors = stored(&config);
    tensors.insert("transformer.ln_f.bias".to_owned(), vec![7]);
    let text = hold(&config, &tensors).unwrap_err().to_string();
    assert_eq!(text, "tensor `transformer.ln_f.bias`: expected shape [4544], found [7]");
    tensors.remove("transformer.ln_f.bias");
    let text = hold(&config, &tensors).unwrap_err().to_string();
    assert_eq!(text, "tensor `transformer.ln_f.bias` (shape [4544]) is missing");
}
