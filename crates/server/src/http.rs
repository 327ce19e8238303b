//! The HTTP API.

use crate::incoming::{IncomingError, LargeBodies, check_headers};
use crate::limits::HTTP_BODY_BYTES_MAX;
use crate::{Error, Service};
use api::{ErrorBody, GenerateRequest, GenerateResponse};
use axum::body::Body;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use coordinator::Status as ModelStatus;
use tonic::Status;

/// All HTTP routes over one service.
pub(crate) fn router(service: Service) -> Router {
    let routes = Router::new().route("/health", get(health)).route("/generate", post(generate));
    let routes = routes.route("/metrics", get(metrics));
    routes.fallback(not_found).method_not_allowed_fallback(method_not_allowed).with_state(service)
}

/// What there is.
const ROUTES: &str = "there are GET /health, GET /metrics and POST /generate";

async fn not_found(uri: Uri, headers: HeaderMap) -> Response {
    let is_grpc = headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
        return Status::unimplemented("this is the address of HTTP; gRPC has its own").into_http::<Body>();
    }
    let body = ErrorBody::rejection(format!("there is no {}; {ROUTES}", uri.path()));
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let body = ErrorBody::rejection(format!("there is no {method} {}; {ROUTES}", uri.path()));
    (StatusCode::METHOD_NOT_ALLOWED, Json(body)).into_response()
}

/// 200 with an empty body when every rank is ready, else 503 and why.
async fn health(State(service): State<Service>) -> Response {
    let why = match &*service.status().borrow() {
        ModelStatus::Ready { .. } => return StatusCode::OK.into_response(),
        ModelStatus::Loading { done, total } => format!("loading, {done} of {total} bytes"),
        ModelStatus::Draining | ModelStatus::Stopped => "shutting down".to_owned(),
        ModelStatus::Failed { reason } => reason.clone(),
    };
    let unhealthy = ErrorBody::unhealthy();
    failure(ErrorBody { error: format!("{}: {why}", unhealthy.error), ..unhealthy })
}

/// TGI's route for a whole answer.
async fn generate(
    State(service): State<Service>,
    request: Result<Json<GenerateRequest>, JsonRejection>,
) -> Result<Json<GenerateResponse>, Response> {
    let Json(request) = request.map_err(|rejection| {
        service.count_rejection();
        match incoming_error(&rejection) {
            Some(error) => refused(error),
            None => (rejection.status(), Json(ErrorBody::rejection(rejection.body_text()))).into_response(),
        }
    })?;
    if request.stream {
        service.count_rejection();
        let message = "`stream` cannot be true for /generate, which answers as a whole; leave it out, or use gRPC's GenerateStream";
        return Err(failure(ErrorBody::rejection(message)));
    }
    let answer = service.generate(request).await;
    answer.map(Json).map_err(|error: Error| {
        let mut response = failure(ErrorBody::from(&error));
        if let Error::Overloaded { retry_after } = error {
            // Whole seconds, and not too few.
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from(retry_after.as_millis().div_ceil(1000) as u64));
        }
        response
    })
}

/// `routes` within limits of what a request may bring.
pub(crate) fn limited(routes: Router, bodies: LargeBodies) -> Router {
    let limits = move |request: Request, next: Next| {
        let bodies = bodies.clone();
        async move {
            if let Err(error) = check_headers(request.headers()) {
                return refused(&error);
            }
            next.run(request.map(|body| bodies.limit(body, HTTP_BODY_BYTES_MAX, |error| error))).await
        }
    };
    // axum's own limit says less, and stops reading.
    routes.layer(DefaultBodyLimit::disable()).layer(from_fn(limits))
}

/// The cause of a rejection, if it is that the body broke a limit.
fn incoming_error(rejection: &JsonRejection) -> Option<&IncomingError> {
    let mut causes =
        std::iter::successors(Some(rejection as &(dyn std::error::Error + 'static)), |error| error.source());
    causes.find_map(|error| error.downcast_ref())
}

fn refused(error: &IncomingError) -> Response {
    let status = match error {
        IncomingError::HeadersTooLarge { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        IncomingError::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        IncomingError::TooSlow => StatusCode::REQUEST_TIMEOUT,
        IncomingError::Busy => StatusCode::TOO_MANY_REQUESTS,
        IncomingError::Broken(_) => StatusCode::BAD_REQUEST,
    };
    (status, Json(ErrorBody::rejection(error.to_string()))).into_response()
}

/// For Prometheus.
async fn metrics(State(service): State<Service>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], service.metrics()).into_response()
}

fn failure(body: ErrorBody) -> Response {
    let status = StatusCode::from_u16(body.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(body)).into_response()
}
