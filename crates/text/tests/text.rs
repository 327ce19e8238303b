//! Tokenizer, detokenizer and output text against the reference data.

use std::path::{Path, PathBuf};

use serde_json::Value;
use text::{Detokenizer, OutputText, Token, Tokenizer, TokenizerError};

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name)
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(testdata(name)).unwrap()).unwrap()
}

fn falcon() -> Tokenizer {
    Tokenizer::open(&testdata("tokenizer")).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

#[test]
fn ids_are_those_of_other_implementations() {
    let tokenizer = falcon();
    assert_eq!(tokenizer.vocab_size(), 65_024);
    let (external, own) = (json("tokenizer/vectors_external.json"), json("tokenizer/vectors_own.json"));
    for vector in list(&external["vectors"]).iter().chain(list(&own["vectors"])) {
        let text = vector["text"].as_str().unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), ids(&vector["ids"]), "{text:?} of {}", vector["source"]);
    }
}

#[test]
fn prompts_and_answers_of_a_real_server_agree() {
    let tokenizer = falcon();
    let cases = json("tgi-snapshots/cases.json");
    for case in list(&cases["cases"]) {
        let snapshot = json(&format!("tgi-snapshots/v0.9.3/{}", case["snapshot"].as_str().unwrap()));
        let answer = snapshot.get(0).unwrap_or(&snapshot);
        let details = &answer["details"];
        let mut prompt = tokenizer.encode(case["inputs"].as_str().unwrap()).unwrap();
        let truncate = case["parameters"]["truncate"].as_u64().map_or(prompt.len(), |n| n as usize);
        let prompt = prompt.split_off(prompt.len() - truncate);
        assert!(
            prompt
                .iter()
                .map(|&id| u64::from(id))
                .eq(list(&details["prefill"]).iter().map(|t| t["id"].as_u64().unwrap()))
        );

        let mut output = OutputText::new(tokenizer.clone(), &["<|endoftext|>"]);
        for token in list(&details["tokens"]) {
            let piece = output.push(token["id"].as_u64().unwrap() as u32);
            assert_eq!(piece.token_text, token["text"].as_str().unwrap());
            assert_eq!(piece.special, token["special"].as_bool().unwrap());
        }
        let _ = output.finish();
        assert!(answer["generated_text"].as_str().unwrap().ends_with(output.without_stop()));
    }
}

#[test]
fn offsets_count_characters() {
    let (tokenizer, own) = (falcon(), json("tokenizer/vectors_own.json"));
    for vector in list(&own["vectors"]) {
        let text = vector["text"].as_str().unwrap();
        let tokens = tokenizer.tokens(text).unwrap();
        let offsets: Vec<Value> = tokens.iter().map(|token| vec![token.start, token.stop].into()).collect();
        assert_eq!(Value::from(offsets), vector["offsets"], "{text:?}");
        assert!(tokens.iter().map(|token| token.id).eq(ids(&vector["ids"])), "{text:?}");
        for Token { text: part, start, stop, .. } in tokens {
            assert_eq!(part, text.chars().skip(start).take(stop - start).collect::<String>(), "{text:?}");
        }
    }
}

#[test]
fn texts_of_ids_are_those_of_other_implementations() {
    let tokenizer = falcon();
    let (decode, own) = (json("tokenizer/vectors_decode.json"), json("tokenizer/vectors_own.json"));
    for vector in list(&decode["vectors"]).iter().chain(list(&own["vectors"])) {
        let ids = ids(&vector["ids"]);
        assert_eq!(tokenizer.decode(&ids, false), vector["decoded"].as_str().unwrap(), "{ids:?}");
        if let Some(expected) = vector["decoded_skip_special"].as_str() {
            assert_eq!(tokenizer.decode(&ids, true), expected, "{ids:?}");
        }
    }
}

#[test]
fn streams_are_those_of_the_reference() {
    for model in
        ["tiny-falcon-7b", "tiny-falcon-40b", "tiny-falcon-180b", "tiny-falcon-rw", "tiny-falcon2-11b", "falcon-demo"]
    {
        let dir = match model {
            "falcon-demo" => testdata("../crates/runtime/falcon-demo"),
            _ => testdata("models").join(model),
        };
        let tokenizer = Tokenizer::open(&dir).unwrap();
        for case in list(&json(&format!("golden/{model}.json"))["cases"]) {
            let (at, greedy) = (format!("{model} {}", case["name"]), &case["greedy"]);
            assert_eq!(tokenizer.encode(case["prompt"].as_str().unwrap()).unwrap(), ids(&case["prompt_ids"]), "{at}");

            let mut detokenizer = Detokenizer::new(tokenizer.clone(), false);
            let texts: Vec<String> = ids(&greedy["ids"]).iter().map(|&id| detokenizer.push(id)).collect();
            assert_eq!(Value::from(texts.clone()), greedy["stream_texts"], "{at}");
            assert_eq!(texts.concat() + &detokenizer.finish(), greedy["text_with_special"].as_str().unwrap(), "{at}");

            let mut output = OutputText::new::<&str>(tokenizer.clone(), &[]);
            let mut visible: String = ids(&greedy["ids"]).iter().map(|&id| output.push(id).text).collect();
            visible += &output.finish();
            assert_eq!(visible, greedy["text"].as_str().unwrap(), "{at}");
            assert_eq!(visible, output.with_stop(), "{at}");
        }
    }
}

