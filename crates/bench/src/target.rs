//! The server that is measured.

mod error;
mod grpc;
mod http;
mod record;

use crate::dataset::{Request, Vocabulary};
use serde_json::Value;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use error::TargetError;
pub(crate) use http::ns_per_event;
pub use record::{Arrival, Counts, Record};
pub(crate) use record::{Observer, Seen};

/// What a server is asked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `peregrine.v1.Generation`.
    Grpc,
    /// TGI: /generate_stream, or /generate for whole answers.
    Tgi,
    /// OpenAI: /v1/completions.
    OpenAi,
    /// OpenAI: /v1/chat/completions.
    OpenAiChat,
    /// A container on SageMaker: /invocations.
    SageMaker,
    /// SageMaker's runtime API: /endpoints/NAME/invocations-response-stream, or /endpoints/NAME/invocations.
    SageMakerRuntime,
}

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Grpc, Self::Tgi, Self::OpenAi, Self::OpenAiChat, Self::SageMaker, Self::SageMakerRuntime];

    /// The name in arguments and reports; vLLM's, where it has one.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Tgi => "tgi",
            Self::OpenAi => "openai",
            Self::OpenAiChat => "openai-chat",
            Self::SageMaker => "sagemaker",
            Self::SageMakerRuntime => "sagemaker-runtime",
        }
    }
}

/// Which server, and how it is asked.
#[derive(Clone, Debug)]
pub struct TargetOptions {
    /// The server, as `HOST:PORT` or URL.
    pub address: String,
    /// What it is asked in.
    pub dialect: Dialect,
    /// The model that requests name, or SageMaker's endpoint; if not given, what the server tells.
    pub model: Option<String>,
    /// Sent as a bearer token with each request.
    pub api_key: Option<String>,
    /// File of the authorities that are trusted by https, in PEM, in place of the system's.
    pub ca: Option<PathBuf>,
    /// Ask for tokens as they are made, not for whole answers.
    pub stream: bool,
    /// A request that takes longer has failed.
    pub limit: Duration,
}

/// What a server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerInfo {
    /// The model's name; empty where the protocol does not tell.
    pub model_id: String,
    /// Version, backend and data type, as far as it tells.
    pub software: String,
}

/// A server, with as many connections as were asked for.
#[derive(Clone)]
pub struct Target {
    kind: Kind,
    stream: bool,
    limit: Duration,
}

#[derive(Clone)]
enum Kind {
    Grpc(grpc::Grpc),
    Http(Box<http::Http>),
}

impl ServerInfo {
    /// From JSON strings, each of which may lack.
    fn told(model: &Value, software: &[&Value]) -> Self {
        let software: Vec<&str> = software.iter().filter_map(|value| value.as_str()).collect();
        Self { model_id: model.as_str().unwrap_or_default().to_owned(), software: software.join(", ") }
    }
}

impl Target {
    /// Connects to a server. The calls of gRPC go over so many connections; over HTTP each request under way has one.
    ///
    /// # Errors
    ///
    /// [`TargetError`], if nobody answers there.
    pub async fn connect(options: &TargetOptions, connections: usize) -> Result<Self, TargetError> {
        let kind = match http::Http::connect(options).await {
            Some(http) => Kind::Http(Box::new(http?)),
            None => Kind::Grpc(grpc::Grpc::connect(options, connections).await?),
        };
        Ok(Self { kind, stream: options.stream, limit: options.limit })
    }

    /// What the server says of itself.
    ///
    /// # Errors
    ///
    /// [`TargetError`].
    pub async fn info(&self) -> Result<ServerInfo, TargetError> {
        match &self.kind {
            Kind::Grpc(grpc) => grpc.info().await,
            Kind::Http(http) => Ok(http.info().clone()),
        }
    }

    /// The tokens of which random prompts for this server are made: its own, where it tells them, else words.
    ///
    /// # Errors
    ///
    /// [`TargetError`].
    pub async fn vocabulary(&self) -> Result<Vocabulary, TargetError> {
        match &self.kind {
            Kind::Grpc(grpc) => grpc.vocabulary().await,
            Kind::Http(_) => Ok(Vocabulary::Words),
        }
    }

    /// Sends the `index`-th request and records its answer. An answer without error ended as its protocol says. An error
    /// comes with what arrived before it.
    pub async fn ask(&self, index: usize, request: &Request) -> (Record, Result<(), TargetError>) {
        self.ask_observed(index, request, None).await
    }

    /// The same, with one who sees each message when it comes.
    pub(crate) async fn ask_observed(
        &self,
        index: usize,
        request: &Request,
        observer: Option<Arc<dyn Observer>>,
    ) -> (Record, Result<(), TargetError>) {
        let mut record = Record::new(observer);
        let answered = async {
            match &self.kind {
                Kind::Grpc(grpc) => grpc.ask(index, request, self.stream, &mut record).await,
                Kind::Http(http) => http.ask(request, self.stream, &mut record).await,
            }
        };
        let result = tokio::time::timeout(self.limit, answered).await;
        (record, result.unwrap_or(Err(TargetError::Late(self.limit))))
    }
}

/// The authorities that are to be trusted.
fn read_ca(options: &TargetOptions) -> Result<Option<Vec<u8>>, TargetError> {
    let read = |file: &PathBuf| std::fs::read(file).map_err(|error| TargetError::ca(options, &error));
    options.ca.as_ref().map(read).transpose()
}

/// The server's URL, without a slash at its end.
fn base_url(address: &str) -> Result<String, TargetError> {
    let unusable = |reason: &str| TargetError::Address { address: address.to_owned(), reason: reason.to_owned() };
    let (scheme, host) = match address.split_once("://") {
        Some((scheme @ ("http" | "https"), host)) => (scheme, host),
        Some((scheme, _)) => return Err(unusable(&format!("{scheme} is not supported"))),
        None => ("http", address),
    };
    let host = host.trim_end_matches('/');
    if host.is_empty() { Err(unusable("it names no host")) } else { Ok(format!("{scheme}://{host}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hosts_with_ports_or_http_urls() {
        assert_eq!(base_url("localhost:8080").expect("an address"), "http://localhost:8080");
        assert_eq!(base_url("http://h:1/prefix/").expect("an address"), "http://h:1/prefix");
        assert_eq!(base_url("https://h/").expect("an address"), "https://h");
        for (address, reason) in [("ftp://h:1", "ftp is not supported"), ("unix:///x", "unix is"), ("", "no host")] {
            let error = base_url(address).expect_err("no address").to_string();
            assert!(error.contains(reason) && error.ends_with("expected HOST:PORT, http:// or https://"), "{error}");
        }
    }
}
