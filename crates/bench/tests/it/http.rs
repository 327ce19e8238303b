//! What is asked over HTTP, and what is made of one answer.

use crate::{options, request};
use axum::extract::Json;
use axum::http::{HeaderMap, header::AUTHORIZATION, header::CONTENT_TYPE};
use axum::routing::{get, post};
use axum::{Router, response::IntoResponse};
use bench::{Dialect, Target, TargetOptions};
use serde_json::{Value, json};
use std::time::Duration;

fn events(events: &[Value]) -> impl IntoResponse + use<> {
    let lines: Vec<_> = events.iter().map(|event| format!("data:{event}\n\n")).collect();
    ([(CONTENT_TYPE, "text/event-stream")], lines.concat() + "data: [DONE]\n\n")
}

async fn generate_stream(Json(body): Json<Value>) -> impl IntoResponse {
    assert_eq!((&body["parameters"]["max_new_tokens"], &body["parameters"]["ignore_eos"]), (&json!(3), &json!(true)));
    if body["inputs"] == "bad" {
        return events(&[json!({"token": {"id": 5}}), json!({"error": "gone", "error_type": "generation"})]);
    }
    let details = json!({"generated_tokens": 3, "prompt_tokens": 2});
    let last = json!({"token": {"id": 7}, "generated_text": "a b c", "details": details});
    events(&[json!({"token": {"id": 5}, "details": null}), json!({"token": {"id": 6}}), last])
}

/// What OpenAI's bodies have in common.
fn check(body: &Value, model: &str) {
    let (streamed, included) = (&body["stream"], &body["stream_options"]["include_usage"]);
    assert_eq!((&body["model"], streamed, included), (&json!(model), &json!(true), &json!(true)));
    assert_eq!((&body["temperature"], &body["ignore_eos"]), (&json!(0.0), &json!(true)));
}

fn usage() -> Value {
    let details = json!({"cached_tokens": 1});
    json!({"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 3, "prompt_tokens_details": details}})
}

async fn completions(Json(body): Json<Value>) -> impl IntoResponse {
    check(&body, "falcon");
    let text = |text: &str, finish: Option<&str>| json!({"choices": [{"text": text, "finish_reason": finish}]});
    // The second text is that of two tokens.
    events(&[text(" a", None), text(" b c", Some("length")), usage()])
}

async fn chat(headers: HeaderMap, Json(body): Json<Value>) -> impl IntoResponse {
    check(&body, "other");
    assert_eq!(headers[AUTHORIZATION], "Bearer secret");
    assert_eq!(body["messages"], json!([{"role": "user", "content": "a prompt"}]));
    let chunk = |delta: Value, finish: Option<&str>| json!({"choices": [{"delta": delta, "finish_reason": finish}]});
    // As vLLM with --enable-force-include-usage: each event says how many tokens there are so far.
    let texts = [(" a", 1), (" b c", 3)].map(|(text, tokens)| {
        let mut chunk = chunk(json!({"content": text}), None);
        chunk["usage"] = json!({"prompt_tokens": 2, "completion_tokens": tokens});
        chunk
    });
    let (first, last) = (chunk(json!({"role": "assistant", "content": ""}), None), chunk(json!({}), Some("length")));
    events(&[&[first][..], &texts, &[last, usage()]].concat())
}

async fn target(dialect: Dialect) -> Target {
    Target::connect(&options(listening().await, dialect), 1).await.expect("it listens")
}

async fn listening() -> String {
    let models = get(|| async { Json(json!({"data": [{"id": "falcon", "owned_by": "someone"}]})) });
    let routes = Router::new().route("/v1/models", models).route("/v1/completions", post(completions));
    let routes = routes.route("/v1/chat/completions", post(chat));
    listen(routes.route("/generate_stream", post(generate_stream))).await
}

async fn listen(routes: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async { axum::serve(listener, routes).await });
    address
}

#[tokio::test]
async fn the_tokens_of_tgi_are_counted() {
    let target = target(Dialect::Tgi).await;
    let (record, result) = target.ask(0, &request("a prompt")).await;
    result.expect("answered");
    assert_eq!((record.ids.clone(), record.arrivals.len()), (vec![5, 6, 7], 3));
    assert_eq!((record.counts.input_tokens, record.generated()), (Some(2), 3));

    let (record, result) = target.ask(1, &request("bad")).await;
    assert_eq!(result.expect_err("broken off").to_string(), "error in the answer: gone");
    assert_eq!(record.generated(), 1);
}

#[tokio::test]
async fn the_tokens_of_openai_are_counted() {
    let keyed = TargetOptions {
        model: Some("other".to_owned()),
        api_key: Some("secret".to_owned()),
        ..options(listening().await, Dialect::OpenAiChat)
    };
    let chat = Target::connect(&keyed, 1).await.expect("it listens");
    for (target, tokens) in [(target(Dialect::OpenAi).await, [1, 1]), (chat, [1, 2])] {
        let (record, result) = target.ask(0, &request("a prompt")).await;
        result.expect("answered");
        let came: Vec<u32> = record.arrivals.iter().map(|arrival| arrival.tokens).collect();
        assert_eq!((&*came, record.generated()), (&tokens[..], 3));
        assert_eq!((record.counts.input_tokens, record.counts.cached_tokens), (Some(2), Some(1)));
        let info = target.info().await.expect("told");
        assert_eq!((&*info.model_id, &*info.software), ("falcon", "someone"));
    }
}

#[tokio::test]
async fn a_server_without_the_route_is_an_error() {
    for (dialect, route) in [
        (Dialect::Tgi, "/generate_stream"),
        (Dialect::OpenAi, "/v1/completions"),
        (Dialect::OpenAiChat, "/v1/chat/completions"),
        (Dialect::SageMaker, "/invocations"),
        (Dialect::SageMakerRuntime, "/endpoints/peregrine/invocations-response-stream"),
    ] {
        let target = Target::connect(&options(listen(Router::new()).await, dialect), 1).await.expect("it listens");
        let error = target.ask(0, &request("a prompt")).await.1.expect_err("no route").to_string();
        assert_eq!(error, format!("404 Not Found: {route}"));
    }
}

#[tokio::test]
async fn a_key_that_no_header_can_hold_is_refused() {
    for dialect in [Dialect::Grpc, Dialect::Tgi] {
        let keyed = TargetOptions { api_key: Some("a\nb".to_owned()), ..options(listening().await, dialect) };
        let error = Target::connect(&keyed, 1).await.err().expect("no key").to_string();
        assert_eq!(error, "--api-key: expected visible ASCII characters");
    }
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_an_error() {
    let silent = post(|| async { std::future::pending::<()>().await });
    let address = listen(Router::new().route("/generate_stream", silent)).await;
    let impatient = TargetOptions { limit: Duration::from_secs(1), ..options(address, Dialect::Tgi) };
    let target = Target::connect(&impatient, 1).await.expect("it listens");
    let error = target.ask(0, &request("a prompt")).await.1.expect_err("no answer").to_string();
    assert_eq!(error, "no complete answer within --request-timeout 1 s");
}
