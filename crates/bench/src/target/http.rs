//! The dialects over HTTP.

mod answer;
mod cost;
mod dialect;
mod frames;
mod parameters;

use super::error::shortened;
use super::{Record, ServerInfo, TargetError, TargetOptions, base_url, read_ca};
use crate::dataset::Request;
use answer::Answer;
use bytes::Bytes;
use dialect::{Framing, HttpDialect, error_in, over_http, parsed};
use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use sse_stream::SseByteStream;
use tokio_rustls::rustls::crypto::ring::default_provider;

pub(crate) use cost::ns_per_event;

#[derive(Clone)]
pub(super) struct Http {
    client: Client,
    base: String,
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
        let base = base_url(&options.address)?;
        // What is measured is this address, not where it or the environment points.
        let client = Client::builder().no_proxy().redirect(Policy::none()).default_headers(headers(options)?);
        let client = trusting(client, &base, options)?.build().map_err(|error| TargetError::connect(&base, &error))?;
        let mut http = Self { client, base, dialect, model: String::new(), info: ServerInfo::default() };
        let answers = dialect.answers();
        // A server without this route can be measured all the same.
        let response = http.sent(http.client.get(http.url(answers.info_route()))).await?;
        if response.status().is_success() {
            http.info = answers.info(&parsed(&text(response).await?)?);
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
        let response = self.sent(self.client.post(self.url(&route)).json(&body)).await?;
        if !response.status().is_success() {
            return Err(refusal(response.status(), &text(response).await?, &route));
        }
        let mut answer = Answer::new(self.dialect.answers());
        let expected = self.dialect.framing().content_type();
        if !stream {
            answer.whole(&text(response).await?, record)?;
        } else if content_type(&response).starts_with(expected) {
            match self.dialect.framing() {
                Framing::Events => read(bytes_of(response), &mut answer, record).await?,
                Framing::AwsFrames => read(frames::payloads(bytes_of(response)).boxed(), &mut answer, record).await?,
            }
        } else {
            return Err(no_stream(expected, &content_type(&response), &text(response).await?));
        }
        answer.end()
    }

    fn url(&self, route: &str) -> String {
        format!("{}{route}", self.base)
    }

    async fn sent(&self, request: RequestBuilder) -> Result<Response, TargetError> {
        request.send().await.map_err(|error| match () {
            () if error.is_builder() => TargetError::address(&self.base, &error),
            () if error.is_connect() => TargetError::connect(&self.base, &error),
            () => TargetError::broken(&error),
        })
    }
}

/// A client that trusts the authorities that it was told to, or else the system's.
fn trusting(client: ClientBuilder, base: &str, options: &TargetOptions) -> Result<ClientBuilder, TargetError> {
    // If somebody was first, it was with the same.
    let _ = default_provider().install_default();
    Ok(match read_ca(options)? {
        Some(pem) => {
            let roots = Certificate::from_pem_bundle(&pem).map_err(|error| TargetError::ca(options, &error))?;
            client.tls_certs_only(roots)
        }
        None if base.starts_with("https:") => client,
        // A system may have none, and a server by http needs none.
        None => client.tls_certs_only([]),
    })
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

/// The body as it comes.
fn bytes_of(response: Response) -> BoxStream<'static, Result<Bytes, TargetError>> {
    let next = async |mut response: Response| {
        let bytes = response.chunk().await.map_err(|error| TargetError::broken(&error))?;
        Ok(bytes.map(|bytes| (bytes, response)))
    };
    stream::try_unfold(response, next).boxed()
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

fn content_type(response: &Response) -> String {
    let value = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_ascii_lowercase()
}

async fn text(response: Response) -> Result<String, TargetError> {
    let body = response.bytes().await.map_err(|error| TargetError::broken(&error))?;
    Ok(String::from_utf8_lossy(&body).into_owned())
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
