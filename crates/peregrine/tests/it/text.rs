//! Texts: their ends, stop strings, special tokens, and prompts of any length.

use crate::support::{Client, Program, Server, model_dir, request, within};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;
use tonic::Code;
use wire::generation as pb;

const TINY: &str = "tiny-falcon-7b";
/// Tokens of that model.
const VOCAB: u32 = 1024;

/// The tiny model with these files beside its own, or instead of them.
fn folder(files: &[(&str, Value)]) -> TempDir {
    let dir = TempDir::new().expect("a temporary folder");
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(model_dir(TINY).join(file), dir.path().join(file)).expect("a copy");
    }
    for (name, content) in files {
        fs::write(dir.path().join(name), content.to_string()).expect("a file");
    }
    dir
}

fn json_file(name: &str) -> Value {
    serde_json::from_slice(&fs::read(model_dir(TINY).join(name)).expect("a file")).expect("JSON")
}

/// A continuation of "Once", with details.
async fn generate(model: &Path, arguments: &[&str]) -> Value {
    let model = ["--model", model.to_str().expect("UTF-8"), "--tensor-parallel", "1"];
    let command = ["generate", "--json", "--details", "Once"].into_iter().chain(model).chain(arguments.iter().copied());
    serde_json::from_str(&Program::new(command).run().await.success()).expect("JSON")
}

fn tokens(answer: &Value) -> &[Value] {
    answer["details"]["tokens"].as_array().expect("tokens")
}

