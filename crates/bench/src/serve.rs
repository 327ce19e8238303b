//! `peregrine bench serve`: load on a server that runs, and reports of what was measured.

mod options;
mod progress;
mod results;

use crate::dataset::{Dataset, DatasetError, Request, Source};
use crate::environment::Environment;
use crate::failures;
use crate::load::{self, Load, Progress};
use crate::metrics::Metrics;
use crate::report::Run;
use crate::target::{ServerInfo, Target, TargetError};
use results::Results;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

pub use options::ServeOptions;

/// How requests arrive at a finite rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    /// Independently of each other.
    Poisson,
    /// At equal intervals.
    Constant,
}

/// How a benchmark ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All runs were made.
    Complete,
    /// It was interrupted, for this reason. What had ended is reported; a run under way is not.
    Interrupted(u8),
}

/// Why a benchmark cannot be run, or has nothing to say of a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum ServeError {
    /// The server.
    #[error("--server")]
    Target(#[from] TargetError),
    /// The requests.
    #[error("--dataset")]
    Dataset(#[from] DatasetError),
    /// A result cannot be written.
    #[error("{}: cannot write: {error}", path.display())]
    Write { path: PathBuf, error: io::Error },
    /// The table cannot be printed.
    #[error("cannot write to the standard output")]
    Print(#[source] io::Error),
    /// In some runs no request was answered; the others are reported.
    #[error("no request was answered in {failed} of {runs} runs; in {first}: {reason}")]
    RunsFailed {
        failed: usize,
        runs: usize,
        /// The first run without an answer.
        first: String,
        /// The most frequent reason there.
        reason: String,
    },
}

/// Runs every combination of dataset, rate and concurrency against a server. Files are opened before the first request; each
/// run is written, and its row of a table printed to `out`, when it ends. When `interrupted` resolves, requests under way are
/// cancelled.
///
/// # Errors
///
/// [`ServeError`]. Failed requests are counted, with their reasons; they are an error only where a run has no others.
pub async fn run(
    options: &ServeOptions,
    environment: &Environment,
    out: &mut dyn Write,
    interrupted: impl Future<Output = u8>,
) -> Result<Ended, ServeError> {
    let load = |dataset: &Dataset| Ok::<_, DatasetError>((dataset.to_string(), dataset.load()?));
    let sources: Vec<(String, Source)> = options.datasets.iter().map(load).collect::<Result<_, _>>()?;
    let mut results = Results::open(options, environment, out)?;
    let ended = tokio::select! {
        swept = sweep(options, &sources, &mut results) => {
            swept?;
            Ended::Complete
        }
        reason = interrupted => Ended::Interrupted(reason),
    };
    results.finish(ended)?;
    Ok(ended)
}

async fn sweep(
    options: &ServeOptions,
    sources: &[(String, Source)],
    results: &mut Results<'_>,
) -> Result<(), ServeError> {
    let target = Target::connect(&options.target, options.connections()).await?;
    let (info, vocabulary) = (target.info().await?, target.vocabulary().await?);
    results.begin()?;
    let mut number = 0;
    for (dataset, source) in sources {
        let mut requests = |count| {
            number += 1;
            source.requests(count, &vocabulary, options.seed, number)
        };
        warm_up(&target, requests(options.num_warmups)).await;
        for load in &options.loads() {
            let requests = requests(options.num_prompts);
            results.add(measure(options, &target, &info, dataset, requests, load).await)?;
        }
    }
    Ok(())
}

/// Sends requests one after the other, so that what a server builds at its first request is there.
async fn warm_up(target: &Target, requests: Vec<Request>) {
    for (index, request) in requests.iter().enumerate() {
        // An error will be seen when it is measured.
        let _ = target.ask(index, request).await;
    }
}

async fn measure(
    options: &ServeOptions,
    target: &Target,
    info: &ServerInfo,
    dataset: &str,
    requests: Vec<Request>,
    load: &Load,
) -> Run {
    let date = SystemTime::now();
    let (progress, count) = (Arc::new(Progress::default()), requests.len() as u64);
    let ran = tokio::select! {
        ran = load::run(target, requests, load, &progress) => ran,
        never = progress::show(&progress, count, dataset) => match never {},
    };
    Run {
        date,
        model_id: info.model_id.clone(),
        software: info.software.clone(),
        dialect: options.target.dialect.name(),
        dataset: dataset.to_owned(),
        rate: load.arrivals.rate(),
        arrivals: load.arrivals.name(),
        concurrency_max: load.concurrency_max,
        slos: options.goodput.iter().map(ToString::to_string).collect(),
        metrics: Metrics::of(&ran, &options.goodput),
        failures: failures::by_reason(&ran),
        ran,
    }
}
