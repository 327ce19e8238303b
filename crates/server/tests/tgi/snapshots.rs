//! What Text Generation Inference answered for Falcon-7B, as far as it can be held against us without the weights: the
//! tokens of the prompt, its truncation, and the texts of the tokens that it generated.

use api::{Limits, Prompt, check};
use serde_json::Value;
use server::dialects::tgi::{self, GenerateRequest, GenerateResponse, Inputs};
use std::path::{Path, PathBuf};
use text::{OutputText, StopMatcher, StopText, Tokenizer};

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata")
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("the file is there")).expect("it is JSON")
}

/// Each case's request, with the answers that TGI 0.9.3 gave (several for the case that asks several times at once).
fn cases() -> Vec<(GenerateRequest, Vec<GenerateResponse>)> {
    let folder = testdata().join("tgi-snapshots");
    let cases = json(&folder.join("cases.json"));
    let cases = cases["cases"].as_array().expect("a list").iter().map(|case| {
        let request = serde_json::from_value(case.clone()).expect("a request");
        let snapshot = json(&folder.join("v0.9.3").join(case["snapshot"].as_str().expect("a name")));
        let answers = if snapshot.is_array() { snapshot } else { Value::Array(vec![snapshot]) };
        (request, serde_json::from_value(answers).expect("answers"))
    });
    cases.collect()
}

#[test]
fn prompts_have_the_same_tokens_after_truncation() {
    let tokenizer = Tokenizer::open(&testdata().join("tokenizer")).expect("the real tokenizer");
    let cases = cases();
    assert_eq!(cases.len(), 3);
    for (request, answers) in cases {
        let limits = Limits::of_model(2048, tokenizer.vocab_size(), tokenizer.token_bytes_max());
        let encode = |prompt: Prompt, truncate: Option<usize>| {
            let Prompt::Text(text) = prompt else { panic!("the prompts are texts") };
            Ok(tokenizer.encode_last(&text, truncate.unwrap_or(usize::MAX), true, &|| true).expect("a text"))
        };
        let checked = check(request.translate(false, &tgi::Limits::default()).expect("TGI took it"), &limits, 0)
            .expect("TGI took it");
        let valid = checked.encode(&limits, encode).expect("TGI took it");
        for answer in answers {
            let prefill = answer.details.expect("details were asked for").prefill;
            let ids: Vec<u32> = prefill.iter().map(|token| token.id).collect();
            assert_eq!(valid.prompt, ids);
            for token in prefill {
                assert_eq!(tokenizer.decode(&[token.id], false), token.text);
            }
        }
    }
}

#[test]
fn the_same_tokens_give_the_same_texts() {
    let tokenizer = Tokenizer::open(&testdata().join("tokenizer")).expect("the real tokenizer");
    for (request, answers) in cases() {
        for answer in answers {
            let details = answer.details.expect("details were asked for");
            let mut text =
                OutputText::new(tokenizer.clone(), StopMatcher::new(&request.parameters.stop), StopText::Keep);
            for token in &details.tokens {
                let shown = text.push(token.id);
                assert_eq!((shown.text, shown.special), (token.text.clone(), token.special));
            }
            let Inputs::Text(prompt) = &request.inputs else { panic!("the prompts are texts") };
            let prompt = if request.parameters.return_full_text == Some(true) { &**prompt } else { "" };
            assert_eq!(format!("{prompt}{}", text.finish()), answer.generated_text);
        }
    }
}
