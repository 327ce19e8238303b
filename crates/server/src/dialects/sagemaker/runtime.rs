//! SageMaker's runtime API: what `InvokeEndpoint` and its stream send to an endpoint of any name, and what they read.

use super::frames::{CONTENT_TYPE, Framed, payload_part};
use super::invoke;
use crate::http::{RETRY_AFTER_MS, Rejection, Reply, RequestId, Shared, read_body};
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_TYPE as TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};

/// What all its paths begin with.
pub(crate) const PREFIX: &str = "/endpoints/";

/// What there is.
pub(crate) const ROUTES: &[&str] =
    &["POST /endpoints/NAME/invocations", "POST /endpoints/NAME/invocations-response-stream"];

const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");
/// When boto3 tries again, in milliseconds. It does not look at `Retry-After`.
const AMZ_RETRY_AFTER: HeaderName = HeaderName::from_static("x-amz-retry-after");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
const VARIANT: HeaderName = HeaderName::from_static("x-amzn-invoked-production-variant");
const STREAM_TYPE: HeaderName = HeaderName::from_static("x-amzn-sagemaker-content-type");
const CUSTOM_ATTRIBUTES: HeaderName = HeaderName::from_static("x-amzn-sagemaker-custom-attributes");

/// The routes of the runtime API. Signatures are not looked at.
pub(super) fn router() -> Router<Shared> {
    Router::new()
        .route("/endpoints/{name}/invocations", post(invoke_endpoint))
        .route("/endpoints/{name}/invocations-response-stream", post(invoke_with_stream))
        .route("/endpoints/{name}/async-invocations", post(invoke_async))
}

/// The answer as the container gives it.
async fn invoke_endpoint(State(shared): State<Shared>, request: Request) -> Response {
    answer(shared, request, |reply| async { reply.into_response() }).await
}

/// The same in frames.
async fn invoke_with_stream(State(shared): State<Shared>, request: Request) -> Response {
    answer(shared, request, framed).await
}

/// Answers later, into a bucket; there is none.
async fn invoke_async(request: Request) -> Response {
    let message = "asynchronous invocations are not served here; ask /invocations or /invocations-response-stream";
    let refused = error(StatusCode::BAD_REQUEST, "ValidationError", json!({ "Message": message }));
    with_headers(refused, request.headers())
}

async fn answer<F>(shared: Shared, mut request: Request, success: fn(Reply) -> F) -> Response
where
    F: Future<Output = Response>,
{
    let (id, headers) = (RequestId::of(&request), std::mem::take(request.headers_mut()));
    let response = match read_body(request).await {
        Err(rejection) => {
            shared.service.count_rejection();
            rejected(rejection)
        }
        Ok(body) => match invoke(&shared, &id, &body).await {
            Reply::Whole(response) if !response.status().is_success() => failed(response).await,
            reply => success(reply).await,
        },
    };
    with_headers(response, &headers)
}

/// An answer in frames; a whole one is a single part.
async fn framed(reply: Reply) -> Response {
    let (content_type, mut response) = match reply {
        Reply::Stream(stream) => {
            let content_type = HeaderValue::from_static(stream.content_type());
            (content_type, stream.wrapped(Framed).into_response())
        }
        Reply::Whole(whole) => {
            let (head, body) = whole.into_parts();
            let content_type = head.headers.get(TYPE).cloned();
            let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
            let framed = ([(TYPE, CONTENT_TYPE)], payload_part(body)).into_response();
            (content_type.unwrap_or(HeaderValue::from_static("application/octet-stream")), framed)
        }
    };
    response.headers_mut().insert(STREAM_TYPE, content_type);
    response
}

/// What the endpoint says of an error of its container. Clients try again where the answer is `ThrottlingException` or 503: there
/// nothing has been generated.
async fn failed(container: Response) -> Response {
    let (head, body) = container.into_parts();
    let original = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let original = String::from_utf8_lossy(&original);
    let message = text_of(&original);
    match head.status {
        StatusCode::TOO_MANY_REQUESTS => {
            let mut response = error(head.status, "ThrottlingException", json!({ "Message": message }));
            for (name, from) in [(RETRY_AFTER, RETRY_AFTER), (AMZ_RETRY_AFTER, RETRY_AFTER_MS)] {
                if let Some(wait) = head.headers.get(from) {
                    response.headers_mut().insert(name, wait.clone());
                }
            }
            response
        }
        StatusCode::SERVICE_UNAVAILABLE => error(head.status, "ServiceUnavailable", json!({ "Message": message })),
        status => error(
            StatusCode::FAILED_DEPENDENCY,
            "ModelError",
            json!({
                "Message": format!("the model answered {}: {message}", status.as_u16()),
                "OriginalStatusCode": status.as_u16(),
                "OriginalMessage": original,
                "LogStreamArn": "",
            }),
        ),
    }
}

/// The text of an error in the JSON of TGI's dialect or OpenAI's.
fn text_of(body: &str) -> String {
    let json: Value = serde_json::from_str(body).unwrap_or_default();
    let text = json["error"].as_str().or_else(|| json["error"]["message"].as_str());
    text.unwrap_or(body).to_owned()
}

/// The answer to a request that cannot be read.
pub(crate) fn rejected(Rejection { status, message }: Rejection) -> Response {
    let kind = match status {
        StatusCode::TOO_MANY_REQUESTS => "ThrottlingException",
        StatusCode::NOT_FOUND => "UnknownOperationException",
        StatusCode::UNAUTHORIZED => "AccessDeniedException",
        _ => "ValidationError",
    };
    error(status, kind, json!({ "Message": message }))
}

fn error(status: StatusCode, kind: &'static str, body: Value) -> Response {
    (status, [(ERROR_TYPE, kind)], Json(body)).into_response()
}

/// `response` with what every answer of the runtime API has. `asked` are the request's headers.
fn with_headers(mut response: Response<Body>, asked: &HeaderMap) -> Response {
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, request_id());
    headers.insert(VARIANT, HeaderValue::from_static("AllTraffic"));
    if let Some(attributes) = asked.get(CUSTOM_ATTRIBUTES) {
        headers.insert(CUSTOM_ATTRIBUTES, attributes.clone());
    }
    response
}

/// A random UUID (version 4).
fn request_id() -> HeaderValue {
    let hex = format!("{:032x}", fastrand::u128(..) & !(0xf << 76 | 3 << 62) | 4 << 76 | 2 << 62);
    let (a, rest) = hex.split_at(8);
    let id = format!("{a}-{}-{}-{}-{}", &rest[..4], &rest[4..8], &rest[8..12], &rest[12..]);
    HeaderValue::try_from(id).expect("hexadecimal digits and hyphens")
}
