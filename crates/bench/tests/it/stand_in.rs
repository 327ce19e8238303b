//! A server of every dialect over HTTP. Every second answer ends in a chosen way.

use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use axum::body::Body;
use axum::extract::{Json, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Router, serve};
use serde_json::{Value, json};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;
use tokio::sync::Notify;

/// Tokens of an answer.
pub const TOKENS: usize = 4;

/// Prompts of more words than this are too long.
pub const WORDS_MAX: usize = 100;

/// How every second answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As the dialect says.
    Complete,
    /// In the middle, but cleanly, as proxies end it.
    Cut,
    /// Before the first event.
    Empty,
    /// With TGI's error in the middle, as any other event.
    ErrorEvent,
    /// With vLLM's error object in the middle.
    ErrorObject,
    /// With a text in an event whose type is error.
    EventError,
    /// With TGI's error in an event whose type is error.
    EventOfTgi,
    /// With OpenAI's error in an event whose type is error.
    EventOfOpenAi,
    /// With an event whose type is error and which says nothing.
    EventWithoutData,
    /// With status 200 and an error in JSON instead of a stream.
    ErrorBody,
    /// With a page in HTML instead of a stream.
    Page,
    /// With a connection that breaks in the middle.
    Broken,
    /// With a connection that breaks after the last event.
    BrokenAtEnd,
    /// Complete but for `[DONE]`, or `generated_text`.
    LastMissing,
    /// Complete but for the blank line of its last event.
    BlankLineMissing,
    /// With AWS's exception frame.
    Exception,
    /// With a frame that is not what its checksum says.
    Checksum,
    /// Within a frame.
    HalfFrame,
}

/// What a server does.
pub struct Behaviour {
    pub ending: Ending,
    /// Prompts that are too long are never answered, instead of refused.
    pub hangs: bool,
    /// A prompt that is too long has come.
    pub too_long: Notify,
    requests: AtomicUsize,
}

/// Whose answers these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Tgi,
    Completion,
    Chat,
}

const ROUTES: [(&str, Shape); 7] = [
    ("/generate", Shape::Tgi),
    ("/generate_stream", Shape::Tgi),
    ("/invocations", Shape::Tgi),
    ("/endpoints/peregrine/invocations", Shape::Tgi),
    ("/endpoints/peregrine/invocations-response-stream", Shape::Tgi),
    ("/v1/completions", Shape::Completion),
    ("/v1/chat/completions", Shape::Chat),
];

/// Starts a server, and returns its address.
pub async fn start(ending: Ending, hangs: bool) -> (String, Arc<Behaviour>) {
    let behaviour = Arc::new(Behaviour { ending, hangs, too_long: Notify::new(), requests: AtomicUsize::new(0) });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let info = get(|| async { Json(json!({"model_id": "falcon", "version": "3", "data": [{"id": "falcon"}]})) });
    let mut router = Router::new().route("/info", info.clone()).route("/v1/models", info);
    for (route, shape) in ROUTES {
        let answer = move |uri: Uri, state: State<Arc<Behaviour>>, body: Json<Value>| async move {
            answer(shape, uri.path(), &state, &body).await
        };
        router = router.route(route, post(answer));
    }
    let router = router.with_state(behaviour.clone());
    tokio::spawn(async { serve(listener, router).await });
    (address, behaviour)
}

async fn answer(shape: Shape, route: &str, behaviour: &Behaviour, body: &Value) -> Response {
    let prompt = [&body["inputs"], &body["prompt"], &body["messages"][0]["content"]];
    let prompt = prompt.into_iter().find_map(Value::as_str).expect("a prompt");
    let words = prompt.split_whitespace().count();
    if words > WORDS_MAX {
        behaviour.too_long.notify_one();
        if behaviour.hangs {
            return std::future::pending().await;
        }
        let error = format!("Input validation error: `inputs` must have less than {WORDS_MAX} tokens. Given: {words}");
        let body = json!({"error": error, "error_type": "validation"});
        return (StatusCode::UNPROCESSABLE_ENTITY, Json(body)).into_response();
    }
    let is_bad = behaviour.requests.fetch_add(1, Ordering::Relaxed) % 2 == 1;
    let ending = if is_bad { behaviour.ending } else { Ending::Complete };
    match ending {
        Ending::ErrorBody => Json(json!({"error": "x", "error_type": "generation"})).into_response(),
        Ending::Page => ([(CONTENT_TYPE, "text/html")], "<html>").into_response(),
        _ if route == "/generate" || body["stream"] == false => {
            let answer = whole(shape, ending);
            let is_list = route.ends_with("invocations");
            Json(if is_list { json!([answer]) } else { answer }).into_response()
        }
        _ => {
            let framed = route.ends_with("invocations-response-stream");
            let events = events(shape, ending).concat().into_bytes();
            let (kind, bytes) = match framed {
                true => ("application/vnd.amazon.eventstream", frames(&events, ending)),
                false => ("text/event-stream", events),
            };
            let is_broken = matches!(ending, Ending::Broken | Ending::BrokenAtEnd);
            let broken = is_broken.then(|| Err(io::Error::other("broken")));
            let body = Body::from_stream(tokio_stream::iter([Ok(bytes)].into_iter().chain(broken)));
            ([(CONTENT_TYPE, kind)], body).into_response()
        }
    }
}

