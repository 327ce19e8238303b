//! What the routes are that answer no request for a continuation, and the headers of those that do.

use super::{Route, body};
use crate::scripted::{PERMITS, POSITIONS, Script};
use serde_json::json;

#[tokio::test]
async fn info_has_the_names_of_all_versions() {
    let server = Script::new(&["x"]).serve().await;
    let info = server.get("/info").await.json();
    let expected = json!({
        "model_id": "scripted", "model_sha": null, "model_dtype": "torch.bfloat16", "model_device_type": "cpu",
        "model_pipeline_tag": null, "max_concurrent_requests": PERMITS, "max_best_of": 2, "max_stop_sequences": 4,
        "max_top_n_tokens": 5, "max_input_length": POSITIONS - 1, "max_input_tokens": POSITIONS - 1,
        "max_total_tokens": POSITIONS, "waiting_served_ratio": 0.0, "max_batch_total_tokens": 1024,
        "max_waiting_tokens": 0, "validation_workers": 1, "max_client_batch_size": PERMITS, "payload_limit": 2_097_152,
        "router": "peregrine", "version": env!("CARGO_PKG_VERSION"), "sha": null, "docker_label": null,
        "backend": "script", "tensor_parallel": 1,
        "state": { "name": "ready", "since": server.service.state().since_unix_s(), "reason": null },
    });
    assert_eq!(info, expected);
}

#[tokio::test]
async fn health_and_metrics() {
    let server = Script::new(&["x"]).serve().await;
    for path in ["/health", "/readyz", "/livez", "/ping", "/"] {
        let answer = server.get(path).await;
        assert_eq!((answer.status, &*answer.body), (200, ""), "{path}");
    }
    let head = server.send("HEAD /metrics HTTP/1.1\r\nHost: s\r\nConnection: close\r\n\r\n").await;
    assert_eq!((head.status, &*head.body), (200, ""));
    assert!(server.get("/metrics").await.body.contains("tgi_request_count"));
}

