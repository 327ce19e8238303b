//! TGI's and OpenAI's routes.

mod answers;
mod bodies;

use super::error::shortened;
use super::{Protocol, Record, ServerInfo, TargetError, base_url};
use crate::dataset::Request;
use answers::{Answer, Dialect, error_in};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use sse_stream::SseStream;
use tokio_stream::StreamExt;

/// The type of a stream of server-sent events.
const EVENT_STREAM: &str = "text/event-stream";

#[derive(Clone)]
pub(super) struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    base: String,
    dialect: Dialect,
    info: ServerInfo,
}

impl Http {
    pub(super) async fn new(address: &str, protocol: Protocol) -> Result<Self, TargetError> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let dialect = if protocol == Protocol::Completions { Dialect::OpenAi } else { Dialect::Tgi };
        let mut http = Self { client, base: base_url(address)?, dialect, info: ServerInfo::default() };
        let route = match dialect {
            Dialect::Tgi => "/info",
            Dialect::OpenAi => "/v1/models",
        };
        // A server without this route can be measured all the same.
        let response = http.send(Method::GET, route, None).await?;
        if response.status().is_success() {
            http.info = server_info(dialect, &parsed(&text(response).await?)?);
        }
        Ok(http)
    }

    pub(super) fn info(&self) -> &ServerInfo {
        &self.info
    }

    pub(super) async fn ask(&self, request: &Request, stream: bool, record: &mut Record) -> Result<(), TargetError> {
        let (route, body) = match self.dialect {
            Dialect::OpenAi => ("/v1/completions", bodies::completions(request, &self.info.model_id, stream)?),
            Dialect::Tgi if stream => ("/generate_stream", bodies::generate(request)?),
            Dialect::Tgi => ("/generate", bodies::generate(request)?),
        };
        let response = self.send(Method::POST, route, Some(&body)).await?;
        if !response.status().is_success() {
            return Err(refusal(response.status(), &text(response).await?, route));
        }
        let mut answer = Answer::new(self.dialect);
        if !stream {
            answer.whole(&parsed(&text(response).await?)?, record)?;
        } else if content_type(&response).starts_with(EVENT_STREAM) {
            let mut events = SseStream::new(response.into_body());
            while let Some(event) = events.next().await {
                let event = event.map_err(|error| TargetError::broken(&error))?;
                let Some(data) = event.data else { continue };
                answer.event(event.event.as_deref(), &data, record)?;
            }
        } else {
            return Err(no_stream(&content_type(&response), &text(response).await?));
        }
        answer.end()
    }

    async fn send(&self, method: Method, route: &str, body: Option<&Value>) -> Result<Response<Incoming>, TargetError> {
        let url = format!("{}{route}", self.base);
        let invalid = |reason: String| TargetError::Address { address: self.base.clone(), reason };
        let uri: Uri = url.parse().map_err(|error: hyper::http::uri::InvalidUri| invalid(error.to_string()))?;
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let request = hyper::Request::builder().method(method).uri(uri).header(CONTENT_TYPE, "application/json");
        let request = request.body(Full::new(body)).map_err(|error| invalid(error.to_string()))?;
        self.client.request(request).await.map_err(|error| match error.is_connect() {
            true => TargetError::connect(&self.base, &error),
            false => TargetError::broken(&error),
        })
    }
}

/// From TGI's /info or OpenAI's /v1/models, whose first model is the one that requests name.
fn server_info(dialect: Dialect, said: &Value) -> ServerInfo {
    let (model, software) = match dialect {
        Dialect::Tgi => (&said["model_id"], [&said["version"], &said["model_dtype"]]),
        Dialect::OpenAi => (&said["data"][0]["id"], [&said["data"][0]["owned_by"], &Value::Null]),
    };
    let software: Vec<&str> = software.into_iter().filter_map(Value::as_str).collect();
    ServerInfo { model_id: model.as_str().unwrap_or_default().to_owned(), software: software.join(", ") }
}

fn content_type(response: &Response<Incoming>) -> String {
    let value = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_ascii_lowercase()
}

async fn text(response: Response<Incoming>) -> Result<String, TargetError> {
    let body = response.into_body().collect().await.map_err(|error| TargetError::broken(&error))?;
    Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}

fn parsed(text: &str) -> Result<Value, TargetError> {
    let parsed = serde_json::from_str(text);
    parsed.map_err(|error| TargetError::Unexpected(format!("{error} in {:?}", shortened(text))))
}

/// What a status other than 2xx means, with the error's own text where the body has one.
fn refusal(status: StatusCode, body: &str, route: &str) -> TargetError {
    let said = serde_json::from_str(body).ok().and_then(|body| error_in(&body));
    let message = match said {
        Some(said) => said,
        None if body.trim().is_empty() => route.to_owned(),
        None => body.to_owned(),
    };
    TargetError::Status { status: status.to_string(), message: shortened(&message) }
}

/// A body that is no stream, though one was asked for.
fn no_stream(content_type: &str, body: &str) -> TargetError {
    match serde_json::from_str(body).ok().and_then(|body| error_in(&body)) {
        Some(said) => TargetError::Reported(shortened(&said)),
        None => TargetError::Unexpected(format!("{content_type:?} instead of {EVENT_STREAM}: {:?}", shortened(body))),
    }
}
