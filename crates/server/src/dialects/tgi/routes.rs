//! TGI's routes.

use super::request::GenerateRequest;
use super::response::{Shape, StreamDetails, Token};
use super::{ErrorBody, GenerateResponse};
use crate::http::{EventBuffer, Events, Rejection, Shared, event_stream, whole_seconds};
use crate::{Error, Service, TokenStream};
use api::TokenEvent;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use coordinator::Status as ModelStatus;
use serde::Serialize;

/// TGI's routes.
pub(crate) fn router() -> Router<Shared> {
    let routes = Router::new().route("/health", get(health));
    routes.route("/generate", post(generate)).route("/generate_stream", post(generate_stream))
}

/// 200 with an empty body when every rank is ready, else 503 and why.
async fn health(State(shared): State<Shared>) -> Response {
    let why = match &*shared.service.status().borrow() {
        ModelStatus::Ready { .. } => return StatusCode::OK.into_response(),
        ModelStatus::Loading { done, total } => format!("loading, {done} of {total} bytes"),
        ModelStatus::Draining | ModelStatus::Stopped => "shutting down".to_owned(),
        ModelStatus::Failed { reason } => reason.clone(),
    };
    let unhealthy = ErrorBody::unhealthy();
    failure(ErrorBody { error: format!("{}: {why}", unhealthy.error), ..unhealthy })
}

type Body = Result<Json<GenerateRequest>, JsonRejection>;

/// A whole answer.
async fn generate(
    State(Shared { service, .. }): State<Shared>,
    body: Body,
) -> Result<Json<GenerateResponse>, Response> {
    let request = read(&service, body)?;
    if request.stream {
        service.count_rejection();
        let message =
            "`stream` cannot be true for /generate, which answers as a whole; leave it out, or use /generate_stream";
        return Err(failure(ErrorBody::rejection(message)));
    }
    whole(&service, request).await.map(Json).map_err(|error| failed(&error))
}

/// The answer token by token.
async fn generate_stream(State(shared): State<Shared>, body: Body) -> Result<Response, Response> {
    let request = read(&shared.service, body)?;
    streamed(&shared, request).await.map_err(|error| failed(&error))
}

#[expect(clippy::result_large_err, reason = "it is the answer")]
fn read(service: &Service, body: Body) -> Result<GenerateRequest, Response> {
    body.map(|Json(request)| request).map_err(|rejection| {
        service.count_rejection();
        rejected(rejection.into())
    })
}

/// Answers a request as a whole.
pub(crate) async fn whole(service: &Service, request: GenerateRequest) -> Result<GenerateResponse, Error> {
    let shape = Shape::new(&request.inputs, &request.parameters, service.tokenizer());
    let request = service.translated(request.translate(false, &service.info().tgi))?;
    Ok(shape.response(service.generate(request).await?))
}

/// Answers a request token by token.
pub(crate) async fn streamed(shared: &Shared, request: GenerateRequest) -> Result<Response, Error> {
    let Shared { service, stall_limit } = shared;
    let shape = Shape::new(&request.inputs, &request.parameters, service.tokenizer());
    let request = service.translated(request.translate(true, &service.info().tgi))?;
    let mut tokens = service.start(request).await?;
    tokens.end_without_reader(None, Some(*stall_limit));
    event_stream(tokens, TgiEvents { shape }).await
}

/// One event a token; the last has the whole text.
struct TgiEvents {
    shape: Shape,
}

#[derive(Serialize)]
struct StreamEvent {
    index: u32,
    token: Token,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top_tokens: Vec<Token>,
    generated_text: Option<String>,
    details: Option<StreamDetails>,
}

impl Events for TgiEvents {
    fn token(&mut self, stream: &mut TokenStream, event: TokenEvent, out: &mut EventBuffer) {
        let (generated_text, details) =
            event.finish.map(|finish| self.shape.ending(stream, finish)).map_or((None, None), |(t, d)| (Some(t), d));
        out.data(&StreamEvent {
            index: stream.generated_tokens(0),
            token: event.token.into(),
            top_tokens: event.top.into_iter().map(Token::from).collect(),
            generated_text,
            details,
        });
    }

    fn error(&mut self, error: &Error, out: &mut EventBuffer) {
        out.error(&ErrorBody::from(error));
    }
}

/// The answer to a request that failed.
pub(crate) fn failed(error: &Error) -> Response {
    let mut response = failure(ErrorBody::from(error));
    if let Error::Overloaded { retry_after } = error {
        response.headers_mut().insert(RETRY_AFTER, whole_seconds(*retry_after));
    }
    response
}

/// The answer to a request that cannot be read.
pub(crate) fn rejected(rejection: Rejection) -> Response {
    (rejection.status, Json(ErrorBody::rejection(rejection.message))).into_response()
}

fn failure(body: ErrorBody) -> Response {
    let status = StatusCode::from_u16(body.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(body)).into_response()
}
