//! Completions: each way to ask for one, and what comes of it.

use crate::scripted::{EOS, Script, tokenizer};
use serde_json::{Value, json};
use step::{Choice, TokenBias};

#[tokio::test]
async fn a_completion_to_the_byte() {
    let server = Script::new(&[" blue."]).serve().await;
    let answer = server.complete(&json!({"model": "any", "prompt": "The sky is", "temperature": 0})).await;
    let expected = concat!(
        r#"{"id":"cmpl-test","object":"text_completion","created":0,"model":"scripted","#,
        r#""system_fingerprint":"fp_0.1.0-script-tp1","choices":[{"index":0,"text":" blue.","logprobs":null,"#,
        r#""finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":3,"total_tokens":6,"#,
        r#""prompt_tokens_details":{"cached_tokens":0}}}"#,
    );
    assert_eq!((answer.status, &*answer.timeless()), (200, expected));
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

/// Null is as absent, and unknown keys are ignored.
#[tokio::test]
async fn parameters_have_defaults() {
    let server = Script::new(&[" blue and green and red"]).serve().await;
    let names = [
        "max_tokens",
        "n",
        "best_of",
        "echo",
        "logprobs",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "logit_bias",
        "seed",
        "stop",
        "stop_token_ids",
        "include_stop_str_in_output",
        "ignore_eos",
        "min_tokens",
        "truncate_prompt_tokens",
        "add_special_tokens",
        "response_format",
        "suffix",
        "user",
        "model",
    ];
    let mut nulls: Value =
        names.iter().map(|&name| (name.to_owned(), Value::Null)).collect::<serde_json::Map<_, _>>().into();
    nulls["prompt"] = json!("The sky");
    for body in [json!({"prompt": "The sky", "unknown": {"a": [1]}}), nulls] {
        let answer = server.complete(&body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let sequence = server.asked().remove(0);
        let settings = sequence.sampling.settings();
        assert!(matches!(settings.choice, Choice::Draw { index: 0, .. }), "{settings:?}");
        let default = step::SamplingSettings { choice: settings.choice, ..Default::default() };
        assert_eq!((settings, sequence.top_n, sequence.min_tokens), (&default, 0, 0));
    }
}

#[tokio::test]
async fn parameters_reach_the_ranks() {
    let server = Script::new(&[" blue and green and red"]).serve().await;
    let body = json!({
        "prompt": "The sky", "max_tokens": 3, "temperature": 0.5, "top_p": 0.75, "top_k": 9, "min_p": 0.125, "seed": -1,
        "presence_penalty": 0.5, "frequency_penalty": -0.5, "repetition_penalty": 1.5, "logit_bias": {"17": -100, "5": 1.5},
        "min_tokens": 2, "stop_token_ids": [77],
    });
    let answer = server.complete(&body).await.json();
    assert_eq!(
        (&answer["usage"]["completion_tokens"], &answer["choices"][0]["finish_reason"]),
        (&json!(3), &json!("length"))
    );
    let sequence = server.asked().remove(0);
    let settings = sequence.sampling.settings();
    assert_eq!(settings.choice, Choice::Draw { seed: u64::MAX, index: 0 });
    assert_eq!(
        (settings.temperature, settings.top_p, settings.top_k, settings.min_p),
        (0.5, Some(0.75), Some(9), 0.125)
    );
    let penalties = (settings.presence_penalty, settings.frequency_penalty, settings.repetition_penalty);
    assert_eq!((penalties, settings.relative_frequency_penalty), ((0.5, -0.5, 1.5), 0.0));
    let mut biases = settings.logit_bias.as_deref().expect("some").to_vec();
    biases.sort_by_key(|by| by.id);
    assert_eq!(biases, [TokenBias { id: 5, bias: 1.5 }, TokenBias { id: 17, bias: -100.0 }]);
    assert_eq!((sequence.min_tokens, sequence.ends), (2, vec![EOS, 77]));
    for off in [json!({"top_k": -1, "top_p": 1}), json!({"top_k": 0, "min_p": 0})] {
        let mut body = off.clone();
        body["prompt"] = json!("The sky");
        body["temperature"] = json!(0);
        assert_eq!(server.complete(&body).await.status, 200);
        assert_eq!(*server.asked().remove(0).sampling.settings(), step::SamplingSettings::default(), "{off}");
    }
}

#[tokio::test]
async fn prompts_come_in_four_forms() {
    let server = Script::new(&[" one", " two"]).serve().await;
    let ids = |text: &str| tokenizer().encode(text).expect("a text");
    let rows = [
        (json!("The sky"), vec![ids("The sky")]),
        (json!(["The sky", "A fox"]), vec![ids("The sky"), ids("A fox")]),
        (json!([1, 2, 3]), vec![vec![1, 2, 3]]),
        (json!([[1, 2], [3]]), vec![vec![1, 2], vec![3]]),
    ];
    for (prompt, expected) in rows {
        let answer = server.complete(&json!({"prompt": prompt, "n": 2})).await.json();
        let texts: Vec<_> = answer["choices"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|c| (c["index"].clone(), c["text"].clone()))
            .collect();
        let all = [" one", " two"].into_iter().cycle().take(2 * expected.len());
        let all: Vec<_> = all.enumerate().map(|(index, text)| (json!(index), json!(text))).collect();
        assert_eq!(texts, all, "{prompt}");
        let mut asked: Vec<_> = server.asked().into_iter().map(|sequence| sequence.tokens).collect();
        asked.sort();
        let mut twice: Vec<_> = expected.iter().chain(&expected).cloned().collect();
        twice.sort();
        assert_eq!(asked, twice, "{prompt}");
        let prompt_tokens = expected.iter().map(Vec::len).sum::<usize>();
        assert_eq!(answer["usage"]["prompt_tokens"], prompt_tokens, "{prompt}");
        assert_eq!(answer["usage"]["completion_tokens"], 4 * expected.len(), "{prompt}");
    }
    // The end of a prompt.
    let body = json!({"prompt": [1, 2, 3, 4], "truncate_prompt_tokens": 2});
    assert_eq!(server.complete(&body).await.json()["usage"]["prompt_tokens"], 2);
    assert_eq!(server.asked().remove(0).tokens, [3, 4]);
    let long: Vec<u32> = (0..100).collect();
    let body = json!({"prompt": long, "truncate_prompt_tokens": -1, "max_tokens": 1});
    assert_eq!(server.complete(&body).await.json()["usage"]["prompt_tokens"], 63);
}

#[tokio::test]
async fn the_best_of_several_come_first_and_all_are_counted() {
    // Longer ones are less probable.
    let server = Script::new(&[" one and two and three", " one", " one and"]).serve().await;
    let answer = server.complete(&json!({"prompt": "x", "best_of": 3, "n": 2})).await.json();
    let texts: Vec<_> = answer["choices"].as_array().expect("a list").iter().map(|choice| &choice["text"]).collect();
    assert_eq!(texts, [" one", " one and"]);
    let all: usize = [" one and two and three", " one", " one and"]
        .iter()
        .map(|text| tokenizer().encode(text).expect("a text").len() + 1)
        .sum();
    assert_eq!(answer["usage"]["completion_tokens"], all);
}

#[tokio::test]
async fn stop_strings_are_not_shown() {
    let server = Script::new(&[" one two three four"]).serve().await;
    let text_of = async |more: Value| {
        let mut body = more;
        body["prompt"] = json!("x");
        body["temperature"] = json!(0);
        let choice = server.complete(&body).await.json()["choices"][0].clone();
        (choice["text"].as_str().expect("a text").to_owned(), choice["finish_reason"].clone())
    };
    let stopped = |text: &str| (text.to_owned(), json!("stop"));
    assert_eq!(text_of(json!({"stop": "wo th"})).await, stopped(" one t"));
    assert_eq!(text_of(json!({"stop": ["nowhere", "three"]})).await, stopped(" one two "));
    assert_eq!(text_of(json!({"stop": "wo th", "include_stop_str_in_output": true})).await, stopped(" one two th"));
    let three = tokenizer().encode(" three").expect("a text");
    assert_eq!(text_of(json!({"stop_token_ids": three})).await, stopped(" one two three"));
    assert_eq!(text_of(json!({"max_tokens": 2})).await, (" one two".to_owned(), json!("length")));
    let endless = text_of(json!({"ignore_eos": true, "max_tokens": 7})).await;
    assert_eq!(endless, (" one two three four one two".to_owned(), json!("length")));
}

#[tokio::test]
async fn log_probabilities_are_the_models_own() {
    let server = Script::new(&[" blue.", " 🦅"]).serve().await;
    let body = json!({"prompt": "The sky is", "temperature": 0, "logprobs": 2});
    let logprobs = server.complete(&body).await.json()["choices"][0]["logprobs"].clone();
    let name = |id: u32| tokenizer().decode(&[id], false);
    let [blue, dot] = [" blue", "."].map(|text| tokenizer().encode(text).expect("a text")[0]);
    let top = |id: u32, logprob: f64| json!({name(id): logprob, name(id + 1): logprob - 1.0});
    let expected = json!({
        "text_offset": [0, 5, 6], "token_logprobs": [-0.25, -0.5, -0.75], "tokens": [" blue", ".", "<|endoftext|>"],
        "top_logprobs": [top(blue, -0.25), top(dot, -0.5), top(EOS, -0.75)],
    });
    assert_eq!(logprobs, expected);

    // With none of the others, the token itself.
    let logprobs = server.complete(&json!({"prompt": "x", "temperature": 0, "logprobs": 0})).await.json();
    assert_eq!(logprobs["choices"][0]["logprobs"]["top_logprobs"][0], json!({" blue": -0.25}));

    // Bytes that are no character.
    let body = json!({"prompt": "x", "n": 2, "logprobs": 0});
    let logprobs = server.complete(&body).await.json()["choices"][1]["logprobs"].clone();
    assert!(
        logprobs["tokens"][0].as_str().is_some_and(|token| token.starts_with("bytes:\\x20\\xf0\\x9f")),
        "{logprobs}"
    );
    assert_eq!(logprobs["text_offset"].as_array().and_then(|all| all.last()), Some(&json!(2)), "{logprobs}");
}

#[tokio::test]
async fn an_echo_is_the_prompt_with_its_log_probabilities() {
    let server = Script::new(&[" blue."]).serve().await;
    let body = json!({"prompt": "The sky is", "temperature": 0, "echo": true, "logprobs": 1, "max_tokens": 1});
    let choice = server.complete(&body).await.json()["choices"][0].clone();
    assert_eq!(choice["text"], "The sky is blue");
    let logprobs = &choice["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["The", " sky", " is", " blue"]));
    assert_eq!(logprobs["token_logprobs"], json!([null, -1.0, -2.0, -0.25]));
    assert_eq!(logprobs["text_offset"], json!([0, 3, 7, 10]));
    assert_eq!(logprobs["top_logprobs"], json!([null, null, null, {" blue": -0.25}]));

    // No token at all may be wanted.
    let body = json!({"prompt": "The sky is", "echo": true, "logprobs": 1, "max_tokens": 0});
    let answer = server.complete(&body).await.json();
    assert_eq!(answer["choices"][0]["text"], "The sky is");
    assert_eq!(answer["choices"][0]["logprobs"]["token_logprobs"], json!([null, -1.0, -2.0]));
    assert_eq!((&answer["usage"]["completion_tokens"], &answer["usage"]["total_tokens"]), (&json!(0), &json!(3)));

    // Ids, what is left of a prompt, and several.
    let ids = tokenizer().encode("The sky is").expect("a text");
    for (body, expected) in [
        (json!({"prompt": ids}), vec!["The sky is blue."]),
        (json!({"prompt": "The sky is", "truncate_prompt_tokens": 2}), vec![" sky is blue."]),
        (json!({"prompt": ["A", "B"]}), vec!["A blue.", "B blue."]),
    ] {
        let mut body = body;
        (body["echo"], body["temperature"]) = (json!(true), json!(0));
        let answer = server.complete(&body).await.json();
        let texts: Vec<_> =
            answer["choices"].as_array().expect("a list").iter().map(|choice| &choice["text"]).collect();
        assert_eq!(texts, expected, "{body}");
    }
}
