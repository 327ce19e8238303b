//! `peregrine generate`.

use crate::apis::{check_details, keys};
use crate::support::{Program, Server, demo_model, model_dir};
use serde_json::Value;
use std::path::Path;

const PROMPT: &str = "Once upon a time";

/// Runs `peregrine generate PROMPT` with these arguments, which must succeed.
async fn generate(arguments: &[&str]) -> String {
    Program::new(["generate", PROMPT].iter().chain(arguments)).run().await.success()
}

/// The same with `--json`: one object, and nothing else.
async fn generate_json(arguments: &[&str]) -> Value {
    let output = generate(&[&["--json"], arguments].concat()).await;
    assert_eq!(output.lines().count(), 1, "{output}");
    serde_json::from_str(&output).unwrap_or_else(|error| panic!("{output}: {error}"))
}

fn text(answer: &Value) -> &str {
    answer["generated_text"].as_str().expect("a text")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn json_is_that_of_tgi() {
    let plain = generate(&["--json", "--max-new-tokens", "2", "--ignore-eos"]).await;
    assert_eq!(keys(&plain), ["generated_text"]);

    let details = ["--json", "--max-new-tokens", "2", "--details", "--decoder-input-details", "--ignore-eos"];
    check_details(&generate(&details).await);

    let drawn = ["--details", "--seed", "5", "--temperature", "1.5", "--max-new-tokens", "8"];
    let drawn = generate_json(&drawn).await;
    assert_eq!(drawn["details"]["seed"], 5);

    let top = generate_json(&["--details", "--top-n-tokens", "2", "--max-new-tokens", "3", "--ignore-eos"]).await;
    let (tokens, top) = (top["details"]["tokens"].as_array(), top["details"]["top_tokens"].as_array());
    let (tokens, top) = (tokens.expect("tokens"), top.expect("top tokens"));
    assert_eq!((tokens.len(), top.len()), (3, 3));
    for (token, top) in tokens.iter().zip(top) {
        assert_eq!((top.as_array().map(Vec::len), &top[0]), (Some(2), token));
    }

    let best = ["--details", "--best-of", "2", "--do-sample", "--max-new-tokens", "8", "--ignore-eos"];
    let best = generate_json(&best).await;
    let mean = |sequence: &Value| {
        let tokens = sequence["tokens"].as_array().expect("tokens");
        tokens.iter().map(|token| token["logprob"].as_f64().expect("a number")).sum::<f64>() / tokens.len() as f64
    };
    let (best, others) = (&best["details"], best["details"]["best_of_sequences"].as_array().expect("others"));
    assert!(others.len() == 1 && best["seed"].is_u64() && best["seed"] != others[0]["seed"], "{best}");
    assert!(mean(best) >= mean(&others[0]), "{best}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_degree_says_the_same() {
    let arguments = ["--max-new-tokens", "40", "--tensor-parallel"];
    let expected = generate(&[&arguments[..], &["1"]].concat()).await;
    assert!(expected.len() > 40 && expected.ends_with('\n'), "{expected:?}");
    for world in ["2", "3", "8"] {
        assert_eq!(generate(&[&arguments[..], &[world]].concat()).await, expected, "over {world}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_prompt_comes_in_every_way() {
    let rest = ["--json", "--max-new-tokens", "12"];
    let expected = generate(&rest).await;
    let elsewhere = tempfile::TempDir::new().expect("a temporary folder");
    let model = demo_model();
    let named = ["--model", model.to_str().expect("UTF-8")];
    let ways = [
        Program::new(["generate"].iter().chain(&rest)).input(PROMPT),
        Program::new(["generate", "-"].iter().chain(&rest)).input(PROMPT),
        Program::new(["generate", PROMPT].iter().chain(&rest)).dir(elsewhere.path()),
        Program::new(["generate", PROMPT].iter().chain(&rest).chain(&named)).dir(Path::new("/")),
    ];
    for way in ways {
        assert_eq!(way.run().await.success(), expected);
    }

    let details = generate_json(&["--decoder-input-details", "--max-new-tokens", "12"]).await;
    let prefill = details["details"]["prefill"].as_array().expect("the prompt");
    let ids: Vec<_> = prefill.iter().map(|token| token["id"].to_string()).collect();
    let by_ids = Program::new(["generate", "--input-ids", &ids.join(",")].iter().chain(&rest));
    assert_eq!(by_ids.run().await.success(), expected);
    let both = Program::new(["generate", PROMPT, "--input-ids", "1"]).run().await.failure();
    assert!(both.contains("--input-ids"), "{both}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_answers_as_the_embedded_one() {
    let model = model_dir("tiny-falcon-180b");
    let model = ["--model", model.to_str().expect("UTF-8"), "--tensor-parallel", "2"];
    let server = Server::ready(model).await;
    let address = server.grpc.to_string();
    let url = format!("http://{address}");
    let details =
        ["--json", "--max-new-tokens", "12", "--details", "--top-n-tokens", "1", "--seed", "3", "--do-sample"];
    let stream = ["--max-new-tokens", "12", "--return-full-text"];
    for arguments in [&details[..], &stream] {
        let embedded = generate(&[arguments, &model].concat()).await;
        for address in [&address, &url] {
            assert_eq!(generate(&[arguments, &["--server", address]].concat()).await, embedded);
        }
    }
    let refused = Program::new(["generate", PROMPT, "--top-k", "0", "--server", &address]).run().await.failure();
    assert_eq!(refused, "error: Input validation error: `top_k` must be strictly positive\n");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn parameters_do_what_they_say() {
    let whole = generate_json(&["--max-new-tokens", "40"]).await;
    let whole = text(&whole);
    let stop: String = whole.chars().skip(20).take(6).collect();
    let end = whole.find(&stop).expect("cut from it") + stop.len();
    // A stop string stays in the text, streamed or not.
    let stopped = ["--max-new-tokens", "40", "--stop", &stop, "--stop", "never in a story"];
    assert_eq!(text(&generate_json(&stopped).await), &whole[..end]);
    assert_eq!(generate(&stopped).await.trim_end_matches('\n'), whole[..end].trim_end_matches('\n'));

    let full = generate(&["--max-new-tokens", "40", "--return-full-text"]).await;
    assert_eq!(full, format!("{PROMPT}{whole}\n"));

    // Of a prompt that is cut, all is returned.
    let cut = ["--truncate", "2", "--return-full-text", "--max-new-tokens", "3", "--decoder-input-details"];
    let cut = generate_json(&cut).await;
    assert!(text(&cut).starts_with(PROMPT), "{cut}");
    let prefill = cut["details"]["prefill"].as_array().expect("the prompt");
    assert_eq!(prefill.iter().map(|token| token["text"].as_str().expect("a text")).collect::<String>(), " a time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_text_that_is_shown_as_it_comes_is_complete() {
    // Tokens drawn at random: characters over several of them, characters that never end, special tokens.
    let model = model_dir("tiny-falcon-7b");
    let model = ["--model", model.to_str().expect("UTF-8"), "--temperature", "8", "--ignore-eos"];
    for seed in ["9", "10", "11"] {
        let arguments = [&model[..], &["--max-new-tokens", "97", "--seed", seed]].concat();
        let whole = generate_json(&arguments).await;
        let shown = generate(&arguments).await;
        // What a special token cuts off within a character is only in the whole text.
        let without = |text: &str| text.replace('\u{FFFD}', "");
        assert_eq!(without(shown.trim_end_matches('\n')), without(text(&whole)).trim_end_matches('\n'), "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn invalid_parameters_are_refused_as_tgi_does() {
    let cases: [(&[&str], &str); 10] = [
        (&["--max-new-tokens", "0"], "`max_new_tokens` must be strictly positive"),
        (&["--temperature", "-1"], "`temperature` must be strictly positive"),
        (&["--repetition-penalty", "0"], "`repetition_penalty` must be strictly positive"),
        (&["--top-p", "1"], "`top_p` must be > 0.0 and < 1.0"),
        (&["--typical-p", "0"], "`typical_p` must be > 0.0 and < 1.0"),
        (&["--top-k", "-3"], "`top_k` must be strictly positive"),
        (&["--truncate", "0"], "`truncate` must be strictly positive and less than 2047. Given: 0"),
        (&["--json", "--best-of", "3"], "`best_of` must be > 0 and <= 2. Given: 3"),
        (&["--json", "--best-of", "2"], "you must use sampling when `best_of` is > 1"),
        (
            &["--max-new-tokens", "2045"],
            "`inputs` tokens + `max_new_tokens` must be <= 2048. Given: 4 `inputs` tokens and 2045 `max_new_tokens`",
        ),
    ];
    for (flags, message) in cases {
        let ended = Program::new(["generate", PROMPT].iter().chain(flags)).run().await;
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert_eq!(ended.failure(), format!("error: Input validation error: {message}\n"));
    }
    let empty = Program::new(["generate", ""]).run().await.failure();
    assert_eq!(empty, "error: Input validation error: `inputs` cannot be empty\n");
    let needs_json = Program::new(["generate", PROMPT, "--details"]).run().await;
    assert_eq!(needs_json.status.code(), Some(2));
    assert!(needs_json.failure().contains("--json"));
}
