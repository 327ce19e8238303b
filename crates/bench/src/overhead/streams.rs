//! Many streams at once, of which only tokens are counted.

use super::tally::{Counted, Tally};
use super::{OverheadError, PROMPT_WORDS};
use crate::dataset::{Parameters, Prompt, Request, Vocabulary};
use crate::processes;
use crate::target::{Dialect, Target, TargetOptions};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

const STREAMS_PER_CONNECTION: u32 = 128;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(600);

/// A server, how it is asked, and how many requests there are at once.
#[derive(Clone)]
pub(super) struct Streams {
    name: Arc<str>,
    target: Target,
    concurrency: u32,
    tally: Arc<Tally>,
}

/// The requests of a run.
struct Requests {
    request: Request,
    /// How many there are.
    count: u64,
    sent: AtomicU64,
    end: AtomicBool,
}

impl Streams {
    /// `timed` are the tokens that say when they were sampled, by their texts.
    pub(super) async fn connect(
        name: &str,
        address: &str,
        dialect: Dialect,
        concurrency: u32,
        timed: &Arc<HashMap<String, u32>>,
    ) -> Result<Self, OverheadError> {
        let options = TargetOptions {
            address: address.to_owned(),
            dialect,
            model: None,
            api_key: None,
            ca: None,
            stream: true,
            limit: REQUEST_TIMEOUT,
        };
        let target = Target::connect(&options, concurrency.div_ceil(STREAMS_PER_CONNECTION) as usize).await;
        let target = target.map_err(|source| OverheadError::Target { name: name.to_owned(), source })?;
        Ok(Self { name: name.into(), target, concurrency, tally: Arc::new(Tally::new(timed.clone())) })
    }

    /// Counts what comes within `window`, after `warm_up`, and the processor time that this process and its worker use meanwhile.
    pub(super) async fn run_for(
        &self,
        new_tokens: u32,
        warm_up: Duration,
        window: Duration,
    ) -> Result<(Counted, Duration), OverheadError> {
        let requests = Requests::new(new_tokens, u64::MAX);
        let tasks = self.start(&requests);
        tokio::time::sleep(warm_up).await;
        let (before, cpu_before) = (self.tally.read(), processes::cpu_time_of_family()?);
        tokio::time::sleep(window).await;
        let (after, cpu_after) = (self.tally.read(), processes::cpu_time_of_family()?);
        requests.end.store(true, Ordering::Relaxed);
        join(tasks).await?;
        Ok((after.since(&before), cpu_after.saturating_sub(cpu_before)))
    }

    /// Runs so many requests.
    pub(super) async fn run_requests(&self, new_tokens: u32, count: u32) -> Result<(), OverheadError> {
        join(self.start(&Requests::new(new_tokens, count.into()))).await
    }

    /// As many tasks as requests run at once, each asking again as soon as it has its answer.
    fn start(&self, requests: &Arc<Requests>) -> JoinSet<Result<(), OverheadError>> {
        let mut tasks = JoinSet::new();
        for index in 0..self.concurrency as usize {
            let (streams, requests) = (self.clone(), requests.clone());
            tasks.spawn(async move {
                while requests.is_more() {
                    streams.ask(index, &requests.request).await?;
                }
                Ok(())
            });
        }
        tasks
    }

    async fn ask(&self, index: usize, request: &Request) -> Result<(), OverheadError> {
        let (record, result) = self.target.ask_observed(index, request, Some(self.tally.clone())).await;
        result.map_err(|source| OverheadError::Target { name: self.name.to_string(), source })?;
        // Messages are what is measured: each token must have come in one.
        let expected = request.parameters.max_new_tokens;
        let (came, counted) = (record.came(), record.generated());
        if (came, counted) == (expected, expected) {
            Ok(())
        } else {
            Err(OverheadError::Count { expected, counted, came })
        }
    }
}

impl Requests {
    fn new(new_tokens: u32, count: u64) -> Arc<Self> {
        let words = Vocabulary::text();
        let prompt: String = words.split_inclusive(' ').take(PROMPT_WORDS).collect();
        let request = Request {
            prompt: Prompt::Text(prompt),
            parameters: Parameters { max_new_tokens: new_tokens, ..Parameters::default() },
            ignore_eos: true,
            cancel_after: None,
        };
        Arc::new(Self { request, count, sent: AtomicU64::new(0), end: AtomicBool::new(false) })
    }

    fn is_more(&self) -> bool {
        !self.end.load(Ordering::Relaxed) && self.sent.fetch_add(1, Ordering::Relaxed) < self.count
    }
}

async fn join(mut tasks: JoinSet<Result<(), OverheadError>>) -> Result<(), OverheadError> {
    while let Some(joined) = tasks.join_next().await {
        joined.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    }
    Ok(())
}
