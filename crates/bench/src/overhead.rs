//! `peregrine bench engine`: what all but the model costs.

mod figures;
mod steps;
mod streams;
mod tally;

use crate::engine::{self, NotReady};
use crate::metrics::Distribution;
use crate::processes;
use crate::target::{Dialect, TargetError, ns_per_event};
use runtime::{BackendChoice, Engine, EngineError, EngineOptions, WorkerCommand};
use server::{Listener, Listeners, Settings};
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use streams::Streams;
use tally::Counted;
use tokio::sync::oneshot;

pub use figures::{OverheadFigures, StreamFigures};

/// Words of each prompt, of a token or two each.
const PROMPT_WORDS: usize = 16;

/// Tokens of each prompt at most, with what a chat's template adds.
const PROMPT_TOKENS_MAX: u32 = 64;

/// Tokens of each answer while memory is watched: many requests matter then, not many tokens.
const SHORT_ANSWER_TOKENS: u32 = 16;

const WARM_UP: Duration = Duration::from_secs(1);

/// The dialects in which the engine is asked; gRPC, to which others are compared, is the first.
const DIALECTS: [Dialect; 3] = [Dialect::Grpc, Dialect::OpenAiChat, Dialect::Tgi];

/// What is measured, and how much of it.
#[derive(Clone, Debug)]
pub struct OverheadOptions {
    /// Starts the worker.
    pub worker: WorkerCommand,
    /// Requests at once.
    pub concurrency: u32,
    /// How often each dialect is measured, in turns.
    pub rounds: u32,
    /// Seconds for which tokens are counted, in each round of each dialect.
    pub seconds: u32,
    /// Tokens of each answer while tokens are counted.
    pub output_len: u32,
    /// Requests over which memory is watched.
    pub requests: u32,
    /// Other servers that are measured by the same load, each with the dialect in which it is asked.
    pub peers: Vec<(Dialect, String)>,
}

impl OverheadOptions {
    fn engine(&self) -> EngineOptions {
        // Whole blocks.
        let longest = PROMPT_TOKENS_MAX + self.output_len.max(SHORT_ANSWER_TOKENS) + 16;
        EngineOptions {
            backend: BackendChoice::Instant,
            kv_tokens: Some(self.concurrency * longest),
            max_batch_tokens: Some(self.concurrency + 512),
            // A stream that has ended for its reader gives its place back a moment later.
            max_concurrent_requests: Some(2 * self.concurrency),
            ..EngineOptions::new(self.worker.clone())
        }
    }
}

