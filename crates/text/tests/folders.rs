//! Tokenizers as libraries save them: special tokens in other files, templates, added tokens, and files that are damaged.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use text::{Detokenizer, Tokenizer, TokenizerError};

/// Tokens of the small models' tokenizer.
const VOCAB: u32 = 1024;

/// A folder with the small models' tokenizer, changed, and these files beside it.
fn folder(change: impl FnOnce(&mut Value), files: &[(&str, Value)]) -> TempDir {
    let dir = TempDir::new().unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/models/tiny-falcon-7b/tokenizer.json");
    let mut tokenizer: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut tokenizer);
    std::fs::write(dir.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content.to_string()).unwrap();
    }
    dir
}

fn open(change: impl FnOnce(&mut Value), files: &[(&str, Value)]) -> Result<Tokenizer, TokenizerError> {
    Tokenizer::open(folder(change, files).path())
}

fn beside(files: &[(&str, Value)]) -> Tokenizer {
    open(|_| {}, files).unwrap()
}

fn add_token(tokenizer: &mut Value, id: u32, content: &str) {
    let token = json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": false});
    tokenizer["added_tokens"].as_array_mut().unwrap().push(token);
}

fn template(before: &[&str], after: &[&str]) -> Value {
    let special = |token: &&str| json!({"SpecialToken": {"id": token, "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let single: Vec<Value> = before.iter().map(special).chain([text]).chain(after.iter().map(special)).collect();
    let ids = json!({
        "<|endoftext|>": {"id": "<|endoftext|>", "ids": [11], "tokens": ["<|endoftext|>"]},
        ">>TITLE<<": {"id": ">>TITLE<<", "ids": [0], "tokens": [">>TITLE<<"]},
        "[BOS]": {"id": "[BOS]", "ids": [VOCAB], "tokens": ["[BOS]"]},
    });
    json!({"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": ids})
}

#[test]
fn added_tokens_have_their_own_text() {
    for (offset, content) in (0..).zip(["café", "°C", "Zürich", "señor", "日本", "🦊", "<|user|>", "a b"]) {
        let tokenizer = open(|file| add_token(file, VOCAB, content), &[]).unwrap();
        assert_eq!(tokenizer.encode(content).unwrap(), [VOCAB], "{offset}");
        assert_eq!(tokenizer.decode(&[VOCAB], true), content);
        assert_eq!(tokenizer.tokens_beyond(VOCAB as usize).unwrap(), [(VOCAB, content.to_owned())]);
        assert_eq!(tokenizer.tokens_beyond(VOCAB as usize + 1).unwrap(), []);
    }
    // The vocabulary has these as bytes, of which characters are made: A3 ends ã, E9 begins 飛.
    for (content, char) in [("£", "ã"), ("é", "飛")] {
        let tokenizer = open(|file| add_token(file, VOCAB, content), &[]).unwrap();
        let text = format!("{content}{char} {content}.");
        let ids = tokenizer.encode(&text).unwrap();
        assert_eq!(ids[0], tokenizer.id(content).unwrap());
        assert!(ids[0] < VOCAB);
        assert_eq!(tokenizer.decode(&ids, false), text);
        let mut detokenizer = Detokenizer::new(tokenizer, false);
        assert_eq!(ids.iter().map(|&id| detokenizer.push(id)).collect::<String>(), text);
    }
}

/// `AutoTokenizer` adds them in each of these ways.
#[test]
fn special_tokens_that_only_other_files_name() {
    let start = json!({"content": "<|im_start|>", "lstrip": false, "normalized": false, "special": true});
    let end = "<|im_end|>";
    let rows = [
        json!({"tokenizer_config.json": {"additional_special_tokens": ["<|im_start|>", end]}}),
        json!({"tokenizer_config.json": {"extra_special_tokens": {"a": "<|im_start|>", "b": end}}}),
        json!({"special_tokens_map.json": {"additional_special_tokens": [start, end]}}),
        json!({"special_tokens_map.json": {"bos_token": start, "eos_token": end}}),
        json!({"added_tokens.json": {"<|im_start|>": 1024, (end): 1025},
            "special_tokens_map.json": {"bos_token": start, "eos_token": end}}),
        json!({"tokenizer_config.json": {"added_tokens_decoder": {"1025": {"content": end, "special": true}, "1024": start}}}),
    ];
    for files in rows {
        let list: Vec<(&str, Value)> =
            files.as_object().unwrap().iter().map(|(name, content)| (&**name, content.clone())).collect();
        let tokenizer = beside(&list);
        let ids = tokenizer.encode("<|im_start|>Once<|im_end|>").unwrap();
        assert_eq!((ids[0], ids[ids.len() - 1]), (VOCAB, VOCAB + 1), "{files}");
        assert!(tokenizer.is_special(VOCAB) && tokenizer.is_special(VOCAB + 1), "{files}");
        assert_eq!(tokenizer.decode(&ids, true), "Once");
    }
    // Tokens of the vocabulary keep their ids, and become special.
    let tokenizer = beside(&[("special_tokens_map.json", json!({"pad_token": "Once", "unk_token": "<|endoftext|>"}))]);
    let once = tokenizer.id("Once").unwrap();
    assert!(once < VOCAB && tokenizer.is_special(once));
    assert_eq!(tokenizer.tokens_beyond(VOCAB as usize).unwrap(), []);
    // Added tokens that are not special.
    let tokenizer = beside(&[("added_tokens.json", json!({"<|user|>": 1024}))]);
    assert_eq!(tokenizer.encode("<|user|>").unwrap(), [VOCAB]);
    assert!(!tokenizer.is_special(VOCAB));
}

/// Values of transformers 4.57.6 and 5.23.0, which are the same.
#[test]
fn special_tokens_are_split_where_that_is_asked_for() {
    let added = json!({"1024": {"content": "<|im_start|>", "special": true}, "1025": {"content": "<plain>", "normalized": false}});
    let config = |split: Value| {
        let mut config = json!({"eos_token": "<|endoftext|>", "added_tokens_decoder": added});
        if !split.is_null() {
            config["split_special_tokens"] = split;
        }
        beside(&[("tokenizer_config.json", config)])
    };
    let texts = ["<|endoftext|>Once", "<|im_start|>a<plain>", " <|endoftext|> b"];
    let ids = |tokenizer: &Tokenizer| texts.map(|text| tokenizer.encode(text).unwrap());
    for whole in [config(json!(null)), config(json!(false))] {
        assert_eq!(ids(&whole), [vec![11, 572], vec![1024, 76, 1025], vec![232, 11, 278]]);
    }
    let split = config(json!(true));
    let end = [39, 103, 407, 90, 795, 80, 777, 103, 41];
    let start = [39, 103, 401, 74, 355, 805, 103, 41];
    assert_eq!(
        ids(&split),
        [[&end[..], &[572]].concat(), [&start[..], &[76, 1025]].concat(), [&[232], &end[..], &[278]].concat()]
    );
    // Only text is split: a token that the model chooses is special all the same.
    assert_eq!(split.decode(&[11, 572], true), "Once");
    assert!(split.tokens(texts[0], true).unwrap().len() == 10 && split.is_special(11));
}

/// Transformers 4.57 puts the config's value into a pre-tokenizer that is ByteLevel alone, and 5.23 does not.
#[test]
fn a_prefix_space_is_as_the_pre_tokenizer_has_it_and_a_contradiction_is_refused() {
    let level =
        |prefix| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true});
    let asked = |asked| [("tokenizer_config.json", json!({"add_prefix_space": asked}))];
    for prefix in [true, false] {
        let alone = |file: &mut Value| file["pre_tokenizer"] = level(prefix);
        let once = |tokenizer: Tokenizer| tokenizer.decode(&tokenizer.encode("Once").unwrap(), false);
        let expected = if prefix { " Once" } else { "Once" };
        for files in [&asked(json!(prefix))[..], &asked(json!(null)), &[]] {
            assert_eq!(once(open(alone, files).unwrap()), expected, "{files:?}");
        }
        let message = open(alone, &asked(json!(!prefix))).err().unwrap().to_string();
        assert!(message.contains("`add_prefix_space`: expected the value of tokenizer.json"), "{message}");
        // A sequence, such as Falcon's, is changed by neither.
        let sequence =
            |file: &mut Value| file["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [level(prefix)]});
        assert_eq!(once(open(sequence, &asked(json!(!prefix))).unwrap()), expected);
    }
}

#[test]
fn spaces_are_not_cleaned_up() {
    let clean_up = |value: bool| beside(&[("tokenizer_config.json", json!({"clean_up_tokenization_spaces": value}))]);
    for value in [true, false] {
        let tokenizer = clean_up(value);
        assert_eq!(tokenizer.decode(&tokenizer.encode("a , b .").unwrap(), true), "a , b .");
        assert_eq!(tokenizer.ignores_clean_up(), value);
    }
    assert!(!beside(&[]).ignores_clean_up());
}

#[test]
fn the_end_of_text_is_named_as_transformers_reads_it() {
    let end = |files: &[(&str, Value)]| {
        let tokenizer = beside(files);
        tokenizer.eos().map(|eos| (eos.id, eos.text.clone(), eos.file))
    };
    let config = |content| ("tokenizer_config.json", content);
    let map = |content| ("special_tokens_map.json", content);
    let title = |file| Some((0, ">>TITLE<<".to_owned(), file));
    assert_eq!(end(&[]), None);
    assert_eq!(end(&[config(json!({"eos_token": null})), map(json!({}))]), None);
    assert_eq!(end(&[config(json!({"eos_token": ">>TITLE<<"}))]), title("tokenizer_config.json"));
    let object = json!({"__type": "AddedToken", "content": ">>TITLE<<", "lstrip": false});
    assert_eq!(end(&[config(json!({"eos_token": object}))]), title("tokenizer_config.json"));
    assert_eq!(end(&[map(json!({"eos_token": {"content": ">>TITLE<<"}}))]), title("special_tokens_map.json"));
    // The map goes before the config, unless the latter speaks for all.
    let other = json!({"eos_token": "<|endoftext|>"});
    assert_eq!(end(&[config(other.clone()), map(json!({"eos_token": ">>TITLE<<"}))]), title("special_tokens_map.json"));
    let whole = json!({"eos_token": ">>TITLE<<", "added_tokens_decoder": {}});
    assert_eq!(end(&[config(whole), map(other)]), title("tokenizer_config.json"));
    // One that nobody knows yet is a new token.
    let new = Some((VOCAB, "</s>".to_owned(), "tokenizer_config.json"));
    assert_eq!(end(&[config(json!({"eos_token": "</s>"}))]), new);
}

#[test]
fn tokens_of_the_template_are_put_around_a_text() {
    let plain = beside(&[]);
    let around =
        open(|file| file["post_processor"] = template(&["<|endoftext|>", ">>TITLE<<"], &[">>TITLE<<"]), &[]).unwrap();
    let text = "Once upon a time, there was a fox.";
    let own = plain.encode(text).unwrap();
    let whole = [&[11, 0][..], &own, &[0]].concat();
    assert_eq!(around.encode(text).unwrap(), whole);
    assert_eq!(around.encode("").unwrap(), [11, 0, 0]);

    let tokens = around.tokens(text, true).unwrap();
    assert!(tokens.iter().map(|token| token.id).eq(whole));
    assert_eq!((&*tokens[1].text, tokens[1].start, tokens[1].stop), ("", 0, 0));
    assert_eq!(tokens[2..].iter().map(|token| &*token.text).collect::<String>(), text);

    // They count, and stay: what is cut is the text.
    let last = |keep| around.encode_last(text, keep, true, &|| true).unwrap();
    assert_eq!(last(5), [&[11, 0][..], &own[own.len() - 2..], &[0]].concat());
    assert_eq!(last(3), [11, 0, 0]);
    assert_eq!(last(2), [0, 0]);
    assert_eq!(last(own.len() + 3), around.encode(text).unwrap());
    assert_eq!(plain.encode_last(text, 2, true, &|| true).unwrap(), own[own.len() - 2..]);
}

#[test]
fn long_texts_are_encoded_in_parts_from_their_end() {
    let tokenizer = beside(&[]);
    let words = ["fox", " the", "\n", " Once upon", "<|endoftext|>", " 1234", "  ", "é日"];
    for seed in 0..12 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let text: String = (0..rng.usize(5_000..40_000)).map(|_| *rng.choice(&words).unwrap()).collect();
        // The library gives offsets for the whole text at once.
        let whole: Vec<u32> = tokenizer.tokens(&text, true).unwrap().iter().map(|token| token.id).collect();
        assert!(tokenizer.encode(&text).unwrap() == whole, "seed {seed}");
        let keep = rng.usize(1..whole.len() * 2);
        let last = &whole[whole.len().saturating_sub(keep)..];
        assert!(tokenizer.encode_last(&text, keep, true, &|| true).unwrap() == last, "seed {seed}, the last {keep}");

        let bytes = keep * tokenizer.token_bytes_max() / 50;
        let tail = tokenizer.tail(&text, bytes);
        assert!(text.ends_with(tail) && tail.len() <= 2 * bytes && tail.len() >= bytes.min(text.len()), "seed {seed}");
        assert!(whole.ends_with(&tokenizer.encode(tail).unwrap()), "seed {seed}: {bytes} bytes");
    }
    // Where there is no white space, within a word.
    let letters = "é".repeat(1000);
    assert_eq!(tokenizer.tail(&letters, 101).len(), 102);
    assert_eq!(tokenizer.tail(&letters, 1001), letters);
    assert_eq!(tokenizer.tail("", 5), "");
}

#[test]
fn whoever_is_gone_ends_the_work() {
    let (tokenizer, text) = (beside(&[]), "word ".repeat(100_000));
    let asked = std::cell::Cell::new(0);
    let cancelled = tokenizer.encode_last(&text, usize::MAX, true, &|| asked.replace(asked.get() + 1) < 2);
    assert!(matches!(cancelled, Err(TokenizerError::Cancelled)));
    assert_eq!(asked.get(), 3);
}

#[test]
fn tokens_are_at_most_so_long() {
    let text = "=".repeat(10_000);
    let tokenizer = beside(&[]);
    let longest = tokenizer.token_bytes_max();
    assert!((0..VOCAB).all(|id| tokenizer.bytes(id).len() <= longest));
    assert!(tokenizer.encode(&text).unwrap().len() * longest >= text.len());
    let long = open(|file| add_token(file, VOCAB, &text), &[]).unwrap();
    assert_eq!(long.token_bytes_max(), 10_000);
}

#[test]
fn a_sequence_of_one_decoder_is_that_decoder() {
    let level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let sequence = |decoders: Value| json!({"type": "Sequence", "decoders": decoders});
    assert!(open(|file| file["decoder"] = sequence(json!([level])), &[]).is_ok());
    let several = open(|file| file["decoder"] = sequence(json!([level, {"type": "Fuse"}])), &[]);
    assert!(several.unwrap_err().to_string().contains("must be ByteLevel, as in every Falcon model, and is Sequence"));
}

#[test]
fn errors_name_the_file_and_what_is_expected() {
    let missing = Tokenizer::open(Path::new("no-such-model")).unwrap_err();
    assert!(matches!(missing, TokenizerError::Missing { .. }));
    let message = missing.to_string();
    assert!(message.contains("no-such-model/tokenizer.json") && message.contains("must have"), "{message}");

    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 2734130\n";
    let cases = [
        ("tokenizer.json", "{}", "tokenizer.json: not a readable"),
        ("tokenizer.json", pointer, "tokenizer.json: a Git LFS pointer"),
        ("tokenizer_config.json", pointer, "tokenizer_config.json: a Git LFS pointer"),
        ("tokenizer_config.json", "[1]", "tokenizer_config.json: not a JSON object"),
        (
            "tokenizer_config.json",
            r#"{"split_special_tokens": null}"#,
            "`split_special_tokens`: expected true or false",
        ),
        ("tokenizer_config.json", r#"{"add_prefix_space": "yes"}"#, "`add_prefix_space`: expected true or false"),
        ("tokenizer_config.json", r#"{"eos_token": 11}"#, "`eos_token`: expected a token's text, or an object"),
        ("tokenizer_config.json", r#"{"added_tokens_decoder": []}"#, "`added_tokens_decoder`: expected an object"),
        (
            "tokenizer_config.json",
            r#"{"added_tokens_decoder": {"x": "a"}}"#,
            "`added_tokens_decoder.x`: expected a token id",
        ),
        (
            "special_tokens_map.json",
            r#"{"additional_special_tokens": "a"}"#,
            "`additional_special_tokens`: expected a list",
        ),
        ("special_tokens_map.json", r#"{"pad_token": {}}"#, "`pad_token`: expected a token's text"),
        ("added_tokens.json", r#"{"<|x|>": -1}"#, "`<|x|>`: expected a token id, found -1"),
        (
            "added_tokens.json",
            r#"{"<|x|>": 1030}"#,
            "token `<|x|>` has id 1030 here, but is not in tokenizer.json, where the next free id is 1024",
        ),
    ];
    for (file, content, expected) in cases {
        let dir = folder(|_| {}, &[]);
        std::fs::write(dir.path().join(file), content).unwrap();
        let message = Tokenizer::open(dir.path()).unwrap_err().to_string();
        assert!(message.contains(file) && message.contains(expected), "{message}");
    }
    let fuse = open(|file| file["decoder"] = json!({"type": "Fuse"}), &[]).unwrap_err().to_string();
    assert!(fuse.contains("must be ByteLevel, as in every Falcon model, and is Fuse"), "{fuse}");

    let bos = open(|file| file["post_processor"] = template(&["[BOS]"], &[]), &[]).unwrap();
    let message = bos.tokens_beyond(VOCAB as usize).unwrap_err().to_string();
    assert!(message.contains("(1024) to every prompt, and the model's vocabulary has 1024 tokens"), "{message}");
}
