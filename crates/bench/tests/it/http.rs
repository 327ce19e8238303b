//! Answers of TGI's and OpenAI's routes.

use crate::request;
use axum::extract::Json;
use axum::routing::{get, post};
use axum::{Router, http::header::CONTENT_TYPE, response::IntoResponse};
use bench::{Protocol, Target};
use serde_json::{Value, json};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);

fn events(events: &[Value]) -> impl IntoResponse + use<> {
    let lines: Vec<_> = events.iter().map(|event| format!("data:{event}\n\n")).collect();
    ([(CONTENT_TYPE, "text/event-stream")], lines.concat() + "data: [DONE]\n\n")
}

async fn generate_stream(Json(body): Json<Value>) -> impl IntoResponse {
    assert_eq!(body["parameters"]["max_new_tokens"], 3);
    if body["inputs"] == "bad" {
        return events(&[json!({"token": {"id": 5}}), json!({"error": "gone", "error_type": "generation"})]);
    }
    let details = json!({"generated_tokens": 3, "prompt_tokens": 2});
    let last = json!({"token": {"id": 7}, "generated_text": "a b c", "details": details});
    events(&[json!({"token": {"id": 5}, "details": null}), json!({"token": {"id": 6}}), last])
}

async fn completions(Json(body): Json<Value>) -> impl IntoResponse {
    assert_eq!((&body["model"], &body["stream"]), (&json!("falcon"), &json!(true)));
    assert_eq!(body["temperature"], 0.0);
    let text = |text: &str, finish: Option<&str>| json!({"choices": [{"text": text, "finish_reason": finish}]});
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 3}});
    // The second text is that of two tokens.
    events(&[text(" a", None), text(" b c", Some("length")), usage])
}

async fn target(protocol: Protocol) -> Target {
    let models = get(|| async { Json(json!({"data": [{"id": "falcon", "owned_by": "someone"}]})) });
    let routes = Router::new().route("/v1/models", models).route("/v1/completions", post(completions));
    connect(routes.route("/generate_stream", post(generate_stream)), protocol).await
}

async fn connect(routes: Router, protocol: Protocol) -> Target {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async { axum::serve(listener, routes).await });
    Target::connect(&address, protocol, 1, true, LIMIT).await.expect("it listens")
}

#[tokio::test]
async fn the_tokens_of_tgi_are_counted() {
    let target = target(Protocol::Generate).await;
    let (record, result) = target.ask(0, &request("a prompt")).await;
    result.expect("answered");
    assert_eq!((record.ids.clone(), record.arrivals.len()), (vec![5, 6, 7], 3));
    assert_eq!((record.input_tokens, record.generated()), (Some(2), 3));

    let (record, result) = target.ask(1, &request("bad")).await;
    assert_eq!(result.expect_err("broken off").to_string(), "error in the answer: gone");
    assert_eq!(record.generated(), 1);
}

#[tokio::test]
async fn the_tokens_of_openai_are_counted() {
    let target = target(Protocol::Completions).await;
    let (record, result) = target.ask(0, &request("a prompt")).await;
    result.expect("answered");
    assert_eq!((record.arrivals.len(), record.generated(), record.input_tokens), (2, 3, Some(2)));
    let info = target.info().await.expect("told");
    assert_eq!((&*info.model_id, &*info.software), ("falcon", "someone"));
}

#[tokio::test]
async fn a_server_without_the_route_is_an_error() {
    let target = connect(Router::new(), Protocol::Generate).await;
    let error = target.ask(0, &request("a prompt")).await.1.expect_err("no route").to_string();
    assert_eq!(error, "404 Not Found: /generate_stream");
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_an_error() {
    let silent = post(|| async { std::future::pending::<()>().await });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async { axum::serve(listener, Router::new().route("/generate_stream", silent)).await });
    let limit = Duration::from_secs(1);
    let target = Target::connect(&address, Protocol::Generate, 1, true, limit).await.expect("it listens");
    let error = target.ask(0, &request("a prompt")).await.1.expect_err("no answer").to_string();
    assert_eq!(error, "no complete answer within --request-timeout 1 s");
}
