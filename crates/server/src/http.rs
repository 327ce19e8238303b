//! The HTTP face.

use crate::{Error, Service};
use api::{ErrorBody, GenerateRequest, GenerateResponse};
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use coordinator::Status;

/// The routes.
pub(crate) fn router(service: Service) -> Router {
    let routes = Router::new().route("/health", get(health)).route("/generate", post(generate));
    let routes = routes.route("/metrics", get(metrics));
    routes.fallback(not_found).with_state(service)
}

async fn not_found(uri: Uri) -> Response {
    let body = ErrorBody::rejection(format!(
        "there is no {}; there are GET /health, GET /metrics and POST /generate",
        uri.path()
    ));
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}

/// 200 with an empty body when every rank is ready, else 503 and why.
async fn health(State(service): State<Service>) -> Response {
    let why = match &*service.status().borrow() {
        Status::Ready { .. } => return StatusCode::OK.into_response(),
        Status::Loading { done, total } => format!("loading, {done} of {total} bytes"),
        Status::Draining | Status::Stopped => "shutting down".to_owned(),
        Status::Failed { reason } => reason.clone(),
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
        let body = ErrorBody::rejection(rejection.body_text());
        (rejection.status(), Json(body)).into_response()
    })?;
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

/// For Prometheus.
async fn metrics(State(service): State<Service>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], service.metrics()).into_response()
}

fn failure(body: ErrorBody) -> Response {
    let status = StatusCode::from_u16(body.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(body)).into_response()
}
