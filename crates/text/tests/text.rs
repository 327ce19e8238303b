//! Tokenizer, detokenizer and output text against the reference data.

use std::path::{Path, PathBuf};

use serde_json::Value;
use text::{Detokenizer, OutputText, StopMatcher, StopText, Token, Tokenizer};

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

        let mut output = OutputText::new(tokenizer.clone(), StopMatcher::new(&["<|endoftext|>"]), StopText::Keep);
        for token in list(&details["tokens"]) {
            let shown = output.push(token["id"].as_u64().unwrap() as u32);
            assert_eq!(shown.text, token["text"].as_str().unwrap());
            assert_eq!(shown.special, token["special"].as_bool().unwrap());
        }
        assert!(answer["generated_text"].as_str().unwrap().ends_with(output.finish()));
    }
}

#[test]
fn offsets_count_characters() {
    let (tokenizer, own) = (falcon(), json("tokenizer/vectors_own.json"));
    for vector in list(&own["vectors"]) {
        let text = vector["text"].as_str().unwrap();
        let tokens = tokenizer.tokens(text, true).unwrap();
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

            let mut output = OutputText::new(tokenizer.clone(), StopMatcher::new::<&str>(&[]), StopText::Keep);
            let streamed: Vec<String> = ids(&greedy["ids"]).iter().map(|&id| output.push(id).text).collect();
            assert_eq!(Value::from(streamed), greedy["stream_texts"], "{at}");
            assert_eq!(output.finish(), greedy["text"].as_str().unwrap(), "{at}");
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
    let mut output = OutputText::new(tokenizer, StopMatcher::new::<&str>(&[]), StopText::Keep);
    let _ = output.push(eagle[0]);
    let shown = output.push(11);
    assert_eq!((shown.text.as_str(), shown.special, shown.stopped), ("\u{FFFD}<|endoftext|>", true, false));
    for &id in &eagle[1..] {
        let _ = output.push(id);
    }
    assert_eq!(output.finish(), "🦅");
}

/// What `ids` come to with these stop strings: how many tokens were used, and the visible text.
fn run(tokenizer: &Tokenizer, ids: &[u32], stops: &[&str]) -> (usize, String) {
    let mut output = OutputText::new(tokenizer.clone(), StopMatcher::new(stops), StopText::Keep);
    let stopped = ids.iter().position(|&id| output.push(id).stopped);
    (stopped.map_or(ids.len(), |at| at + 1), output.finish().to_owned())
}

#[test]
fn stop_strings_inside_and_across_tokens() {
    let tokenizer = falcon();
    let ids = tokenizer.encode(" Paris.\nUser: and").unwrap();
    for (stop, visible) in
        [("\nUser:", " Paris.\nUser:"), ("ar", " Par"), (".\nUs", " Paris.\nUs"), (" and", " Paris.\nUser: and")]
    {
        let (used, text) = run(&tokenizer, &ids, &[stop]);
        assert_eq!(text, visible);
        assert!(used < ids.len() || stop == " and");
    }
    assert_eq!(run(&tokenizer, &ids, &["Rome", ""]), (ids.len(), " Paris.\nUser: and".to_owned()));
}

/// Text Generation Inference looks for stop strings in the text with special tokens, and shows the text without them.
#[test]
fn stop_strings_with_special_tokens_in_them() {
    let tokenizer = falcon();
    let [domain, end] = [">>DOMAIN<<", "<|endoftext|>"].map(|token| tokenizer.id(token).unwrap());
    let [so, on] = [" so", " on"].map(|word| tokenizer.encode(word).unwrap());
    let ids = [&so[..], &[domain], &on, &[end], &on].concat();
    let rows = [
        (">>DOMAIN<<", 2, " so"),
        (">>DOMAIN<", 2, " so"),
        (">", 2, " so"),
        ("o>>D", 2, " so"),
        ("s", 1, " s"),
        (">> on", 5, " so on on"),
        ("<< o", 3, " so o"),
        (" so>>DOMAIN<< on<|", 4, " so on"),
        ("<|endoftext|>", 4, " so on"),
        ("<|endoftext|> o", 5, " so on o"),
        ("so on", 5, " so on on"),
    ];
    for (stop, used, visible) in rows {
        assert_eq!(run(&tokenizer, &ids, &[stop]), (used, visible.to_owned()), "{stop}");
    }
    // A special token that cuts a character short: what was there of it is shown, and may be in the stop string.
    let eagle = tokenizer.encode("🦅").unwrap();
    let ids = [&so[..], &eagle[..1], &[domain], &eagle[1..]].concat();
    assert_eq!(run(&tokenizer, &ids, &["DOMAIN"]), (3, " so\u{FFFD}".to_owned()));
    assert_eq!(run(&tokenizer, &ids, &["\u{FFFD}>>"]), (3, " so\u{FFFD}".to_owned()));
    assert_eq!(run(&tokenizer, &ids, &["so"]), (1, " so".to_owned()));
}

/// Random words and special tokens, with stop strings from their text: the visible text is that text as far as the first
/// end of a stop string, without what special tokens have of it.
#[test]
fn random_texts_with_special_tokens() {
    let tokenizer = falcon();
    let words = ["🦅 é", " the", "\n", " fox>>", "DOMAIN", "<|end", " 12"];
    let words = words.map(|word| (true, word.to_owned(), tokenizer.encode(word).unwrap()));
    let specials = [0, 8, 11].map(|id| (false, tokenizer.decode(&[id], false), vec![id]));
    let units: Vec<_> = words.into_iter().chain(specials).collect();
    for seed in 0..10_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let chosen: Vec<_> = (0..rng.usize(1..12)).map(|_| rng.choice(&units).unwrap()).collect();
        let whole: String = chosen.iter().map(|(_, text, _)| &**text).collect();
        let shown: Vec<bool> = chosen.iter().flat_map(|(shown, text, _)| vec![*shown; text.len()]).collect();
        let chars: Vec<char> = whole.chars().collect();
        let mut stop = || {
            let start = rng.usize(..chars.len());
            chars[start..chars.len().min(start + rng.usize(1..8))].iter().collect()
        };
        let stops: Vec<String> = [(); 2].map(|()| stop()).to_vec();
        let ends =
            (0..=whole.len()).find(|&end| stops.iter().any(|stop| whole.as_bytes()[..end].ends_with(stop.as_bytes())));
        let end = ends.expect("they are of the text");
        let visible: Vec<u8> = (0..end).filter(|&at| shown[at]).map(|at| whole.as_bytes()[at]).collect();

        let ids = chosen.iter().flat_map(|(_, _, ids)| ids).copied().collect::<Vec<u32>>();
        let stops: Vec<&str> = stops.iter().map(|stop| &**stop).collect();
        let (used, text) = run(&tokenizer, &ids, &stops);
        assert_eq!(text.as_bytes(), visible, "seed {seed}: {whole:?}, {stops:?}");
        let (before, with) = (tokenizer.decode(&ids[..used - 1], false), tokenizer.decode(&ids[..used], false));
        let has = |text: &str| stops.iter().any(|stop| text.contains(stop));
        assert!(has(&with) && !has(&before), "seed {seed}: {used} tokens of {whole:?} for {stops:?}");

        let stop_bytes = stops.iter().filter(|stop| whole[..end].ends_with(**stop)).map(|stop| stop.len()).max();
        let visible = &visible[..(0..end - stop_bytes.expect("one ends here")).filter(|&at| shown[at]).count()];
        let mut output = OutputText::new(tokenizer.clone(), StopMatcher::new(&stops), StopText::Drop);
        let mut taken = String::new();
        for &id in &ids {
            let _ = output.push(id);
            taken += output.take();
        }
        assert_eq!(
            (taken.as_bytes(), output.finish().as_bytes()),
            (visible, visible),
            "seed {seed}: {whole:?}, {stops:?}"
        );
    }
}

