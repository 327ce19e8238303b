//! SageMaker's dialect: what it asks of a container, `/ping` and `/invocations`, and its runtime API for those who ask an endpoint.

mod frames;
pub(crate) mod runtime;

use super::openai::{self, Form};
use super::tgi;
use super::tgi::GenerateRequest;
use super::tgi::routes::{Whole, rejected, reply};
use crate::http::{Rejection, Reply, RequestId, Shared, parse_json, read_body};
use axum::Router;
use axum::extract::{Request, State};
use axum::routing::{get, post};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// What there is.
pub(crate) const ROUTES: &[&str] = &["GET /ping", "POST /invocations"];

/// SageMaker's routes.
pub(crate) fn router() -> Router<Shared> {
    Router::new()
        .route("/ping", get(tgi::routes::health))
        .route("/invocations", post(invocations))
        .merge(runtime::router())
}

/// What SageMaker sends to a container. The body is JSON, whatever type it says it has.
async fn invocations(State(shared): State<Shared>, request: Request) -> Reply {
    let id = RequestId::of(&request);
    match read_body(request).await {
        Ok(body) => invoke(&shared, &id, &body).await,
        Err(rejection) => refuse(&shared, rejection),
    }
}

/// The keys by which bodies are told apart. The first that is there decides.
#[derive(Deserialize)]
struct Keys {
    inputs: Option<IgnoredAny>,
    messages: Option<IgnoredAny>,
    prompt: Option<IgnoredAny>,
}

/// Answers a body in its own dialect.
async fn invoke(shared: &Shared, id: &RequestId, body: &[u8]) -> Reply {
    match parse_json(body) {
        Ok(Keys { inputs: None, messages: Some(_), .. }) => openai::reply(shared, id, Form::Chat, body).await,
        Ok(Keys { inputs: None, prompt: Some(_), .. }) => openai::reply(shared, id, Form::Completion, body).await,
        _ => match parse_json::<GenerateRequest>(body) {
            Ok(request) => reply(shared, request, Whole::List).await,
            Err(rejection) => refuse(shared, rejection),
        },
    }
}

fn refuse(shared: &Shared, rejection: Rejection) -> Reply {
    shared.service.count_rejection();
    Reply::Whole(rejected(rejection))
}
