//! HTTP: the routes of all dialects, within limits of what a request may bring.

mod json;
mod sse;

pub(crate) use json::Rejection;
pub(crate) use sse::{EventBuffer, Events, event_stream};

use crate::Service;
use crate::dialects::tgi;
use crate::incoming::{IncomingError, LargeBodies, check_headers};
use crate::limits::HTTP_BODY_BYTES_MAX;
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::time::Duration;
use tonic::Status;

/// What every route has at hand.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) service: Service,
    /// How long the reader of a stream may stand still.
    pub(crate) stall_limit: Duration,
}

/// All routes over one service.
pub(crate) fn router(shared: Shared) -> Router {
    let routes = Router::new().route("/metrics", get(metrics)).merge(tgi::routes::router());
    routes.fallback(not_found).method_not_allowed_fallback(method_not_allowed).with_state(shared)
}

/// What there is.
const ROUTES: &str = "there are GET /health, GET /metrics, POST /generate and POST /generate_stream";

async fn not_found(uri: Uri, headers: HeaderMap) -> Response {
    let is_grpc = headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
        return Status::unimplemented("this is the address of HTTP; gRPC has its own").into_http::<Body>();
    }
    refused(Rejection { status: StatusCode::NOT_FOUND, message: format!("there is no {}; {ROUTES}", uri.path()) })
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let message = format!("there is no {method} {}; {ROUTES}", uri.path());
    refused(Rejection { status: StatusCode::METHOD_NOT_ALLOWED, message })
}

/// For Prometheus.
async fn metrics(State(shared): State<Shared>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], shared.service.metrics()).into_response()
}

/// `routes` within limits of what a request may bring.
pub(crate) fn limited(routes: Router, bodies: LargeBodies) -> Router {
    let limits = move |request: Request, next: Next| {
        let bodies = bodies.clone();
        async move {
            if let Err(error) = check_headers(request.headers()) {
                return refused(Rejection::from(&error));
            }
            next.run(request.map(|body| bodies.limit(body, HTTP_BODY_BYTES_MAX, |error| error))).await
        }
    };
    // axum's own limit says less, and stops reading.
    routes.layer(DefaultBodyLimit::disable()).layer(from_fn(limits))
}

/// A request that no dialect has taken.
fn refused(rejection: Rejection) -> Response {
    tgi::routes::rejected(rejection)
}

/// `Retry-After`, in whole seconds, and not too few.
pub(crate) fn whole_seconds(wait: Duration) -> HeaderValue {
    HeaderValue::from(wait.as_millis().div_ceil(1000) as u64)
}

impl From<&IncomingError> for Rejection {
    fn from(error: &IncomingError) -> Self {
        let status = match error {
            IncomingError::HeadersTooLarge { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            IncomingError::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            IncomingError::TooSlow => StatusCode::REQUEST_TIMEOUT,
            IncomingError::Busy => StatusCode::TOO_MANY_REQUESTS,
            IncomingError::Broken(_) => StatusCode::BAD_REQUEST,
        };
        Self { status, message: error.to_string() }
    }
}