/// Random tokens, most of them pieces of characters, with random stops: what is shown is what a decoder of the whole text
/// and a search for the stops in it show.
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
            // No special ones, which come first.
            false => rng.u32(12..65_024),
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
        let min_tokens = rng.u32(..8) * rng.u32(..2);
        let mut plain = OutputText::new(tokenizer.clone(), StopMatcher::new::<&str>(&[]), StopText::Keep);
        let passed: usize = ids[..min_tokens as usize].iter().map(|&id| plain.push(id).text.len()).sum();
        let ends = |end: &usize| stops.iter().any(|stop| whole.as_bytes()[..*end].ends_with(stop.as_bytes()));
        let end = (passed + 1..=whole.len()).find(ends).unwrap_or(whole.len());

        let new = |stop_text| {
            OutputText::new(tokenizer.clone(), StopMatcher::new(&stops), stop_text).with_min_tokens(min_tokens)
        };
        let mut output = new(StopText::Keep);
        let streamed: String = ids.iter().map(|&id| output.push(id).text).collect();
        assert!(whole.starts_with(&streamed), "seed {seed}");
        assert_eq!(output.finish(), &whole[..end], "seed {seed}: stops {stops:?}");

        let complete = stops.iter().filter(|stop| whole[..end].ends_with(stop.as_str())).map(String::len).max();
        let without_stop = &whole[..end - complete.unwrap_or(0)];
        let mut output = new(StopText::Drop);
        let mut taken = String::new();
        for &id in &ids {
            let _ = output.push(id);
            taken += output.take();
            assert!(without_stop.starts_with(&taken), "seed {seed}: stops {stops:?}");
        }
        assert_eq!(output.finish(), without_stop, "seed {seed}: stops {stops:?}");
        taken += output.take();
        assert_eq!(taken, without_stop, "seed {seed}: stops {stops:?}");
    }
}