#[test]
fn special_tokens() {
    let tokenizer = falcon();
    assert_eq!(tokenizer.id("<|endoftext|>"), Some(11));
    assert_eq!(tokenizer.id("no such token"), None);
    assert!(tokenizer.is_special(11) && !tokenizer.is_special(12) && !tokenizer.is_special(u32::MAX));
    assert_eq!((tokenizer.bytes(u32::MAX), tokenizer.bytes(11)), (&[][..], &b"<|endoftext|>"[..]));

    // One amid the bytes of a character: visible text closes over it.
    let eagle = tokenizer.encode("🦅").unwrap();
    assert!(eagle.len() > 1);
    let mut output = OutputText::new(tokenizer, &["<|endoftext|>"]);
    let _ = output.push(eagle[0]);
    let piece = output.push(11);
    assert_eq!((piece.token_text.as_str(), piece.text.as_str()), ("\u{FFFD}<|endoftext|>", ""));
    assert!(piece.special && !piece.stopped);
    let visible: String = eagle[1..].iter().map(|&id| output.push(id).text).collect();
    assert_eq!(visible, "🦅");
}

#[test]
fn stop_strings_inside_and_across_tokens() {
    let tokenizer = falcon();
    let ids = tokenizer.encode(" Paris.\nUser: and").unwrap();
    for (stop, visible) in [("\nUser:", " Paris."), ("ar", " P"), (".\nUs", " Paris"), (" and", " Paris.\nUser:")] {
        let mut output = OutputText::new(tokenizer.clone(), &[stop]);
        let mut shown = String::new();
        let used = ids.iter().take_while(|&&id| {
            let piece = output.push(id);
            shown += &piece.text;
            !piece.stopped
        });
        assert!(used.count() < ids.len(), "{stop:?} is not found");
        assert_eq!((shown.as_str(), output.finish().as_str()), (visible, ""));
        assert_eq!((output.with_stop(), output.without_stop()), (format!("{visible}{stop}"), visible));
    }
}

/// Random tokens, most of them pieces of characters, with random stops: what is shown is what a decoder of the whole
/// text and a search for the stops in it show.
#[test]
fn random_tokens_against_the_whole_text() {
    let tokenizer = falcon();
    let single_bytes: Vec<u32> =
        (0..tokenizer.vocab_size() as u32).filter(|&id| tokenizer.bytes(id).len() == 1).collect();
    for seed in 0..10_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let bytes_share = rng.f64();
        let mut any = || match rng.f64() < bytes_share {
            true => *rng.choice(&single_bytes).unwrap(),
            false => rng.u32(..65_024),
        };
        let ids: Vec<u32> = (0..100).map(|_| any()).collect();
        let whole = tokenizer.decode(&ids, true);
        let chars: Vec<char> = whole.chars().collect();
        let stops: Vec<String> = (0..rng.usize(..3))
            .map(|_| {
                let start = rng.usize(..chars.len());
                chars[start..chars.len().min(start + rng.usize(1..6))].iter().collect()
            })
            .collect();
        let first = (0..=whole.len()).find_map(|end| {
            let ending = stops.iter().filter(|stop| whole.as_bytes()[..end].ends_with(stop.as_bytes()));
            ending.map(|stop| (end - stop.len(), end)).min()
        });
        let (start, end) = first.unwrap_or((whole.len(), whole.len()));

        let mut output = OutputText::new(tokenizer.clone(), &stops);
        let (mut shown, mut tokens) = (String::new(), String::new());
        for &id in &ids {
            let piece = output.push(id);
            shown += &piece.text;
            tokens += &piece.token_text;
            assert!(whole[..start].starts_with(&shown), "seed {seed}: {shown:?} leaks of {stops:?}");
        }
        shown += &output.finish();
        assert_eq!(shown, whole[..start], "seed {seed}: stops {stops:?}");
        assert_eq!(output.with_stop(), whole[..end], "seed {seed}: stops {stops:?}");
        assert!(tokenizer.decode(&ids, false).starts_with(&tokens), "seed {seed}");
    }
}

#[test]
fn errors_name_the_file_and_what_is_expected() {
    let missing = Tokenizer::open(&testdata("no-such-model")).unwrap_err();
    assert!(matches!(missing, TokenizerError::Missing { .. }));
    let message = missing.to_string();
    assert!(message.contains("no-such-model/tokenizer.json") && message.contains("must have"), "{message}");

    let dir = std::env::temp_dir().join(format!("text-test-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let mut file = json("models/tiny-falcon-7b/tokenizer.json");
    file["decoder"] = serde_json::json!({"type": "Fuse"});
    let cases = [
        ("{}".to_owned(), "not a readable"),
        (file.to_string(), "must be ByteLevel, as in every Falcon model, and is Fuse"),
    ];
    for (content, expected) in cases {
        std::fs::write(dir.join("tokenizer.json"), content).unwrap();
        let message = Tokenizer::open(&dir).unwrap_err().to_string();
        assert!(message.contains("tokenizer.json") && message.contains(expected), "{message}");
    }
    std::fs::remove_dir_all(dir).unwrap();
}
