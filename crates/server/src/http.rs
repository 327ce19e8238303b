//! HTTP: the routes of all dialects, within limits of what a request may bring.

mod json;
pub(crate) mod openapi;
pub(crate) mod page;
mod reply;
mod request_id;
mod sse;

pub(crate) use json::{Rejection, parse_json, read_body};
pub(crate) use reply::Reply;
pub(crate) use request_id::RequestId;
pub(crate) use sse::{EventBuffer, EventStream, Events, JsonHead, event_stream};

use crate::Service;
use crate::access::{Denied, Gate};
use crate::dialects::sagemaker::{self, runtime};
use crate::dialects::{openai, tgi};
use crate::incoming::{IncomingError, LargeBodies, check_headers, discard};
use crate::telemetry::Exposition;
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::net::SocketAddr;
use std::time::Duration;
use tonic::Status;

/// What every route has at hand.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) service: Service,
    /// How long the reader of a stream may stand still.
    pub(crate) stall_limit: Duration,
    /// Bytes of a body.
    pub(crate) payload_limit: usize,
    /// Where the metrics are, if not among the routes.
    pub(crate) metrics_at: Option<SocketAddr>,
}

/// All routes over one service.
pub(crate) fn router(shared: Shared) -> Router {
    let routes = probes().route("/metrics", get(metrics)).merge(tgi::routes::router());
    let routes = routes.merge(openai::router()).merge(sagemaker::router()).merge(openapi::router());
    routes.fallback(not_found).method_not_allowed_fallback(method_not_allowed).with_state(shared)
}

/// The routes of the listener for metrics.
pub(crate) fn monitoring(shared: Shared) -> Router {
    const ROUTES: &str = "GET /metrics, GET /health, GET /livez, GET /readyz";
    let nothing = async |uri: Uri| {
        let message = format!("there is no {}; there are {ROUTES}", uri.path());
        refused(uri.path(), Rejection { status: StatusCode::NOT_FOUND, message })
    };
    let routes = probes().route("/metrics", get(metrics)).route("/health", get(tgi::routes::health));
    routes.fallback(nothing).with_state(Shared { metrics_at: None, ..shared })
}

/// What supervisors ask: whether the server goes on, whatever its ranks do, and whether it serves.
fn probes() -> Router<Shared> {
    Router::new().route("/livez", get(async || StatusCode::OK)).route("/readyz", get(tgi::routes::health))
}

/// What there is, by its dialects.
fn routes(shared: &Shared) -> String {
    let own: &[&str] = if shared.metrics_at.is_none() { &["GET /metrics"] } else { &[] };
    let probes = &["GET /livez", "GET /readyz"];
    let dialects =
        [own, probes, tgi::routes::ROUTES, openai::ROUTES, sagemaker::ROUTES, runtime::ROUTES, openapi::ROUTES];
    dialects.concat().join(", ")
}

async fn not_found(State(shared): State<Shared>, uri: Uri, headers: HeaderMap) -> Response {
    let is_grpc = headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
        return Status::unimplemented("this is the address of HTTP; gRPC has its own").into_http::<Body>();
    }
    let message = format!("there is no {}; there are {}", uri.path(), routes(&shared));
    refused(uri.path(), Rejection { status: StatusCode::NOT_FOUND, message })
}

async fn method_not_allowed(State(shared): State<Shared>, method: Method, uri: Uri) -> Response {
    let message = format!("there is no {method} {}; there are {}", uri.path(), routes(&shared));
    refused(uri.path(), Rejection { status: StatusCode::METHOD_NOT_ALLOWED, message })
}

/// For Prometheus, in OpenMetrics where that is accepted.
async fn metrics(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    if let Some(address) = shared.metrics_at {
        let message = format!("/metrics is on an address of its own, {address} (--metrics-addr)");
        return refused("/metrics", Rejection { status: StatusCode::NOT_FOUND, message });
    }
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let format = match accepted.into_iter().any(|types| types.contains("application/openmetrics-text")) {
        true => Exposition::OpenMetrics,
        false => Exposition::Prometheus,
    };
    ([(CONTENT_TYPE, format.content_type())], shared.service.metrics(format)).into_response()
}

/// `routes` within limits of what a request may bring.
pub(crate) fn limited(routes: Router, gate: Gate, bodies: LargeBodies, payload_limit: usize) -> Router {
    let limits = move |mut request: Request, next: Next| {
        let (gate, bodies) = (gate.clone(), bodies.clone());
        async move {
            if let Err(error) = check_headers(request.headers()) {
                return refused(request.uri().path(), Rejection::from(&error));
            }
            let caller = match gate.admit(&mut request) {
                Ok(caller) => caller,
                Err(denied) => return unauthorized(request, denied, payload_limit),
            };
            let request = request.map(|body| bodies.limit(body, payload_limit, |error| error));
            caller.tell(next.run(request).await)
        }
    };
    // axum's own limit says less, and stops reading.
    routes.layer(DefaultBodyLimit::disable()).layer(from_fn(limits))
}

/// The answer to a call without a key. Its body is read all the same: a client that is still sending may not look for an answer.
fn unauthorized(request: Request, denied: Denied, payload_limit: usize) -> Response {
    let rejection = Rejection { status: StatusCode::UNAUTHORIZED, message: denied.to_string() };
    let mut response = refused(request.uri().path(), rejection);
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    tokio::spawn(discard(request.into_body(), payload_limit));
    response
}

/// How a dialect says that a request cannot be read.
type Refusal = fn(Rejection) -> Response;

/// The dialects whose paths begin alike. All other paths are TGI's.
const DIALECTS: [(&str, Refusal); 2] = [(openai::PREFIX, openai::rejected), (runtime::PREFIX, runtime::rejected)];

/// The answer to a request that no route has taken.
fn refused(path: &str, rejection: Rejection) -> Response {
    let of_path = DIALECTS.iter().find(|(prefix, _)| path.starts_with(prefix));
    of_path.map_or(tgi::routes::rejected as Refusal, |&(_, refusal)| refusal)(rejection)
}

/// When to come back, in milliseconds. OpenAI's clients look at it first.
pub(crate) const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// Says when to come back: in whole seconds, and not too few, and in milliseconds.
pub(crate) fn retry_after(headers: &mut HeaderMap, wait: Duration) {
    let milliseconds = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    headers.insert(RETRY_AFTER, HeaderValue::from(milliseconds.div_ceil(1000)));
    headers.insert(RETRY_AFTER_MS, HeaderValue::from(milliseconds));
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