/// An answer in one piece; anything but a complete one lacks its last key.
fn whole(shape: Shape, ending: Ending) -> Value {
    let (reason, text) = match ending {
        Ending::Complete => (json!("length"), json!("aaaa")),
        _ => (Value::Null, Value::Null),
    };
    match shape {
        Shape::Tgi => json!({"details": {"generated_tokens": TOKENS}, "generated_text": text}),
        Shape::Completion => json!({"choices": [{"text": "aaaa", "finish_reason": reason}]}),
        Shape::Chat => json!({"choices": [{"message": {"content": "aaaa"}, "finish_reason": reason}]}),
    }
}

fn events(shape: Shape, ending: Ending) -> Vec<String> {
    let token = |is_last: bool| match shape {
        Shape::Tgi => json!({"token": {"id": 1, "text": "a"}, "generated_text": is_last.then_some("aaaa")}),
        Shape::Completion => json!({"choices": [{"text": "a", "finish_reason": is_last.then_some("length")}]}),
        Shape::Chat => {
            json!({"choices": [{"delta": {"role": "assistant", "content": "a"}, "finish_reason": is_last.then_some("length")}]})
        }
    };
    let middle = match ending {
        Ending::ErrorEvent => Some("data:{\"error\":\"Request failed\",\"error_type\":\"generation\"}\n\n"),
        Ending::ErrorObject => Some("data: {\"object\":\"error\",\"message\":\"engine dead\",\"code\":500}\n\n"),
        Ending::EventError => Some("event: error\ndata: engine dead\n\n"),
        Ending::EventOfTgi => Some("event: error\ndata: {\"error\":\"engine dead\",\"error_type\":\"generation\"}\n\n"),
        Ending::EventOfOpenAi => Some(
            "event: error\ndata: {\"error\":{\"message\":\"engine dead\",\"type\":\"x\",\"param\":null,\"code\":null},\
             \"error_type\":\"generation\"}\n\n",
        ),
        Ending::EventWithoutData => Some("event: error\n\n"),
        Ending::Cut | Ending::Empty | Ending::Broken | Ending::Exception => Some(""),
        _ => None,
    };
    let tokens = match (ending, middle) {
        (Ending::Empty, _) => 0,
        (_, Some(_)) => TOKENS / 2,
        _ => TOKENS,
    };
    let has_done = shape != Shape::Tgi;
    let is_last = |index: usize| index + 1 == TOKENS && (has_done || ending != Ending::LastMissing);
    // A comment may stand alone or directly above an event.
    let mut events = vec![": ping\n\n: ping\n".to_owned()];
    events.extend((0..tokens).map(|index| format!("data: {}\n\n", token(is_last(index)))));
    events.extend(middle.map(str::to_owned));
    if has_done && middle.is_none() && ending != Ending::LastMissing {
        events.push("data: [DONE]\n\n".to_owned());
    }
    match ending {
        Ending::BlankLineMissing => {
            let last = events.last_mut().expect("there are tokens");
            last.truncate(last.len() - 1);
        }
        _ => events.push(": ping\n\n".to_owned()),
    }
    events
}

/// These bytes in frames of a few, which events go across.
fn frames(bytes: &[u8], ending: Ending) -> Vec<u8> {
    let mut frames: Vec<Vec<u8>> =
        bytes.chunks(50).map(|part| frame(&[(":event-type", "PayloadPart")], part)).collect();
    let exception = [(":message-type", "exception"), (":exception-type", "ModelStreamError")];
    match ending {
        Ending::Exception => frames.push(frame(&exception, b"{\"Message\": \"engine dead\"}")),
        Ending::Checksum => *frames[1].last_mut().expect("not empty") ^= 1,
        Ending::HalfFrame => {
            let last = frames.last_mut().expect("there are frames");
            last.truncate(last.len() - 1);
        }
        _ => {}
    }
    frames.concat()
}

fn frame(headers: &[(&'static str, &'static str)], payload: &[u8]) -> Vec<u8> {
    let header = |&(name, value): &(&'static str, &'static str)| Header::new(name, HeaderValue::String(value.into()));
    let message = Message::new_from_parts(headers.iter().map(header).collect(), payload.to_vec());
    let mut bytes = Vec::new();
    write_message_to(&message, &mut bytes).expect("a short message");
    bytes
}
