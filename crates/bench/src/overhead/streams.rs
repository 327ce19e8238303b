//! Many streams at once, of which only tokens are counted.

use super::PROMPT_TOKENS;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use wire::generation as pb;
use wire::generation::generation_client::GenerationClient;

const STREAMS_PER_CONNECTION: u32 = 128;

/// Connections, and how many requests there are at once.
pub(super) struct Streams {
    clients: Vec<GenerationClient<Channel>>,
    concurrency: u32,
}

/// What came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) tokens: u64,
    pub(super) messages: u64,
}

#[derive(Debug, Default)]
struct Counters {
    tokens: AtomicU64,
    messages: AtomicU64,
    /// Requests that have been sent.
    sent: AtomicU64,
    end: AtomicBool,
}

impl Counters {
    fn read(&self) -> Counted {
        Counted { tokens: self.tokens.load(Ordering::Relaxed), messages: self.messages.load(Ordering::Relaxed) }
    }
}

impl Streams {
    pub(super) async fn connect(address: &str, concurrency: u32) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
        let mut clients = Vec::new();
        for _ in 0..concurrency.div_ceil(STREAMS_PER_CONNECTION) {
            clients.push(GenerationClient::new(endpoint.connect().await?));
        }
        Ok(Self { clients, concurrency })
    }

    /// Counts what comes within `window`, after `warm_up`.
    pub(super) async fn run_for(
        &self,
        new_tokens: u32,
        warm_up: Duration,
        window: Duration,
    ) -> Result<Counted, Status> {
        let counters = Arc::new(Counters::default());
        let tasks = self.start(new_tokens, u64::MAX, &counters);
        tokio::time::sleep(warm_up).await;
        let before = counters.read();
        tokio::time::sleep(window).await;
        let after = counters.read();
        counters.end.store(true, Ordering::Relaxed);
        join(tasks).await?;
        Ok(Counted { tokens: after.tokens - before.tokens, messages: after.messages - before.messages })
    }

    /// Runs so many requests.
    pub(super) async fn run_requests(&self, new_tokens: u32, requests: u32) -> Result<Counted, Status> {
        let counters = Arc::new(Counters::default());
        join(self.start(new_tokens, requests.into(), &counters)).await?;
        Ok(counters.read())
    }

    /// As many tasks as requests run at once, each asking again as soon as it has its answer.
    fn start(&self, new_tokens: u32, requests: u64, counters: &Arc<Counters>) -> JoinSet<Result<(), Status>> {
        let mut tasks = JoinSet::new();
        for index in 0..self.concurrency as usize {
            let (mut client, counters) = (self.clients[index % self.clients.len()].clone(), counters.clone());
            tasks.spawn(async move {
                let more = || counters.sent.fetch_add(1, Ordering::Relaxed) < requests;
                while !counters.end.load(Ordering::Relaxed) && more() {
                    ask(&mut client, new_tokens, &counters).await?;
                }
                Ok(())
            });
        }
        tasks
    }
}

async fn join(mut tasks: JoinSet<Result<(), Status>>) -> Result<(), Status> {
    while let Some(joined) = tasks.join_next().await {
        joined.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    }
    Ok(())
}

async fn ask(client: &mut GenerationClient<Channel>, new_tokens: u32, counters: &Counters) -> Result<(), Status> {
    let parameters =
        pb::Parameters { max_new_tokens: Some(new_tokens), ignore_eos: Some(true), ..pb::Parameters::default() };
    let request = pb::GenerateRequest {
        input_ids: (1_000..1_000 + PROMPT_TOKENS).collect(),
        parameters: Some(parameters),
        ..pb::GenerateRequest::default()
    };
    let mut answer = client.generate_stream(request).await?.into_inner();
    let mut tokens = 0;
    while let Some(message) = answer.message().await? {
        tokens += message.tokens.len() as u64;
        counters.tokens.fetch_add(message.tokens.len() as u64, Ordering::Relaxed);
        counters.messages.fetch_add(1, Ordering::Relaxed);
    }
    if tokens == u64::from(new_tokens) {
        Ok(())
    } else {
        Err(Status::data_loss(format!("{tokens} tokens came, expected {new_tokens}")))
    }
}
