//! SageMaker's dialect: bodies of three kinds, and the runtime API's frames.

use crate::scripted::{Answer, Script, Server};
use aws_smithy_eventstream::frame::{DecodedFrame, MessageFrameDecoder};
use serde_json::{Value, json};

/// The frames of a stream: what each is, as `event PayloadPart`, and its payload. All must be whole.
pub fn frames(mut bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let (mut decoder, mut frames) = (MessageFrameDecoder::new(), Vec::new());
    loop {
        match decoder.decode_frame(&mut bytes).expect("a frame") {
            DecodedFrame::Complete(message) => {
                let header = |name: &str| {
                    let mut headers = message.headers().iter();
                    let found = headers.find(|header| header.name().as_str() == name)?;
                    Some(found.value().as_string().expect("a text").as_str().to_owned())
                };
                let kind = header(":message-type").expect("it has a kind");
                let name = header(&format!(":{kind}-type")).expect("it has a name");
                frames.push((format!("{kind} {name}"), message.payload().to_vec()));
            }
            DecodedFrame::Incomplete => {
                assert!(bytes.is_empty(), "half a frame");
                return frames;
            }
        }
    }
}

/// What the frames of an answer hold, all of which are parts of it.
pub fn payloads(answer: &Answer) -> String {
    assert_eq!(answer.header("content-type"), Some("application/vnd.amazon.eventstream"), "{answer:?}");
    let frames = frames(&answer.bytes);
    assert!(frames.iter().all(|(kind, _)| kind == "event PayloadPart"), "{frames:?}");
    String::from_utf8(frames.into_iter().flat_map(|(_, payload)| payload).collect()).expect("UTF-8")
}

/// One body of each kind, and the route that has its dialect.
fn bodies() -> [(Value, &'static str); 3] {
    [
        (json!({"inputs": "Once", "parameters": {"details": true}}), "/"),
        (json!({"messages": [{"role": "user", "content": "Hello"}], "temperature": 0}), "/v1/chat/completions"),
        (json!({"prompt": "Once", "temperature": 0}), "/v1/completions"),
    ]
}

/// An answer without what differs between two.
fn comparable(text: &str) -> String {
    let mut parts = text.split("\"created\":");
    let first = parts.next().unwrap_or_default().to_owned();
    let text = parts.fold(first, |text, part| text + part.trim_start_matches(|c: char| c.is_ascii_digit()));
    // What the prefix cache had.
    let mut parts = text.split("\"cached_tokens\":");
    let first = parts.next().unwrap_or_default().trim_end_matches(',').to_owned();
    parts.fold(first, |text, part| text + part.trim_start_matches(|c: char| c.is_ascii_digit()))
}

const ID: &[&str] = &["X-Request-Id: test", "X-Amzn-SageMaker-Custom-Attributes: trace=7"];

async fn ask(server: &Server, path: &str, body: &Value) -> Answer {
    server.post_json(path, ID, &body.to_string()).await
}

#[tokio::test]
async fn a_body_is_answered_in_its_dialect() {
    let server = Script::new(&[" there\u{2028} was"]).serve().await;
    for (mut body, path) in bodies() {
        for stream in [false, true] {
            body["stream"] = json!(stream);
            let expected = ask(&server, path, &body).await;
            assert_eq!(expected.status, 200, "{expected:?}");
            let container = ask(&server, "/invocations", &body).await;
            let endpoint = ask(&server, "/endpoints/any%2Fname/invocations", &body).await;
            let framed = ask(&server, "/endpoints/n/invocations-response-stream", &body).await;
            for (route, text) in [
                ("/invocations", container.body.clone()),
                ("an endpoint", endpoint.body.clone()),
                ("an endpoint's stream", payloads(&framed)),
            ] {
                assert_eq!(comparable(&text), comparable(&expected.body), "{route} {body}");
            }
            let content_type = expected.header("content-type");
            for answer in [&container, &endpoint] {
                assert_eq!(answer.header("content-type"), content_type, "{body}");
            }
            assert_eq!(framed.header("x-amzn-sagemaker-content-type"), content_type, "{body}");
            for answer in [&endpoint, &framed] {
                check_headers(answer);
            }
            // One token at a time.
            let parts = frames(&framed.bytes).len();
            assert!(if stream { parts >= 3 } else { parts == 1 }, "{parts} parts of {body}");
        }
    }
}

/// What every answer of the runtime API has.
fn check_headers(answer: &Answer) {
    let id = answer.header("x-amzn-requestid").expect("an id");
    let lengths: Vec<usize> = id.split('-').map(str::len).collect();
    assert_eq!(lengths, [8, 4, 4, 4, 12], "{id}");
    assert!(id.as_bytes()[14] == b'4' && b"89ab".contains(&id.as_bytes()[19]), "{id} is a random UUID");
    assert_eq!(answer.header("x-amzn-invoked-production-variant"), Some("AllTraffic"));
    assert_eq!(answer.header("x-amzn-sagemaker-custom-attributes"), Some("trace=7"));
}

#[tokio::test]
async fn errors_are_those_of_the_dialect() {
    let server = Script::new(&[" yes"]).serve().await;
    let rows = [
        (json!({"inputs": "a", "parameters": {"top_k": 0}}), "/", 422),
        (json!({"messages": []}), "/v1/chat/completions", 400),
        (json!({"prompt": "a", "n": 0}), "/v1/completions", 400),
        // The first of the keys decides, and null is none.
        (json!({"inputs": null, "messages": [], "prompt": "a"}), "/v1/chat/completions", 400),
        (json!({"inputs": "", "messages": [{"role": "user", "content": "a"}]}), "/", 422),
        (json!({"text": "a"}), "/", 422),
    ];
    for (body, path, status) in rows {
        let expected = ask(&server, path, &body).await;
        assert_eq!(expected.status, status, "{expected:?}");
        let container = ask(&server, "/invocations", &body).await;
        assert_eq!((container.status, &container.body), (status, &expected.body), "{body}");
        for route in ["/endpoints/n/invocations", "/endpoints/n/invocations-response-stream"] {
            let answer = ask(&server, route, &body).await;
            check_headers(&answer);
            let json = answer.json();
            assert_eq!((answer.status, answer.header("x-amzn-errortype")), (424, Some("ModelError")), "{route} {body}");
            assert_eq!(json["OriginalStatusCode"], status, "{json}");
            assert_eq!(json["OriginalMessage"], *expected.body, "{json}");
            let expected = expected.json();
            let text = expected["error"].as_str().or(expected["error"]["message"].as_str()).expect("a text");
            assert_eq!(json["Message"], format!("the model answered {status}: {text}"));
        }
    }
}

#[tokio::test]
async fn asynchronous_invocations_are_refused() {
    let server = Script::new(&[" yes"]).serve().await;
    let answer = ask(&server, "/endpoints/n/async-invocations", &json!({})).await;
    assert_eq!((answer.status, answer.header("x-amzn-errortype")), (400, Some("ValidationError")));
    assert!(answer.json()["Message"].as_str().is_some_and(|text| text.contains("asynchronous")), "{answer:?}");
    check_headers(&answer);
}
