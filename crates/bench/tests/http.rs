//! Streams of TGI's and OpenAI's routes, from a server that answers by heart.

use axum::extract::Json;
use axum::routing::{get, post};
use axum::{Router, http::header::CONTENT_TYPE, response::IntoResponse};
use bench::{Parameters, Prompt, Protocol, Request, Target};
use serde_json::{Value, json};
use std::time::Duration;

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
    let text = |text: &str| json!({"choices": [{"text": text}]});
    // The second text is that of two tokens.
    events(&[text(" a"), text(" b c"), json!({"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 3}})])
}

async fn target(protocol: Protocol) -> Target {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let models = get(|| async { Json(json!({"data": [{"id": "falcon"}]})) });
    let routes = Router::new().route("/v1/models", models).route("/v1/completions", post(completions));
    let routes = routes.route("/generate_stream", post(generate_stream));
    tokio::spawn(async { axum::serve(listener, routes).await });
    Target::connect(&address, protocol, 1, true, Duration::from_secs(30)).await.expect("it listens")
}

fn request(text: &str) -> Request {
    let parameters = Parameters { max_new_tokens: 3, ..Parameters::default() };
    Request { prompt: Prompt::Text(text.to_owned()), parameters, ignore_eos: true, cancel_after: None }
}

#[tokio::test]
async fn the_tokens_of_tgi_are_counted() {
    let target = target(Protocol::Generate).await;
    let (record, result) = target.ask(0, &request("a prompt")).await;
    result.expect("answered");
    assert_eq!((record.ids.clone(), record.arrivals.len()), (vec![5, 6, 7], 3));
    assert_eq!((record.input_tokens, record.generated()), (Some(2), 3));

    let (record, result) = target.ask(1, &request("bad")).await;
    assert_eq!(result.expect_err("broken off").to_string(), "/generate_stream: \"gone\"");
    assert_eq!(record.generated(), 1);
}

#[tokio::test]
async fn the_tokens_of_openai_are_counted() {
    let target = target(Protocol::Completions).await;
    let (record, result) = target.ask(0, &request("a prompt")).await;
    result.expect("answered");
    assert_eq!((record.arrivals.len(), record.generated(), record.input_tokens), (2, 3, Some(2)));
    assert_eq!(target.info().await.expect("told").model_id, "falcon");
}

#[tokio::test]
async fn a_server_without_the_route_is_an_error() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async { axum::serve(listener, Router::new()).await });
    let limit = Duration::from_secs(30);
    let target = Target::connect(&address, Protocol::Generate, 1, true, limit).await.expect("it listens");
    let error = target.ask(0, &request("a prompt")).await.1.expect_err("no route").to_string();
    assert_eq!(error, "/generate_stream: 404 Not Found: ");
}
