//! TGI's routes.

use super::headers::{Compute, measured};
use super::info::InfoResponse;
use super::request::GenerateRequest;
use super::response::{Shape, StreamDetails, Token};
use super::tokenize::{self, DetokenizeRequest, TokenizeRequest};
use super::{ErrorBody, ErrorKind};
use crate::dialects::openai::ChatRequest;
use crate::http::{self, EventBuffer, EventStream, Events, Rejection, Reply, Shared, event_stream, page};
use crate::{Error, Service, TokenStream};
use api::TokenEvent;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;

/// What there is.
pub(crate) const ROUTES: &[&str] = &[
    "GET and POST /",
    "GET /health",
    "GET /info",
    "POST /generate",
    "POST /generate_stream",
    "POST /tokenize",
    "POST /detokenize",
    "POST /chat_tokenize",
];

/// TGI's routes.
pub(crate) fn router() -> Router<Shared> {
    Router::new()
        .route("/", get(page_or_health).post(compat_generate))
        .route("/health", get(health))
        .route("/info", get(info))
        .route("/generate", post(generate))
        .route("/generate_stream", post(generate_stream))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .route("/chat_tokenize", post(chat_tokenize))
}

/// For browsers the page, for others [`health`].
async fn page_or_health(state: State<Shared>, headers: HeaderMap) -> Response {
    if page::is_wanted(&headers) { page::page() } else { health(state).await }
}

/// 200 with an empty body when every rank is ready, else 503 and why.
pub(crate) async fn health(State(shared): State<Shared>) -> Response {
    let Some(why) = shared.service.state().reason else { return StatusCode::OK.into_response() };
    let unhealthy = ErrorBody::unhealthy();
    failure(ErrorBody { error: format!("{}: {why}", unhealthy.error), ..unhealthy })
}

async fn info(State(Shared { service, payload_limit, .. }): State<Shared>) -> Json<InfoResponse> {
    Json(InfoResponse::new(&service, payload_limit))
}

type Body<T> = Result<Json<T>, JsonRejection>;

/// A whole answer. TGI ignores `stream` here, at which clients that set it find no token.
async fn generate(State(shared): State<Shared>, body: Body<GenerateRequest>) -> Result<Reply, Response> {
    let request = read(&shared.service, body)?;
    Ok(reply(&shared, request, Whole::Object).await)
}

/// Either, as the request says.
async fn compat_generate(State(shared): State<Shared>, body: Body<GenerateRequest>) -> Result<Reply, Response> {
    let request = read(&shared.service, body)?;
    Ok(reply(&shared, request, Whole::List).await)
}

/// The answer token by token.
async fn generate_stream(State(shared): State<Shared>, body: Body<GenerateRequest>) -> Result<Reply, Response> {
    let request = GenerateRequest { stream: true, ..read(&shared.service, body)? };
    Ok(reply(&shared, request, Whole::Object).await)
}

async fn tokenize(State(shared): State<Shared>, body: Body<TokenizeRequest>) -> Response {
    tokenized(body, async |request| tokenize::tokenize(&shared.service, request).await).await
}

async fn detokenize(State(shared): State<Shared>, body: Body<DetokenizeRequest>) -> Response {
    tokenized(body, async |request| tokenize::detokenize(&shared.service, &request)).await
}

async fn chat_tokenize(State(shared): State<Shared>, body: Body<ChatRequest>) -> Response {
    tokenized(body, async |request| tokenize::tokenize_chat(&shared.service, request).await).await
}

async fn tokenized<T, A: Serialize>(body: Body<T>, tokenize: impl AsyncFnOnce(T) -> Result<A, Error>) -> Response {
    match body {
        Err(rejection) => rejected(rejection.into()),
        Ok(Json(request)) => match tokenize(request).await {
            Ok(answer) => Json(answer).into_response(),
            Err(error) => failed(&error),
        },
    }
}

#[expect(clippy::result_large_err, reason = "it is the answer")]
fn read(service: &Service, body: Body<GenerateRequest>) -> Result<GenerateRequest, Response> {
    body.map(|Json(request)| request).map_err(|rejection| {
        service.count_rejection();
        rejected(rejection.into())
    })
}

/// The JSON of a whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whole {
    /// The answer.
    Object,
    /// A list that has it alone.
    List,
}

/// Answers a request as it asks: as a whole or token by token.
pub(crate) async fn reply(shared: &Shared, request: GenerateRequest, form: Whole) -> Reply {
    let answered = match request.stream {
        true => streamed(shared, request).await.map(Reply::Stream),
        false => whole(&shared.service, request, form).await.map(Reply::Whole),
    };
    answered.unwrap_or_else(|error| Reply::Whole(failed(&error)))
}

async fn whole(service: &Service, request: GenerateRequest, form: Whole) -> Result<Response, Error> {
    let compute = Compute::new(service, &request.inputs);
    let shape = Shape::new(&request.inputs, &request.parameters, service.tokenizer());
    let request = service.translated(request.translate(false, &service.info().tgi))?;
    let answer = service.generate(request).await?;
    let headers = (compute.into_headers(), measured(&answer));
    let response = shape.response(answer);
    Ok(match form {
        Whole::Object => (headers.0, headers.1, Json(response)).into_response(),
        Whole::List => (headers.0, headers.1, Json([response])).into_response(),
    })
}

async fn streamed(shared: &Shared, request: GenerateRequest) -> Result<EventStream, Error> {
    let Shared { service, stall_limit, .. } = shared;
    let compute = Compute::new(service, &request.inputs);
    let shape = Shape::new(&request.inputs, &request.parameters, service.tokenizer());
    let request = service.translated(request.translate(true, &service.info().tgi))?;
    let mut tokens = service.start(request).await?;
    tokens.end_without_reader(None, Some(*stall_limit));
    Ok(event_stream(tokens, TgiEvents { shape }).await?.with_headers(compute.into_headers()))
}

/// One event a token; the last has the whole text.
struct TgiEvents {
    shape: Shape,
}

/// An event of a stream.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = StreamResponse)]
pub(crate) struct StreamEvent {
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
    if let Some(retry_after) = error.retry_after() {
        http::retry_after(response.headers_mut(), retry_after);
    }
    response
}

/// The answer to a request that cannot be read.
pub(crate) fn rejected(rejection: Rejection) -> Response {
    // Clients choose their exception by it, whatever the status is.
    let kind = match rejection.status {
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => ErrorKind::NotFound,
        StatusCode::TOO_MANY_REQUESTS => ErrorKind::Overloaded,
        StatusCode::UNAUTHORIZED => ErrorKind::Authentication,
        _ => ErrorKind::Validation,
    };
    (rejection.status, Json(ErrorBody { error: rejection.message, kind })).into_response()
}

fn failure(body: ErrorBody) -> Response {
    let status = StatusCode::from_u16(body.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(body)).into_response()
}
