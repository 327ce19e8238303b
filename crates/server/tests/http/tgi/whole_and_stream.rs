//! JumpStart's payload: each of its parameters, on every route, as a whole and streamed, and over gRPC.

use super::{Route, body};
use crate::scripted::{Script, Server};
use serde_json::{Value, json};
use server::dialects::grpc::convert::request_to_pb;

const TEXTS: [&str; 2] = [" there was a fox", " a bear sang"];

/// Each of the 15 parameters, and what it makes of the text.
fn rows() -> Vec<(Value, &'static str)> {
    vec![
        (json!({"do_sample": true, "seed": 1}), TEXTS[0]),
        (json!({"max_new_tokens": 2}), " there was"),
        (json!({"repetition_penalty": 1.03}), TEXTS[0]),
        (json!({"return_full_text": true}), "Once upon a time there was a fox"),
        (json!({"stop": ["was", "<|endoftext|>"]}), " there was"),
        (json!({"seed": 42}), TEXTS[0]),
        (json!({"temperature": 0.8, "seed": 1}), TEXTS[0]),
        (json!({"top_k": 10, "seed": 1}), TEXTS[0]),
        (json!({"top_p": 0.9, "seed": 1}), TEXTS[0]),
        (json!({"truncate": 2}), TEXTS[0]),
        (json!({"typical_p": 0.95, "seed": 1}), TEXTS[0]),
        // The mean of the shorter one is higher.
        (json!({"best_of": 2, "do_sample": true}), TEXTS[1]),
        (json!({"watermark": true}), TEXTS[0]),
        (json!({"details": true}), TEXTS[0]),
        (json!({"decoder_input_details": true}), TEXTS[0]),
        // As JumpStart's notebook sends it.
        (json!({"max_new_tokens": 50, "top_k": 10, "no_repeat_ngram_size": 2, "num_beams": 5, "seed": 3}), TEXTS[0]),
    ]
}

/// Details without what may differ between two answers to one request: drawn seeds, and what the prefix cache had.
fn comparable(mut details: Value) -> Value {
    let object = details.as_object_mut().expect("an object");
    object.remove("cached_tokens");
    object.remove("seed");
    for sequence in object.get_mut("best_of_sequences").and_then(Value::as_array_mut).into_iter().flatten() {
        sequence.as_object_mut().expect("an object").remove("seed");
    }
    details
}

fn ids(tokens: &Value) -> Vec<u64> {
    tokens.as_array().expect("a list").iter().map(|token| token["id"].as_u64().expect("an id")).collect()
}

async fn check_whole(server: &Server, request: &Value, text: &str) -> Value {
    let mut expected: Option<Value> = None;
    for route in Route::WHOLE {
        let answer = route.ask(server, request).await;
        let mut object = route.object(&answer);
        assert_eq!(object["generated_text"], text, "{route:?} {request}");
        let details = comparable(object["details"].take());
        assert_eq!(expected.get_or_insert_with(|| details.clone()), &details, "{route:?} {request}");
    }
    expected.expect("there are routes")
}

async fn check_stream(server: &Server, request: &Value, text: &str, details: &Value) {
    let mut request = request.clone();
    request["stream"] = json!(true);
    for route in Route::STREAM {
        let events = route.events(&route.ask(server, &request).await);
        let tokens: Vec<u64> = events.iter().map(|event| event["token"]["id"].as_u64().expect("an id")).collect();
        assert_eq!(tokens, ids(&details["tokens"]), "{route:?} {request}");
        let (last, others) = events.split_last().expect("events");
        assert!(others.iter().all(|event| event["generated_text"].is_null() && event["details"].is_null()));
        assert_eq!(last["generated_text"], text, "{route:?} {request}");
        for key in ["finish_reason", "generated_tokens"] {
            assert_eq!(last["details"][key], details[key], "{route:?} {request}");
        }
        assert!(last["details"]["input_length"].is_u64(), "{route:?} {request}");
    }
}

async fn check_grpc(server: &Server, request: &Value, text: &str, details: &Value) {
    let request = serde_json::from_value(request.clone()).expect("a request");
    let answer = server.grpc(request_to_pb(request)).await.expect("an answer");
    let found = answer.details.expect("asked for");
    assert_eq!(
        (&*answer.generated_text, &*found.finish_reason),
        (text, details["finish_reason"].as_str().expect("one"))
    );
    let found: Vec<u64> = found.tokens.iter().map(|token| token.id.into()).collect();
    assert_eq!(found, ids(&details["tokens"]));
}

#[tokio::test]
async fn every_parameter_on_every_route() {
    let server = Script::new(&TEXTS).serve().await;
    for (mut parameters, text) in rows() {
        // Without them there is the text alone.
        let bare = Route::Generate.ask(&server, &body(&parameters)).await;
        let keys: Vec<String> = bare.json().as_object().expect("an object").keys().cloned().collect();
        let has_details = parameters["details"] == true || parameters["decoder_input_details"] == true;
        assert_eq!(keys.len(), if has_details { 2 } else { 1 }, "{bare:?}");

        parameters["details"] = json!(true);
        let request = body(&parameters);
        let details = check_whole(&server, &request, text).await;
        check_grpc(&server, &request, text, &details).await;
        let (several, prefill) = (!parameters["best_of"].is_null(), parameters["decoder_input_details"] == true);
        assert_eq!(details.get("best_of_sequences").is_some(), several, "{details}");
        assert_eq!(details["prefill"].as_array().expect("a list").is_empty(), !prefill, "{details}");
        if several || prefill {
            let message = match several {
                true => "`best_of` != 1 is not supported when streaming tokens",
                false => "`decoder_input_details` == true is not supported when streaming tokens",
            };
            super::errors::refused_in_streams(&server, &request, message).await;
        } else {
            check_stream(&server, &request, text, &details).await;
        }
    }
}

#[tokio::test]
async fn an_answer_to_the_byte() {
    let server = Script::new(&[" a fox"]).serve().await;
    let request = json!({"inputs": "Once", "parameters": {"max_new_tokens": 2, "details": true}});
    let whole = Route::Generate.ask(&server, &request).await;
    let tokens = r#"{"id":241,"text":" a","logprob":-0.5,"special":false},{"id":27224,"text":" fox","logprob":-1.0,"special":false}"#;
    let expected = format!(
        r#"{{"generated_text":" a fox","details":{{"finish_reason":"length","generated_tokens":2,"seed":null,"prefill":[],"tokens":[{tokens}]}}}}"#
    );
    assert_eq!(whole.body, expected);
    let stream = Route::GenerateStream.ask(&server, &request).await;
    let expected = concat!(
        r#"data: {"index":1,"token":{"id":241,"text":" a","logprob":-0.5,"special":false},"generated_text":null,"details":null}"#,
        "\n\n",
        r#"data: {"index":2,"token":{"id":27224,"text":" fox","logprob":-1.0,"special":false},"generated_text":" a fox","#,
        r#""details":{"finish_reason":"length","generated_tokens":2,"seed":null,"input_length":1}}"#,
        "\n\n",
    );
    assert_eq!(stream.body, expected);
}
