//! Streams, to the byte where clients depend on it.

use crate::scripted::{Answer, Script};
use serde_json::{Value, json};

/// One event of a completion.
fn event(choices: &str, usage: &str) -> String {
    let head = r#""id":"cmpl-test","object":"text_completion","created":0,"model":"scripted","system_fingerprint":"fp_0.1.0-script-tp1""#;
    format!("data: {{{head},\"choices\":[{choices}]{usage}}}\n\n")
}

#[tokio::test]
async fn a_completion_to_the_byte() {
    let server = Script::new(&[" blue."]).serve().await;
    let body = json!({"prompt": "The sky is", "temperature": 0, "stream": true});
    let answer = server.complete(&body).await;
    let piece =
        |text: &str, finish: &str| format!(r#"{{"index":0,"text":"{text}","logprobs":null,"finish_reason":{finish}}}"#);
    let pieces = [piece(" blue", "null"), piece(".", "null"), piece("", "\"stop\"")];
    let expected = pieces.iter().map(|piece| event(piece, "")).collect::<String>() + "data: [DONE]\n\n";
    assert_eq!((answer.status, answer.timeless()), (200, expected));
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    assert_eq!(answer.header("x-request-id"), Some("test"));

    // The usage has an event of its own; in all others it is null.
    let mut body = body;
    body["stream_options"] = json!({"include_usage": true});
    let usage = |tokens: usize| {
        format!(
            r#","usage":{{"prompt_tokens":3,"completion_tokens":{tokens},"total_tokens":{},"prompt_tokens_details":{{"cached_tokens":0}}}}"#,
            3 + tokens
        )
    };
    let expected = pieces.iter().map(|piece| event(piece, r#","usage":null"#)).collect::<String>();
    let expected = expected + &event("", &usage(3)) + "data: [DONE]\n\n";
    assert_eq!(server.complete(&body).await.timeless(), expected);

    // Or all of them have what there is so far.
    body["stream_options"]["continuous_usage_stats"] = json!(true);
    let expected: String = (1..).zip(&pieces).map(|(tokens, piece)| event(piece, &usage(tokens))).collect();
    let expected = expected + &event("", &usage(3)) + "data: [DONE]\n\n";
    assert_eq!(server.complete(&body).await.timeless(), expected);
}

#[tokio::test]
async fn every_event_of_a_chat_may_have_the_usage() {
    let server = Script::new(&[" one two", " a b c"]).serve().await;
    for n in [1, 2] {
        let body = json!({
            "messages": [{"role": "user", "content": "Hello"}], "n": n, "stream": true,
            "stream_options": {"include_usage": true, "continuous_usage_stats": true},
        });
        let events = server.chat(&body).await.events();
        let mut tokens = 0;
        for event in &events {
            if let Some(choice) = event["choices"].get(0) {
                tokens += usize::from(choice["delta"]["role"].is_null());
            }
            let usage = &event["usage"];
            assert_eq!(usage["completion_tokens"], tokens, "{event}");
            let prompt = usage["prompt_tokens"].as_u64().expect("a number");
            assert_eq!(usage["total_tokens"], prompt + tokens as u64, "{event}");
        }
        assert_eq!(events.last().expect("the last")["choices"], json!([]));
    }
}

#[tokio::test]
async fn a_chat_to_the_byte() {
    let server = Script::new(&[" Hi\u{2028}."]).serve().await;
    let body = json!({
        "messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "stream": true, "stop": ["."],
        "stream_options": {"include_usage": true},
    });
    let answer = server.chat(&body).await;
    let head = r#""id":"chatcmpl-test","object":"chat.completion.chunk","created":0,"model":"scripted","system_fingerprint":"fp_0.1.0-script-tp1""#;
    let lines: Vec<_> = answer.timeless().split_terminator("\n\n").map(str::to_owned).collect();
    let chunk = |delta: &str, finish: &str| {
        format!(
            r#"data: {{{head},"choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":{finish}}}],"usage":null}}"#
        )
    };
    assert_eq!(lines[0], chunk(r#"{"role":"assistant","content":""}"#, "null"));
    assert_eq!(lines[1], chunk(r#"{"content":" Hi"}"#, "null"));
    let text: String = lines.iter().filter_map(|line| line.split("\"content\":\"").nth(1)?.split('"').next()).collect();
    assert_eq!(text, " Hi\\u2028", "a separator of lines is escaped, and the stop string is not shown");
    let last = lines.len() - 3;
    assert!(lines[last].ends_with(r#""finish_reason":"stop"}],"usage":null}"#), "{lines:?}");
    assert!(lines[last + 1].contains(r#""choices":[],"usage":{"prompt_tokens":"#), "{lines:?}");
    assert_eq!(lines[last + 2], "data: [DONE]");
}

fn texts(answer: &Answer, count: usize) -> Vec<String> {
    let mut texts = vec![String::new(); count];
    for event in answer.events() {
        for choice in event["choices"].as_array().expect("a list") {
            let index = choice["index"].as_u64().expect("an index") as usize;
            let text = choice["text"].as_str().or(choice["delta"]["content"].as_str()).expect("a text");
            texts[index] += text;
        }
    }
    texts
}

fn whole(answer: &Answer) -> Vec<String> {
    let answer = answer.json();
    let choices = answer["choices"].as_array().expect("a list").iter();
    let text = |choice: &Value| choice["text"].as_str().or(choice["message"]["content"].as_str()).map(str::to_owned);
    choices.map(|choice| text(choice).expect("a text")).collect()
}

/// Put together, a stream is what the whole answer is, whatever was asked for.
#[tokio::test]
async fn a_stream_is_the_whole_in_pieces() {
    let script = [" one two three\nUser: four", " 🦅 and é", " a stop. b", ""];
    let server = Script::new(&script).serve().await;
    let message = json!([{"role": "user", "content": "Hello"}]);
    let bodies = [
        json!({"prompt": ["x", "y"], "n": 4}),
        json!({"prompt": "x", "n": 3, "echo": true, "logprobs": 2}),
        json!({"prompt": [[5, 6], [7]], "n": 2, "echo": true, "stop": ["o th", "\u{1F985} a"], "seed": 3}),
        json!({"prompt": "x", "n": 4, "max_tokens": 2, "stop": " two three", "ignore_eos": true}),
        json!({"prompt": "x", "echo": true, "max_tokens": 0, "logprobs": 1}),
        json!({"messages": message, "n": 4, "logprobs": true, "top_logprobs": 3}),
        json!({"messages": message, "n": 4, "stop": "stop", "include_stop_str_in_output": true}),
    ];
    for mut body in bodies {
        let path = if body["messages"].is_null() { "/v1/completions" } else { "/v1/chat/completions" };
        let whole_answer = server.post(path, &body.to_string()).await;
        assert_eq!(whole_answer.status, 200, "{body}: {whole_answer:?}");
        (body["stream"], body["stream_options"]) = (json!(true), json!({"include_usage": true}));
        let stream = server.post(path, &body.to_string()).await;
        let expected = whole(&whole_answer);
        assert_eq!(texts(&stream, expected.len()), expected, "{body}");
        let (choices, events) = (whole_answer.json()["choices"].clone(), stream.events());
        let (usage, pieces) = events.split_last().expect("events");
        // The prefix cache may have the prompt by now.
        for key in ["prompt_tokens", "completion_tokens", "total_tokens"] {
            assert_eq!(usage["usage"][key], whole_answer.json()["usage"][key], "{body}");
        }
        for (index, choice) in choices.as_array().expect("a list").iter().enumerate() {
            let of_choice = pieces.iter().map(|event| &event["choices"][0]).filter(|piece| piece["index"] == index);
            let pieces: Vec<_> = of_choice.collect();
            let reasons: Vec<_> = pieces.iter().map(|piece| &piece["finish_reason"]).filter(|r| !r.is_null()).collect();
            assert_eq!(reasons, [&choice["finish_reason"]], "{body}");
            assert_eq!(
                pieces.last().expect("one")["finish_reason"],
                choice["finish_reason"],
                "it ends with its reason"
            );
            for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset", "content"] {
                let of_piece = |piece: &&Value| piece["logprobs"][list].as_array().cloned().unwrap_or_default();
                let joined: Vec<Value> = pieces.iter().flat_map(of_piece).collect();
                let whole = choice["logprobs"][list].as_array().cloned().unwrap_or_default();
                assert_eq!(joined, whole, "{body}: {list}");
            }
        }
    }
}

#[tokio::test]
async fn continuations_come_side_by_side() {
    let server = Script::new(&[" one two three four five six"]).serve().await;
    let answer = server.complete(&json!({"prompt": "x", "n": 3, "stream": true})).await;
    let order: Vec<_> =
        answer.events().iter().map(|event| event["choices"][0]["index"].as_u64().expect("one")).collect();
    let first_end = order.len() - order.iter().rev().position(|index| *index == order[0]).expect("it is there");
    let begun: std::collections::BTreeSet<_> = order[..first_end].iter().collect();
    assert_eq!(begun.len(), 3, "none waits for another's end: {order:?}");
}

#[tokio::test]
async fn a_stream_that_fails_ends_with_an_error() {
    for path in ["/v1/completions", "/v1/chat/completions"] {
        let mut script = Script::new(&[" one two three four"]);
        script.fails_at = Some(2);
        let server = script.serve().await;
        let body = json!({
            "prompt": "x", "messages": [{"role": "user", "content": "x"}], "temperature": 0, "stream": true,
        });
        let answer = server.post(path, &body.to_string()).await;
        assert_eq!(answer.status, 200);
        assert!(!answer.body.contains("[DONE]") && answer.body.ends_with("\n\n"), "{answer:?}");
        let (events, error) = answer.body.rsplit_once("event: error\ndata: ").expect("an error");
        assert!(events.contains(" one"), "{events}");
        let error: Value = serde_json::from_str(error).expect("JSON");
        assert_eq!((&error["error_type"], &error["error"]["type"]), (&json!("generation"), &json!("server_error")));
        assert!(error["error"]["message"].as_str().is_some_and(|text| text.contains("on fire")), "{error}");
        assert!(error["error"]["param"].is_null() && error["error"]["code"].is_null(), "{error}");
        // Before a stream has begun it is an error of the whole request.
        let answer = server.post(path, &body.to_string()).await;
        assert_eq!((answer.status, &answer.json()["error_type"]), (503, &json!("healthcheck")));
        assert_eq!(answer.json()["error"]["code"], "service_unavailable");
    }
}