/// Why the engine could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum OverheadError {
    /// The engine cannot be started.
    #[error(transparent)]
    Start(#[from] EngineError),
    /// Its worker cannot.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// Its server cannot listen.
    #[error("the server: {0}")]
    Server(String),
    /// A server did not answer as it should.
    #[error("{name}")]
    Target { name: String, source: TargetError },
    /// An answer has fewer tokens than were asked for, or they came in fewer messages.
    #[error("an answer of {expected} tokens: the server counts {counted}, and {came} came")]
    Count { expected: u32, counted: u32, came: u32 },
    /// The process cannot tell its memory or its processor time.
    #[error("reading what the process holds and has used")]
    Process(#[from] std::io::Error),
}

/// Starts an engine whose worker answers at once, with a server over it, and measures both.
///
/// # Errors
///
/// [`OverheadError`].
pub async fn run(options: &OverheadOptions) -> Result<OverheadFigures, OverheadError> {
    let Engine { coordinator, service } = Engine::start(&options.engine(), 1)?;
    engine::ready(&coordinator).await?;
    let failed = |error: &dyn Display| OverheadError::Server(error.to_string());
    let port = [SocketAddr::from(([127, 0, 0, 1], 0))];
    let bind = async || Listener::bind(&port).await.map_err(|error| failed(&error));
    let listeners = Listeners { grpc: bind().await?, http: bind().await?, metrics: None };
    let address = |listener: &Listener| listener.local_addr().map_err(|error| failed(&error));
    let addresses = Addresses { grpc: address(&listeners.grpc)?, http: address(&listeners.http)? };
    let (end, ended) = oneshot::channel::<()>();
    let serving = tokio::spawn(server::serve(service, listeners, Settings::default(), async {
        // The sender is dropped or used, which says the same.
        let _ = ended.await;
    }));
    let figures = measure(options, &addresses).await;
    drop(end);
    let served = serving.await.expect("the server does not panic");
    served.map_err(|error| failed(&error))?;
    coordinator.drain();
    coordinator.ended().await;
    figures
}

/// Where the engine is asked.
struct Addresses {
    grpc: SocketAddr,
    http: SocketAddr,
}

/// One server in one dialect, with what it has brought.
struct Contender {
    name: String,
    streams: Streams,
    tokens_per_s: Vec<f64>,
    counted: Counted,
    /// Processor time of this process and its worker while that was counted.
    cpu_time: Duration,
    /// Another server, which has processes of its own.
    is_peer: bool,
    client_ns_per_event: Option<f64>,
}

/// Measures the engine that is asked at `addresses`, in this process, and whose worker answers at once.
async fn measure(options: &OverheadOptions, addresses: &Addresses) -> Result<OverheadFigures, OverheadError> {
    let mut contenders = contenders(options, addresses).await?;
    let window = Duration::from_secs(options.seconds.into());
    for _ in 0..options.rounds {
        for contender in &mut contenders {
            let (counted, cpu_time) = contender.streams.run_for(options.output_len, WARM_UP, window).await?;
            contender.tokens_per_s.push(counted.tokens as f64 / window.as_secs_f64());
            contender.counted.add(&counted);
            contender.cpu_time += cpu_time;
        }
    }
    // What is built up by use is there after a fifth.
    let (streams, first) = (&contenders[0].streams, options.requests / 5);
    streams.run_requests(SHORT_ANSWER_TOKENS, first).await?;
    let before = processes::resident_bytes()?;
    streams.run_requests(SHORT_ANSWER_TOKENS, options.requests - first).await?;
    let after = processes::resident_bytes()?;
    let measured = tokio::task::spawn_blocking(steps::plan_commit_us).await;
    let growth = after as f64 - before as f64;
    Ok(OverheadFigures {
        streams: contenders.into_iter().map(Contender::figures).collect(),
        plan_commit_us: measured.expect("the measurement does not panic"),
        requests: options.requests,
        bytes_per_request: growth / f64::from((options.requests - first).max(1)),
        resident_bytes: [before, after],
    })
}

/// The engine in each dialect, then the peers.
async fn contenders(options: &OverheadOptions, addresses: &Addresses) -> Result<Vec<Contender>, OverheadError> {
    let timed = Arc::new(runtime::timed::by_text()?);
    let own = DIALECTS.map(|dialect| {
        let address = if dialect == Dialect::Grpc { addresses.grpc } else { addresses.http };
        (dialect, address.to_string(), dialect.name().to_owned(), false)
    });
    let peer = |(dialect, address): &(Dialect, String)| {
        (*dialect, address.clone(), format!("{} {address}", dialect.name()), true)
    };
    let mut contenders = Vec::new();
    for (dialect, address, name, is_peer) in own.into_iter().chain(options.peers.iter().map(peer)) {
        let streams = Streams::connect(&name, &address, dialect, options.concurrency, &timed).await?;
        let cost = ns_per_event(dialect).await.transpose();
        let client_ns_per_event = cost.map_err(|source| OverheadError::Target { name: name.clone(), source })?;
        contenders.push(Contender {
            name,
            streams,
            tokens_per_s: Vec::new(),
            counted: Counted::default(),
            cpu_time: Duration::ZERO,
            is_peer,
            client_ns_per_event,
        });
    }
    Ok(contenders)
}

impl Contender {
    fn figures(self) -> StreamFigures {
        let Counted { tokens, messages, .. } = self.counted;
        let delay = |percent| self.counted.delay_ms(percent);
        StreamFigures {
            name: self.name,
            tokens_per_s: Distribution::of(self.tokens_per_s),
            tokens_per_message: tokens as f64 / messages.max(1) as f64,
            // A peer's tokens may have the texts of some that tell.
            delay_ms: delay(50.0).zip(delay(99.0)).filter(|_| !self.is_peer).map(|(p50, p99)| [p50, p99]),
            cpu_us_per_token: (!self.is_peer).then(|| self.cpu_time.as_secs_f64() * 1e6 / tokens.max(1) as f64),
            client_ns_per_event: self.client_ns_per_event,
        }
    }
}
