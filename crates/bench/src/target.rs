//! The server that is measured.

mod grpc;
mod http;

use crate::dataset::{Alphabet, Request};
use std::time::{Duration, Instant};

/// How a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// `peregrine.v1.Generation`.
    #[value(skip)]
    Grpc,
    /// TGI's routes: /generate_stream, or /generate for whole answers.
    Generate,
    /// OpenAI's route /v1/completions.
    Completions,
}

impl Protocol {
    /// How reports call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "grpc",
            Self::Generate => "generate",
            Self::Completions => "completions",
        }
    }
}

/// Why a request, or the server as a whole, cannot be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// An address that is none.
    #[error("{address}: not an address: {reason}")]
    Address {
        /// It.
        address: String,
        /// Why not.
        reason: String,
    },
    /// There is no connection.
    #[error("{address}: cannot connect: {reason}")]
    Connect {
        /// To where.
        address: String,
        /// Why not.
        reason: String,
    },
    /// The server refused a request, or broke it off.
    #[error("{0}")]
    Refused(String),
    /// The server's answer is not what its protocol says.
    #[error("unexpected answer: {0}")]
    Unexpected(String),
    /// The answer did not end in time.
    #[error("no complete answer within {0:?}")]
    Late(Duration),
}

impl TargetError {
    /// The layers above the system's own error say nothing more.
    fn connect(address: &str, error: &dyn std::error::Error) -> Self {
        let mut root = error;
        while let Some(source) = root.source() {
            root = source;
        }
        Self::Connect { address: address.to_owned(), reason: root.to_string() }
    }
}

/// What a server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerInfo {
    /// The model's name; empty where the protocol does not tell.
    pub model_id: String,
    /// Backend and version, as far as it tells.
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

/// What a request brought, as it came.
#[derive(Debug)]
pub struct Record {
    begin: Instant,
    /// Every message.
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
            begin: Instant::now(),
            arrivals: Vec::new(),
            ids: Vec::new(),
            input_tokens: None,
            cached_tokens: 0,
            output_tokens: None,
        }
    }

    /// Notes that so many tokens have come now.
    fn arrived(&mut self, tokens: usize) {
        let tokens = u32::try_from(tokens).expect("a message is smaller than that");
        self.arrivals.push(Arrival { at: self.begin.elapsed().as_secs_f32(), tokens });
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
            Kind::Http(http) => Ok(http.info()),
        }
    }

    /// Of what random prompts for this server are made: its own tokens, where it tells them.
    ///
    /// # Errors
    ///
    /// [`TargetError`].
    pub async fn alphabet(&self) -> Result<Alphabet, TargetError> {
        match &self.kind {
            Kind::Grpc(grpc) => grpc.alphabet().await,
            Kind::Http(_) => Ok(Alphabet::Words),
        }
    }

    /// Sends the `index`-th request and takes down its answer. An error comes with what arrived before it.
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
