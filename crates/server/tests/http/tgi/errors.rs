//! Every refusal, on every route.

use super::{Route, body};
use crate::scripted::{Answer, PERMITS, Script, Server};
use serde_json::{Value, json};
use std::time::Duration;

/// The rules that a request can break, and what is said.
fn rules() -> Vec<(Value, &'static str)> {
    vec![
        (json!({"best_of": 3, "do_sample": true}), "`best_of` must be > 0 and <= 2. Given: 3"),
        (json!({"best_of": 2}), "you must use sampling when `best_of` is > 1"),
        (json!({"best_of": 2, "do_sample": true, "seed": 1}), "`seed` must not be set when `best_of` > 1"),
        (json!({"temperature": 0.0}), "`temperature` must be strictly positive"),
        (json!({"repetition_penalty": -1.0}), "`repetition_penalty` must be strictly positive"),
        (json!({"top_p": 1.0}), "`top_p` must be > 0.0 and < 1.0"),
        (json!({"top_k": 0}), "`top_k` must be strictly positive"),
        (json!({"typical_p": 1.0}), "`typical_p` must be > 0.0 and < 1.0"),
        (json!({"truncate": 0}), "`truncate` must be strictly positive and less than 63. Given: 0"),
        (json!({"max_new_tokens": 0}), "`max_new_tokens` must be strictly positive"),
        (
            json!({"max_new_tokens": 61}),
            "`inputs` tokens + `max_new_tokens` must be <= 64. Given: 4 `inputs` tokens and 61 `max_new_tokens`",
        ),
        (json!({"stop": ["a", "b", "c", "d", "e"]}), "`stop` supports up to 4 stop sequences. Given: 5"),
        (json!({"top_n_tokens": 6}), "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
        (json!({"grammar": {"type": "regex", "value": "a"}}), "`grammar` is not supported yet"),
    ]
}

fn validation(message: &str) -> (u16, Value) {
    (422, json!({"error": format!("Input validation error: {message}"), "error_type": "validation"}))
}

/// A stream with this body is refused before it begins.
pub async fn refused_in_streams(server: &Server, body: &Value, message: &str) {
    let mut body = body.clone();
    body["stream"] = json!(true);
    for route in Route::STREAM {
        let answer = route.ask(server, &body).await;
        assert_eq!(route.error(&answer), validation(message), "{route:?} {body}");
    }
}

#[tokio::test]
async fn rules_have_tgis_words_on_every_route() {
    let server = Script::new(&[" yes"]).serve().await;
    let empty = (json!({"inputs": ""}), "`inputs` cannot be empty");
    for (body, message) in rules().into_iter().map(|(rule, message)| (body(&rule), message)).chain([empty]) {
        for route in Route::WHOLE {
            let answer = route.ask(&server, &body).await;
            assert_eq!(route.error(&answer), validation(message), "{route:?} {body}");
        }
        if body["parameters"]["best_of"].is_null() {
            refused_in_streams(&server, &body, message).await;
        }
    }
    assert!(server.asked().is_empty(), "none of them has run");
}

#[tokio::test]
async fn bodies_that_cannot_be_read_are_answered_in_json() {
    let server = Script::new(&[" yes"]).serve().await;
    let rows = [
        ("", 400, "Failed to parse the request body as JSON: "),
        (r#"{"inputs": "#, 400, "Failed to parse the request body as JSON: "),
        (r#"{"inputs": 5}"#, 422, "Failed to deserialize the JSON body into the target type: inputs: invalid type"),
        (r#"{"inputs": "a", "parameters": null}"#, 422, "parameters: invalid type: null"),
        (r#"{"inputs": "a", "parameters": {"stop": null}}"#, 422, "parameters.stop: invalid type: null"),
        (r#"{"inputs": "a", "parameters": {"max_new_tokens": -1}}"#, 422, "parameters.max_new_tokens: invalid value"),
        (r#"{"parameters": {}}"#, 422, "missing field `inputs`"),
        ("[]", 422, "Failed to deserialize the JSON body into the target type: "),
    ];
    for (body, status, message) in rows {
        for route in Route::STREAM {
            let answer = server.post_json(route.path(), &[], body).await;
            let (found, error) = route.error(&answer);
            assert_eq!((found, &error["error_type"]), (status, &json!("validation")), "{route:?} {body}");
            assert!(error["error"].as_str().is_some_and(|text| text.contains(message)), "{route:?} {body}: {error}");
        }
    }
    let large = " ".repeat(server::DEFAULT_PAYLOAD_LIMIT + 1);
    for route in Route::STREAM {
        let answer = server.post_json(route.path(), &[], &large).await;
        let text = if route.is_runtime() { "Message" } else { "error" };
        let json = answer.json();
        assert!(json[text].as_str().is_some_and(|text| text.contains("2097152 bytes")), "{route:?}: {json}");
        assert_eq!(answer.status, 413, "{route:?}");
    }
}

/// Only what SageMaker asks of a container may have any type.
#[tokio::test]
async fn types_of_bodies() {
    let server = Script::new(&[" yes"]).serve().await;
    let body = body(&json!({})).to_string();
    for route in Route::STREAM {
        let answer = server.post(route.path(), &body).await;
        let expected = if route.is_runtime() || route == Route::Invocations { 200 } else { 415 };
        assert_eq!(answer.status, expected, "{route:?}: {answer:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_full_says_when_to_come_back() {
    let mut script = Script::new(&[" yes"]);
    script.pause = Duration::from_secs(1);
    let server = script.serve().await;
    // It takes a minute, if nobody gives up.
    let full = json!({"prompt": "x", "n": PERMITS, "max_tokens": 60, "ignore_eos": true});
    let others = async {
        while server.asked().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mut body = body(&json!({}));
        for stream in [false, true] {
            body["stream"] = json!(stream);
            for route in if stream { &Route::STREAM[..] } else { &Route::WHOLE[..] } {
                let answer = route.ask(&server, &body).await;
                let wait = answer.header("retry-after").and_then(|wait| wait.parse().ok()).expect("a time");
                assert!(answer.status == 429 && (1..=120_u64).contains(&wait), "{route:?} {answer:?}");
                if route.is_runtime() {
                    assert_eq!(answer.header("x-amzn-errortype"), Some("ThrottlingException"));
                    let precise = answer.header("x-amz-retry-after").and_then(|wait| wait.parse().ok());
                    assert!(precise.is_some_and(|ms: u64| ms.div_ceil(1000) == wait), "{answer:?}");
                    assert_eq!(answer.json(), json!({"Message": "Model is overloaded"}));
                } else {
                    assert_eq!(answer.json(), json!({"error": "Model is overloaded", "error_type": "overloaded"}));
                }
            }
        }
    };
    tokio::select! {
        answer = server.complete(&full) => panic!("it came too early: {answer:?}"),
        () = others => {}
    }
}

/// A rank fails, before the first token and behind some; from then on the server says that it cannot serve.
#[tokio::test]
async fn a_model_that_fails() {
    for stream in [false, true] {
        for route in if stream { &Route::STREAM[..] } else { &Route::WHOLE[..] } {
            for fails_at in [0, 3] {
                let mut script = Script::new(&[" one two three four five six"]);
                script.fails_at = Some(fails_at);
                let server = script.serve().await;
                let mut body = body(&json!({}));
                body["stream"] = json!(stream);
                let answer = route.ask(&server, &body).await;
                if stream && fails_at > 0 {
                    check_broken_stream(*route, &answer);
                } else {
                    let (status, error) = route.error(&answer);
                    assert_eq!((status, &error["error_type"]), (424, &json!("generation")), "{route:?} {answer:?}");
                    check_text(&error["error"]);
                }
                let later = route.ask(&server, &body).await;
                assert_eq!(later.status, 503, "{route:?}: {later:?}");
                for path in ["/health", "/ping", "/"] {
                    let health = server.get(path).await;
                    assert_eq!((health.status, &health.json()["error_type"]), (503, &json!("healthcheck")));
                }
            }
        }
    }
}

fn check_text(text: &Value) {
    let text = text.as_str().expect("a text");
    let of_tgi = text.starts_with("Request failed during generation: Server error: ");
    assert!(of_tgi && text.contains("the device is on fire"), "{text}");
}

fn check_broken_stream(route: Route, answer: &Answer) {
    assert_eq!(answer.status, 200, "{route:?}: {answer:?}");
    if route == Route::EndpointStream {
        let frames = crate::sagemaker::frames(&answer.bytes);
        let ((kind, payload), parts) = frames.split_last().expect("frames");
        let body: Value = serde_json::from_slice(payload).expect("JSON");
        assert_eq!((&**kind, parts.len()), ("exception ModelStreamError", 3));
        check_text(&body["Message"]);
    } else {
        let blocks: Vec<&str> = answer.body.split_terminator("\n\n").collect();
        let (last, tokens) = blocks.split_last().expect("events");
        let error = last.strip_prefix("event: error\ndata: ").unwrap_or_else(|| panic!("{route:?}: {last}"));
        let error: Value = serde_json::from_str(error).expect("JSON");
        assert_eq!((tokens.len(), &error["error_type"]), (3, &json!("generation")), "{route:?}");
        check_text(&error["error"]);
    }
}
