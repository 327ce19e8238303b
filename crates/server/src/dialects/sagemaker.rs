//! SageMaker's dialect: that of a container, `/ping` and `/invocations`.

use super::tgi;
use super::tgi::GenerateRequest;
use super::tgi::routes::{Whole, rejected, reply};
use crate::http::{Rejection, Reply, Shared, parse_json, read_body};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::routing::{get, post};

/// What there is.
pub(crate) const ROUTES: &[&str] = &["GET /ping", "POST /invocations"];

/// SageMaker's routes.
pub(crate) fn router() -> Router<Shared> {
    Router::new().route("/ping", get(tgi::routes::health)).route("/invocations", post(invocations))
}

/// What SageMaker sends to a container. The body is JSON, whatever type it says it has.
async fn invocations(State(shared): State<Shared>, request: Request) -> Reply {
    match read_body(request).await {
        Ok(body) => invoke(&shared, &body).await,
        Err(rejection) => refuse(&shared, rejection),
    }
}

/// Answers a body in its own dialect.
async fn invoke(shared: &Shared, body: &Bytes) -> Reply {
    match parse_json::<GenerateRequest>(body) {
        Ok(request) => reply(shared, request, Whole::List).await,
        Err(rejection) => refuse(shared, rejection),
    }
}

fn refuse(shared: &Shared, rejection: Rejection) -> Reply {
    shared.service.count_rejection();
    Reply::Whole(rejected(rejection))
}
