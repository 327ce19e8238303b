//! The server that is measured.

mod error;
mod grpc;
mod http;

use crate::dataset::{Request, Vocabulary};
use std::time::{Duration, Instant};

pub use error::TargetError;

/// The API by which a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `peregrine.v1.Generation`.
    Grpc,
    /// TGI's routes: /generate_stream, or /generate for whole answers.
    Generate,
    /// OpenAI's route /v1/completions.
    Completions,
}

impl Protocol {
    /// The name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Generate => "generate",
            Self::Completions => "completions",
        }
    }
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

/// One message with tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrival {
    /// Seconds after the request was sent.
    pub at: f32,
    /// How many tokens it brought.
    pub tokens: u32,
}

/// What came in answer to a request.
#[derive(Debug)]
pub struct Record {
    start: Instant,
    /// Every message with tokens.
    pub arrivals: Vec<Arrival>,
    /// The tokens, where the protocol tells their ids.
    pub ids: Vec<u32>,
    /// Tokens of the prompt, where the server counts them.
    pub input_tokens: Option<u32>,
    /// Tokens of the prompt that were not computed anew.
    pub cached_tokens: u32,
    /// Tokens of the answer, where the server counts them at its end.
    pub output_tokens: Option<u32>,
}

impl Record {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            arrivals: Vec::new(),
            ids: Vec::new(),
            input_tokens: None,
            cached_tokens: 0,
            output_tokens: None,
        }
    }

    /// A message with this many tokens has come now.
    fn arrived(&mut self, tokens: usize) {
        let tokens = u32::try_from(tokens).expect("a message is smaller than that");
        self.arrivals.push(Arrival { at: self.start.elapsed().as_secs_f32(), tokens });
    }

    /// Tokens of the answer.
    #[must_use]
    pub fn generated(&self) -> u32 {
        self.output_tokens.unwrap_or_else(|| self.arrivals.iter().map(|arrival| arrival.tokens).sum())
    }
}

impl Target {
    /// Connects to the server at `address`, a `host:port` or URL, over `connections` connections. With `stream`, tokens are
    /// asked for one by one, else the whole answer at once. A request that takes longer than `limit` fails.
    ///
    /// # Errors
    ///
    /// [`TargetError`], if nobody answers there.
    pub async fn connect(
        address: &str,
        protocol: Protocol,
        connections: usize,
        stream: bool,
        limit: Duration,
    ) -> Result<Self, TargetError> {
        let kind = match protocol {
            Protocol::Grpc => Kind::Grpc(grpc::Grpc::connect(address, connections).await?),
            Protocol::Generate | Protocol::Completions => {
                Kind::Http(Box::new(http::Http::new(address, protocol).await?))
            }
        };
        Ok(Self { kind, stream, limit })
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
        let mut record = Record::new();
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

/// The server's URL, without a slash at its end.
fn base_url(address: &str) -> Result<String, TargetError> {
    let unusable = |reason: &str| TargetError::Address { address: address.to_owned(), reason: reason.to_owned() };
    let host = match address.split_once("://") {
        Some(("http", host)) => host,
        Some((scheme, _)) => return Err(unusable(&format!("{scheme} is not supported"))),
        None => address,
    };
    let host = host.trim_end_matches('/');
    if host.is_empty() { Err(unusable("it names no host")) } else { Ok(format!("http://{host}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hosts_with_ports_or_http_urls() {
        assert_eq!(base_url("localhost:8080").expect("an address"), "http://localhost:8080");
        assert_eq!(base_url("http://h:1/prefix/").expect("an address"), "http://h:1/prefix");
        for (address, reason) in [("https://h:1", "https is not supported"), ("unix:///x", "unix is"), ("", "no host")]
        {
            let error = base_url(address).expect_err("no address").to_string();
            assert!(error.contains(reason) && error.ends_with("expected HOST:PORT or http://HOST:PORT"), "{error}");
        }
    }
}