fn id(token: &Value) -> u64 {
    token["id"].as_u64().expect("an id")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn whoever_names_an_end_of_text_is_heard() {
    let plain = folder(&[]);
    let free = generate(plain.path(), &[]).await;
    assert_eq!((&free["details"]["finish_reason"], tokens(&free).len()), (&json!("length"), 20));
    // A token that is generated for the first time there, and is spelled in letters.
    let at = (1..20).find(|&at| {
        let text = tokens(&free)[at]["text"].as_str().expect("a text");
        let new = tokens(&free)[..at].iter().all(|token| id(token) != id(&tokens(&free)[at]));
        new && text.len() > 1 && text.bytes().all(|byte| byte.is_ascii_alphabetic())
    });
    let at = at.expect("a token of letters");
    let end = &tokens(&free)[at];
    let mut config = json_file("config.json");
    config["eos_token_id"] = json!([11, end["id"]]);
    let object = json!({"__type": "AddedToken", "content": end["text"], "special": true});
    let rows = [
        vec![("generation_config.json", json!({"eos_token_id": [11, end["id"]]}))],
        vec![("generation_config.json", json!({"eos_token_id": end["id"]}))],
        vec![("config.json", config.clone())],
        vec![("config.json", config.clone()), ("generation_config.json", json!({"eos_token_id": null}))],
        vec![("tokenizer_config.json", json!({"eos_token": end["text"]}))],
        vec![("tokenizer_config.json", json!({"eos_token": object}))],
        vec![("special_tokens_map.json", json!({"eos_token": end["text"]}))],
    ];
    for files in rows {
        let model = folder(&files);
        let answer = generate(model.path(), &[]).await;
        assert_eq!(answer["details"]["finish_reason"], "eos_token", "{files:?}");
        assert_eq!(tokens(&answer).len(), at + 1, "{files:?}");
    }
    // A generation config that names others goes before config.json.
    let other = folder(&[("config.json", config), ("generation_config.json", json!({"eos_token_id": 11}))]);
    assert_eq!(generate(other.path(), &[]).await["details"]["finish_reason"], "length");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_log_says_which_tokens_end_a_text_and_which_the_model_lacks() {
    let flags = |model: &TempDir| ["--model".to_owned(), model.path().to_str().expect("UTF-8").to_owned()];
    let files = [
        ("generation_config.json", json!({"eos_token_id": [5]})),
        ("tokenizer_config.json", json!({"eos_token": "<|endoftext|>", "pad_token": "[PAD]"})),
    ];
    let model = folder(&files);
    let mut server = Server::ready(flags(&model)).await;
    let log = server.says("tokens that end a text").await;
    let ends = "5 (generation_config.json `eos_token_id`), 11 (tokenizer_config.json `eos_token`)";
    assert!(log.contains(ends), "{log}");
    assert!(log.contains("the tokenizer has 1 tokens that the model does not have"), "{log}");
    assert!(log.contains("`[PAD]` (1024)"), "{log}");
    let answer = server.post("/generate", r#"{"inputs": "a [PAD] b"}"#).await;
    let message =
        "Input validation error: `inputs` has the token `[PAD]` (1024), but the model's vocabulary has 1024 tokens";
    assert_eq!(answer.status, 422);
    assert!(answer.body.contains(message), "{}", answer.body);
    server.stop().await;

    let mut config = json_file("config.json");
    config["eos_token_id"] = Value::Null;
    let model = folder(&[("config.json", config)]);
    let mut server = Server::ready(flags(&model)).await;
    server.says("no token ends a text").await;
    server.stop().await;

    for (file, content, message) in [
        (
            "generation_config.json",
            json!({"eos_token_id": [11, VOCAB]}),
            "/generation_config.json: `eos_token_id` is token 1024",
        ),
        ("tokenizer_config.json", json!({"eos_token": "</s>"}), "/tokenizer_config.json: `eos_token` is token 1024"),
        ("generation_config.json", json!({"eos_token_id": -1}), "expected a token id or a list of token ids, found -1"),
    ] {
        let model = folder(&[(file, content)]);
        let ended = Program::new(["generate", "Once"].map(str::to_owned).into_iter().chain(flags(&model))).run().await;
        let said = ended.failure();
        assert!(said.contains(message), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn stop_strings_may_have_special_tokens_in_them() {
    let arguments = ["--do-sample", "--temperature", "1.5", "--seed", "1", "--ignore-eos", "--max-new-tokens", "200"];
    let free = generate(&model_dir(TINY), &arguments).await;
    let at = tokens(&free).iter().position(|token| token["special"] == true).expect("a special token among 200");
    let text = |token: &Value| token["text"].as_str().expect("a text").to_owned();
    let special = text(&tokens(&free)[at]);
    let visible: String = tokens(&free)[..at].iter().map(text).collect();
    let last = visible.chars().next_back().expect("a text before it");
    for stop in [special.clone(), special[..special.len() - 1].to_owned(), format!("{last}{special}")] {
        let answer = generate(&model_dir(TINY), &[&arguments[..], &["--stop", &stop]].concat()).await;
        assert_eq!(answer["details"]["finish_reason"], "stop_sequence", "{stop}");
        assert_eq!(tokens(&answer).len(), at + 1, "{stop}");
        assert_eq!(answer["generated_text"], json!(visible), "{stop}");
        assert_eq!(text(&tokens(&answer)[at]), special);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn tokens_of_the_template_are_part_of_the_prompt() {
    let mut tokenizer = json_file("tokenizer.json");
    tokenizer["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [11], "tokens": ["<|endoftext|>"]}},
    });
    let model = folder(&[("tokenizer.json", tokenizer)]);
    let server = Server::ready(["--model", model.path().to_str().expect("UTF-8")]).await;
    let client = server.client().await;
    let text = "Once upon a time";
    let listed: Vec<u32> = client.tokenize(text).await.iter().map(|token| token.id).collect();
    assert!(listed[0] == 11 && listed.len() > 2);
    for truncate in [None, Some(2)] {
        let parameters = pb::Parameters {
            max_new_tokens: Some(1),
            decoder_input_details: Some(true),
            return_full_text: Some(true),
            truncate,
            ..Default::default()
        };
        let answer = client.generate(request(text, parameters)).await;
        let prefill: Vec<u32> = answer.details.expect("details").prefill.iter().map(|token| token.id).collect();
        let expected = match truncate {
            None => listed.clone(),
            Some(_) => vec![11, listed[listed.len() - 1]],
        };
        assert_eq!(prefill, expected);
        assert!(answer.generated_text.starts_with(text));
    }
    server.stop().await;
}

/// As long as a message may be, of one word, and of many.
fn long_texts() -> [String; 2] {
    ["a".repeat(3_900_000), "word ".repeat(780_000)]
}

async fn refused(client: Client, text: String) {
    let asked = client.try_generate(request(&text, pb::Parameters::default())).await.expect_err("too long");
    assert_eq!(asked.code(), Code::InvalidArgument);
    let most = "`inputs` must have at most ";
    assert!(asked.message().contains(most) && asked.message().ends_with("Given: 3900000 bytes"), "{asked}");
    let mut stub = client.generation();
    let listed = within("an answer", stub.tokenize(pb::TokenizeRequest { inputs: text })).await.expect_err("too long");
    assert_eq!(listed.code(), Code::InvalidArgument);
    assert!(listed.message().contains(most), "{listed}");
}

async fn truncated(client: Client, text: String) -> Vec<u32> {
    let parameters = pb::Parameters {
        max_new_tokens: Some(1),
        decoder_input_details: Some(true),
        truncate: Some(100),
        ..Default::default()
    };
    let answer = client.generate(request(&text, parameters)).await;
    answer.details.expect("details").prefill.iter().map(|token| token.id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn prompts_far_beyond_the_limit_cost_no_memory() {
    let server = Server::ready(["--model", model_dir(TINY).to_str().expect("UTF-8"), "--tokenizer-threads", "2"]).await;
    let client = server.client().await;
    let mut calls = tokio::task::JoinSet::new();
    for text in long_texts() {
        for _ in 0..8 {
            calls.spawn(refused(client.clone(), text.clone()));
        }
    }
    while let Some(call) = calls.join_next().await {
        call.expect("refused");
    }
    // Of a long text the end is the prompt: the tokens of a shorter text with the same end.
    let [letters, words] = long_texts();
    assert_eq!(truncated(client.clone(), letters).await.len(), 100);
    let whole = truncated(client.clone(), words.clone() + "the end").await;
    assert_eq!(whole, truncated(client.clone(), words[..5_000].to_owned() + "the end").await);
    assert_eq!(whole.len(), 100);

    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the server runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    let peak_kib: usize = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    // Sixteen callers' messages, twice while they are decoded, and little besides.
    assert!(peak_kib < 400 << 10, "{peak_kib} KiB");
    server.stop().await;
}
