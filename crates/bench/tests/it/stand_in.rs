//! A server with TGI's and OpenAI's routes. Every second answer ends in a chosen way.

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
    /// As the protocol says.
    Complete,
    /// In the middle, but cleanly, as proxies end it.
    Cut,
    /// Before the first event.
    Empty,
    /// With TGI's error event in the middle.
    ErrorEvent,
    /// With vLLM's error object in the middle.
    ErrorObject,
    /// With an event whose type is error.
    EventError,
    /// With status 200 and an error in JSON instead of a stream.
    ErrorBody,
    /// With a page in HTML instead of a stream.
    Page,
    /// With a connection that breaks.
    Broken,
    /// Complete but for `[DONE]`, or `generated_text`.
    LastMissing,
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

/// Starts a server, and returns its address.
pub async fn start(ending: Ending, hangs: bool) -> (String, Arc<Behaviour>) {
    let behaviour = Arc::new(Behaviour { ending, hangs, too_long: Notify::new(), requests: AtomicUsize::new(0) });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let info = get(|| async { Json(json!({"model_id": "falcon", "version": "3", "data": [{"id": "falcon"}]})) });
    let routes = ["/generate", "/generate_stream", "/v1/completions"];
    let router = routes.into_iter().fold(Router::new(), |router, route| router.route(route, post(answer)));
    let router = router.route("/info", info.clone()).route("/v1/models", info).with_state(behaviour.clone());
    tokio::spawn(async { serve(listener, router).await });
    (address, behaviour)
}

async fn answer(uri: Uri, State(behaviour): State<Arc<Behaviour>>, Json(body): Json<Value>) -> Response {
    let prompt = body["inputs"].as_str().or(body["prompt"].as_str()).expect("a prompt");
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
    let openai = uri.path() == "/v1/completions";
    match ending {
        Ending::ErrorBody => Json(json!({"error": "x", "error_type": "generation"})).into_response(),
        Ending::Page => ([(CONTENT_TYPE, "text/html")], "<html>").into_response(),
        _ if uri.path() == "/generate" || body["stream"] == false => Json(whole(openai, ending)).into_response(),
        _ => {
            let events = events(openai, ending).into_iter().map(Ok);
            let broken = (ending == Ending::Broken).then(|| Err(io::Error::other("broken")));
            let body = Body::from_stream(tokio_stream::iter(events.chain(broken)));
            ([(CONTENT_TYPE, "text/event-stream")], body).into_response()
        }
    }
}

/// An answer in one piece; anything but a complete one lacks its last key.
fn whole(openai: bool, ending: Ending) -> Value {
    match (openai, ending) {
        (true, Ending::Complete) => json!({"choices": [{"text": "aaaa", "finish_reason": "length"}]}),
        (true, _) => json!({"choices": [{"text": "aaaa"}]}),
        (false, Ending::Complete) => json!({"details": {"generated_tokens": TOKENS}, "generated_text": "aaaa"}),
        (false, _) => json!({"details": {"generated_tokens": TOKENS}}),
    }
}

fn events(openai: bool, ending: Ending) -> Vec<String> {
    let token = |is_last: bool| match openai {
        true => json!({"choices": [{"text": "a", "finish_reason": is_last.then_some("length")}]}),
        false => json!({"token": {"id": 1, "text": "a"}, "generated_text": is_last.then_some("aaaa")}),
    };
    let middle = match ending {
        Ending::Complete | Ending::LastMissing => None,
        Ending::ErrorEvent => Some("data:{\"error\":\"Request failed\",\"error_type\":\"generation\"}\n\n"),
        Ending::ErrorObject => Some("data: {\"object\":\"error\",\"message\":\"engine dead\",\"code\":500}\n\n"),
        Ending::EventError => Some("event: error\ndata: engine dead\n\n"),
        _ => Some(""),
    };
    let tokens = match (ending, middle) {
        (Ending::Empty, _) => 0,
        (_, Some(_)) => TOKENS / 2,
        _ => TOKENS,
    };
    let is_last = |index: usize| index + 1 == TOKENS && (openai || ending != Ending::LastMissing);
    let mut events: Vec<String> = (0..tokens).map(|index| format!("data: {}\n\n", token(is_last(index)))).collect();
    events.extend(middle.map(str::to_owned));
    if openai && ending == Ending::Complete {
        events.push("data: [DONE]\n\n".to_owned());
    }
    events.push(": ping\n\n".to_owned());
    events
}