#[tokio::test]
async fn texts_are_tokenized_for_tgis_clients_and_vllms() {
    let server = Script::new(&["x"]).serve().await;
    let tgi = server.post_json("/tokenize", &[], r#"{"inputs": "Ça va?", "parameters": {"stop": []}}"#).await;
    let tokens = tgi.json();
    assert_eq!(tokens[0], json!({"id": 137, "text": "Ç", "start": 0, "stop": 1}));
    let last = tokens.as_array().and_then(|tokens| tokens.last()).expect("tokens");
    assert_eq!((&last["text"], &last["stop"]), (&json!("?"), &json!(6)));
    let ids: Vec<_> = tokens.as_array().expect("a list").iter().map(|token| token["id"].clone()).collect();
    let vllm = server.post_json("/tokenize", &[], r#"{"model": "m", "prompt": "Ça va?", "add_special_tokens": false}"#);
    let expected = json!({"count": ids.len(), "max_model_len": POSITIONS, "tokens": ids, "token_strs": null});
    assert_eq!(vllm.await.json(), expected);
    let spelled = server.post_json("/tokenize", &[], r#"{"prompt": " a b", "return_token_strs": true}"#).await.json();
    assert_eq!(spelled["token_strs"], json!(["Ġa", "Ġb"]));
    let text = server.post_json("/detokenize", &[], &json!({"model": "m", "tokens": ids}).to_string()).await;
    assert_eq!(text.json(), json!({"prompt": "Ça va?"}));
    let beyond = server.post_json("/detokenize", &[], r#"{"tokens": [5, 99999]}"#).await;
    assert_eq!((beyond.status, &beyond.json()["error_type"]), (422, &json!("validation")), "{beyond:?}");
    let neither = server.post_json("/tokenize", &[], "{}").await;
    assert_eq!((neither.status, &neither.json()["error_type"]), (422, &json!("validation")));
    assert!(neither.body.contains("missing field `inputs`"), "{neither:?}");

    let chat =
        server.post_json("/chat_tokenize", &[], r#"{"messages": [{"role": "user", "content": "Hi"}]}"#).await.json();
    assert_eq!(chat["templated_text"], "User: Hi\nFalcon:");
    let plain = server.post_json("/tokenize", &[], r#"{"inputs": "User: Hi\nFalcon:"}"#).await.json();
    assert_eq!(chat["tokenize_response"], plain);
    let body = r#"{"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": true}"#;
    let vllm = server.post_json("/tokenize", &[], body).await.json();
    let ids: Vec<_> = plain.as_array().expect("a list").iter().map(|token| token["id"].clone()).collect();
    assert_eq!((&vllm["tokens"], &vllm["count"]), (&json!(ids), &json!(ids.len())), "{vllm}");
    let refused = server.post_json("/chat_tokenize", &[], r#"{"messages": []}"#).await;
    assert_eq!((refused.status, &refused.json()["error_type"]), (422, &json!("validation")), "{refused:?}");
}

#[tokio::test]
async fn answers_have_headers_with_what_they_took() {
    let server = Script::new(&[" there was a fox"]).serve().await;
    for route in Route::WHOLE {
        let answer = route.ask(&server, &body(&json!({"max_new_tokens": 3}))).await;
        if route == Route::EndpointStream {
            continue;
        }
        let number = |name: &str| -> u64 {
            let value = answer.header(name).unwrap_or_else(|| panic!("{route:?} has no {name}: {answer:?}"));
            value.parse().unwrap_or_else(|_| panic!("{name}: {value}"))
        };
        assert_eq!(answer.header("x-compute-type"), Some("cpu+optimized"));
        let counts = ["x-compute-characters", "x-prompt-tokens", "x-generated-tokens"].map(number);
        assert_eq!(counts, [16, 4, 3], "{route:?}");
        let [total, validation, queue, inference] =
            ["x-total-time", "x-validation-time", "x-queue-time", "x-inference-time"].map(number);
        // Each is cut to whole milliseconds.
        let sum = validation + queue + inference;
        assert!((sum..=sum + 3).contains(&total) && number("x-compute-time") == total, "{answer:?}");
        assert!(number("x-time-per-token") <= inference / 3 + 1, "{answer:?}");
    }
    let mut body = body(&json!({}));
    body["stream"] = json!(true);
    for route in Route::STREAM {
        let answer = route.ask(&server, &body).await;
        assert_eq!(answer.header("x-compute-characters"), Some("16"), "{route:?}");
        assert_eq!(answer.header("x-accel-buffering"), Some("no"), "{route:?}");
        assert_eq!(answer.header("x-inference-time"), None, "{route:?}");
    }
}

#[tokio::test]
async fn paths_that_are_not_there_are_answered_in_the_words_of_their_dialect() {
    let server = Script::new(&["x"]).serve().await;
    for (path, status) in [("/nowhere", 404), ("/generate", 405), ("/invocations", 405)] {
        let answer = server.get(path).await;
        assert_eq!((answer.status, &answer.json()["error_type"]), (status, &json!("not_found")), "{path}");
        assert!(answer.body.contains("POST /invocations, "), "{answer:?}");
    }
    for (path, status, kind) in [
        ("/endpoints/x/nothing", 404, "UnknownOperationException"),
        ("/endpoints/x/invocations", 405, "ValidationError"),
    ] {
        let answer = server.get(path).await;
        assert_eq!((answer.status, answer.header("x-amzn-errortype")), (status, Some(kind)), "{path}");
        assert!(answer.json()["Message"].is_string(), "{answer:?}");
    }
}

#[tokio::test]
async fn a_prompt_of_token_ids_and_the_ends_of_a_chat() {
    let server = Script::new(&[" yes"]).serve().await;
    let answer =
        server.post_json("/generate", &[], r#"{"inputs": [5, 6, 7], "parameters": {"max_new_tokens": 1}}"#).await;
    assert_eq!((answer.status, &answer.json()["generated_text"]), (200, &json!(" yes")), "{answer:?}");
    assert_eq!(server.asked()[0].tokens[..3], [5, 6, 7]);
    for (body, message) in [
        (r#"{"inputs": []}"#, "`inputs` cannot be empty"),
        (r#"{"inputs": [5, 99999999]}"#, "`input_ids` must be < "),
        (r#"{"inputs": [5, -1]}"#, "inputs[1]: invalid value"),
        (r#"{"inputs": {}}"#, "inputs: invalid type: map, expected a string or a list of token ids"),
    ] {
        let answer = server.post_json("/generate", &[], body).await;
        assert!(answer.status == 422 && answer.body.contains(message), "{body}: {answer:?}");
    }
    let chat = r#"{"messages": [{"role": "user", "content": "Hi"}]}"#;
    let prompt = server.post_json("/chat_tokenize", &[], chat).await.json();
    assert_eq!(prompt["stop"], json!(["\nUser:"]));
}
