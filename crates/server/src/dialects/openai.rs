//! OpenAI's dialect: `/v1/completions`, `/v1/chat/completions` and `/v1/models`, with the parameters that vLLM adds. docs/openai.md
//! has what is accepted, ignored and refused.

mod chat;
mod completions;
mod error;
mod logprobs;
mod models;
mod prompts;
mod request;
mod response;
mod unsupported;

pub use chat::ChatRequest;
pub(crate) use chat::conversation;
pub use completions::CompletionRequest;
pub use error::{ErrorBody, ErrorObject};
pub use logprobs::{ChatLogprobs, ChatTokenLogprob, ChatTopLogprob, CompletionLogprobs, TopLogprobs};
pub use models::{Model, ModelList};
pub use prompts::Prompts;
pub use request::{Parameters, ResponseFormat, Seed, StopStrings, StreamOptions};
pub use response::{
    ChatChoice, ChatChunk, ChatChunkBody, ChatChunkChoice, ChatCompletion, ChatDelta, ChatMessage, Completion,
    CompletionBody, CompletionChoice, Head, PromptTokensDetails, Usage,
};

use crate::http::{Rejection, Reply, RequestId, Shared, read_body};
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use error::Failure;
pub(crate) use error::Form;

/// What every path here begins with.
pub(crate) const PREFIX: &str = "/v1/";

/// What there is.
pub(crate) const ROUTES: &[&str] =
    &["POST /v1/completions", "POST /v1/chat/completions", "GET /v1/models", "GET /v1/models/ID"];

/// The end of a stream that was not broken off.
const DONE: &[u8] = b"data: [DONE]\n\n";

/// OpenAI's routes.
pub(crate) fn router() -> Router<Shared> {
    Router::new()
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/models", get(models))
        // Names may have a slash, plain or as %2F.
        .route("/v1/models/{*id}", get(model))
}

async fn completions(State(shared): State<Shared>, request: Request) -> Reply {
    read_and_reply(&shared, request, Form::Completion).await
}

async fn chat_completions(State(shared): State<Shared>, request: Request) -> Reply {
    read_and_reply(&shared, request, Form::Chat).await
}

async fn read_and_reply(shared: &Shared, request: Request, form: Form) -> Reply {
    let id = RequestId::of(&request);
    match read_body(request).await {
        Ok(body) => reply(shared, &id, form, &body).await,
        Err(rejection) => {
            shared.service.count_rejection();
            Reply::Whole(rejected(rejection))
        }
    }
}

/// Answers a request of this form.
pub(crate) async fn reply(shared: &Shared, id: &RequestId, form: Form, body: &[u8]) -> Reply {
    let answered = match form {
        Form::Completion => completions::answer(shared, id, body).await,
        Form::Chat => chat::answer(shared, id, body).await,
    };
    answered.unwrap_or_else(|failure| Reply::Whole(failure.into_response()))
}

async fn models(State(shared): State<Shared>) -> Json<ModelList> {
    Json(ModelList { object: "list", data: [Model::new(&shared.service)] })
}

async fn model(State(shared): State<Shared>, Path(id): Path<String>) -> Result<Json<Model>, Failure> {
    Model::named(&shared.service, &id).map(Json)
}

/// The answer to a request that cannot be read.
pub(crate) fn rejected(rejection: Rejection) -> Response {
    Failure::from(rejection).into_response()
}
