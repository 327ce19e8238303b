//! The dialects over HTTP.

mod answer;
mod connection;
mod cost;
mod dialect;
mod frames;
mod parameters;
mod tls;

use super::error::shortened;
use super::{Record, ServerInfo, TargetError, TargetOptions};
use crate::dataset::Request;
use answer::Answer;
use bytes::Bytes;
use connection::{Reply, Server};
use dialect::{Framing, HttpDialect, error_in, over_http, parsed};
use futures_util::stream::{Stream, StreamExt};
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::Value;
use sse_stream::SseByteStream;

pub(crate) use cost::ns_per_event;

#[derive(Clone)]
pub(super) struct Http {
    server: Server,
    dialect: &'static dyn HttpDialect,
    /// The model that requests name; empty if neither the caller nor the server named one.
    model: String,
    info: ServerInfo,
}

impl Http {
    /// `None` for a dialect that is not spoken over HTTP.
    pub(super) async fn connect(options: &TargetOptions) -> Option<Result<Self, TargetError>> {
        let dialect = over_http(options.dialect)?;
        Some(Self::over(dialect, options).await)
    }

    async fn over(dialect: &'static dyn HttpDialect, options: &TargetOptions) -> Result<Self, TargetError> {
        let server = Server::new(options, headers(options)?)?;
        let mut http = Self { server, dialect, model: String::new(), info: ServerInfo::default() };
        let answers = dialect.answers();
        // A server without this route can be measured all the same.
        let reply = http.server.get(answers.info_route()).await?;
        if reply.head.status.is_success() {
            http.info = answers.info(&parsed(&reply.text().await?)?);
        }
        http.model = options.model.clone().unwrap_or_else(|| dialect.model(&http.info));
        Ok(http)
    }

    pub(super) fn info(&self) -> &ServerInfo {
        &self.info
    }

    pub(super) async fn ask(&self, request: &Request, stream: bool, record: &mut Record) -> Result<(), TargetError> {
        let route = self.dialect.route(&self.model, stream);
        let body = self.dialect.body(request, &self.model, stream)?;
        let reply = self.server.post(&route, body.to_string().into()).await?;
        if !reply.head.status.is_success() {
            return Err(refusal(reply.head.status, &reply.text().await?, &route));
        }
        let mut answer = Answer::new(self.dialect.answers());
        let (expected, found) = (self.dialect.framing().content_type(), content_type(&reply));
        if !stream {
            answer.whole(&reply.text().await?, record)?;
        } else if found.starts_with(expected) {
            match self.dialect.framing() {
                Framing::Events => read(reply, &mut answer, record).await?,
                Framing::AwsFrames => read(frames::payloads(reply).boxed(), &mut answer, record).await?,
            }
        } else {
            return Err(no_stream(expected, &found, &reply.text().await?));
        }
        answer.end()
    }
}

fn headers(options: &TargetOptions) -> Result<HeaderMap, TargetError> {
    let mut headers = HeaderMap::new();
    if let Some(key) = &options.api_key {
        let mut value = HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| TargetError::ApiKey)?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

/// Takes the server-sent events in these bytes.
async fn read<S>(bytes: S, answer: &mut Answer, record: &mut Record) -> Result<(), TargetError>
where
    S: Stream<Item = Result<Bytes, TargetError>> + Unpin,
{
    let mut events = SseByteStream::new(bytes);
    while let Some(event) = events.next().await {
        let event = event.map_err(broken_event)?;
        match (event.event.as_deref(), event.data.as_deref()) {
            (Some("error"), None) => answer.event(Some("error"), "an event without data", record)?,
            (_, None) => {}
            (kind, Some(data)) => answer.event(kind, data, record)?,
        }
    }
    Ok(())
}

/// What broke a stream of events: mostly, the stream of bytes under it.
fn broken_event(error: sse_stream::Error) -> TargetError {
    match error {
        sse_stream::Error::Body(error) => match error.downcast() {
            Ok(error) => *error,
            Err(error) => TargetError::Broken(error.to_string()),
        },
        error => TargetError::Unexpected(error.to_string()),
    }
}

fn content_type(reply: &Reply) -> String {
    let value = reply.head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_ascii_lowercase()
}

/// What a status other than 2xx means, with the error's own text where the body has one.
fn refusal(status: StatusCode, body: &str, route: &str) -> TargetError {
    let said = serde_json::from_str(body).ok().and_then(|body: Value| error_in(&body));
    let message = match said {
        Some(said) => said,
        None if body.trim().is_empty() => route.to_owned(),
        None => body.to_owned(),
    };
    TargetError::Status { status: status.to_string(), message: shortened(&message) }
}

/// A body that is no stream, though one was asked for.
fn no_stream(expected: &str, content_type: &str, body: &str) -> TargetError {
    match serde_json::from_str(body).ok().and_then(|body: Value| error_in(&body)) {
        Some(said) => TargetError::Reported(shortened(&said)),
        None => TargetError::Unexpected(format!("{content_type:?} instead of {expected}: {:?}", shortened(body))),
    }
}
