//! The list of models, ids of requests, and paths that are not there.

use crate::scripted::Script;
use serde_json::json;
use std::path::Path;

#[tokio::test]
async fn the_model_is_known_by_its_name_and_its_folder() {
    let server = Script::new(&["x"]).serve().await;
    let list = server.get("/v1/models").await.json();
    assert_eq!(list["object"], "list");
    let model = &list["data"][0];
    assert_eq!((&model["id"], &model["object"]), (&json!("scripted"), &json!("model")));
    assert!(Path::new(model["root"].as_str().expect("a path")).join("tokenizer.json").is_file(), "{list}");
    assert!(model["created"].as_u64().is_some_and(|at| at > 1_700_000_000), "{list}");
    assert_eq!((&model["max_model_len"], &model["owned_by"]), (&json!(64), &json!("peregrine")));

    assert_eq!(server.get("/v1/models/scripted").await.json(), *model);
    for path in ["/v1/models/tiiuae%2Ffalcon-7b", "/v1/models/tiiuae/falcon-7b"] {
        let answer = server.get(path).await;
        let error = json!({
            "message": "there is no model `tiiuae/falcon-7b`; there is `scripted`",
            "type": "invalid_request_error", "param": "model", "code": "model_not_found",
        });
        assert_eq!((answer.status, answer.json()), (404, json!({"error": error, "error_type": "validation"})));
    }
}

#[tokio::test]
async fn paths_that_are_not_there_have_errors_of_this_form() {
    let server = Script::new(&["x"]).serve().await;
    let answer = server.post("/v1/responses", "{}").await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (404, &json!("unknown_url")));
    let message = answer.json()["error"]["message"].as_str().expect("a text").to_owned();
    assert!(message.starts_with("there is no /v1/responses; there are "), "{message}");
    assert!(message.contains("POST /v1/chat/completions"), "{message}");
    let answer = server.get("/v1/completions").await;
    assert_eq!((answer.status, &answer.json()["error"]["type"]), (405, &json!("invalid_request_error")));
    // Elsewhere they are TGI's.
    assert!(server.get("/elsewhere").await.json()["error"].is_string());
}

#[tokio::test]
async fn every_answer_has_an_id() {
    let server = Script::new(&["x"]).serve().await;
    assert_eq!(server.post("/v1/completions", "no JSON").await.header("x-request-id"), Some("test"));
    for path in ["/v1/models", "/metrics", "/nowhere"] {
        let (first, second) = (server.get(path).await, server.get(path).await);
        let id = first.header("x-request-id").expect("an id");
        assert!(id.len() == 32 && second.header("x-request-id") != Some(id), "{id}");
    }
    // One that would swell every event is not taken over.
    let long = "a".repeat(129);
    let request = format!("GET /metrics HTTP/1.1\r\nHost: s\r\nConnection: close\r\nX-Request-Id: {long}\r\n\r\n");
    assert_eq!(server.send(&request).await.header("x-request-id").map(str::len), Some(32));
}
