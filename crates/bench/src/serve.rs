//! `peregrine bench serve`.

use crate::arrivals::Arrivals;
use crate::dataset::{Dataset, DatasetError, Request};
use crate::load::{self, Load, Progress};
use crate::metrics::{Metrics, Slo};
use crate::report::{self, Run};
use crate::target::{Protocol, ServerInfo, Target, TargetError};
use clap::{Args, ValueEnum, value_parser};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Where the faces listen if nothing else is said.
const GRPC_DEFAULT: &str = "127.0.0.1:50051";
const HTTP_DEFAULT: &str = "127.0.0.1:8080";

/// A server allows some 200 streams over one connection.
const STREAMS_PER_CONNECTION: usize = 64;
const CONNECTIONS_MAX: usize = 16;

const REDRAW_INTERVAL: Duration = Duration::from_millis(200);

/// Arguments of `peregrine bench serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// The server, as HOST:PORT or a URL. [default: 127.0.0.1:50051, with --http 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    server: Option<String>,
    /// Ask over HTTP, by these routes, instead of gRPC.
    #[arg(long, value_enum, value_name = "ROUTES")]
    http: Option<Protocol>,
    /// Ask for whole answers instead of single tokens; there is no time to first token then.
    #[arg(long)]
    no_stream: bool,
    /// What is asked: IN/OUT in tokens, each N, LOW-HIGH, normal:MEAN:DEVIATION or log:MEDIAN:SIGMA, and SHARED+IN/OUT for
    /// prompts with a common begin; sharegpt:FILE; or jumpstart, the prompts of scripts/examples. Several are run one after
    /// the other.
    #[arg(long, value_name = "WHAT", value_delimiter = ',', default_value = "128/128")]
    dataset: Vec<Dataset>,
    /// Requests in each run.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = value_parser!(u32).range(1..))]
    num_prompts: u32,
    /// Requests per second, or inf: as fast as --max-concurrency allows. Several are run one after the other.
    #[arg(long, value_name = "RATE", value_delimiter = ',', default_value = "inf", value_parser = rate)]
    request_rate: Vec<f64>,
    /// How requests arrive at a finite rate.
    #[arg(long, value_enum, default_value_t = Spacing::Poisson)]
    arrivals: Spacing,
    /// The most requests at once. Several are run one after the other. [default: 8 without a rate, else no limit]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = value_parser!(u32).range(1..=65_536))]
    max_concurrency: Vec<u32>,
    /// Requests sent beforehand, which are not measured.
    #[arg(long, value_name = "N", default_value_t = 2)]
    num_warmups: u32,
    /// Service levels that a request must meet to count as good: ttft:MS, tpot:MS, e2el:MS.
    #[arg(long, value_name = "LEVEL", value_delimiter = ',')]
    goodput: Vec<Slo>,
    /// Of prompts, lengths and arrivals.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Seconds after which a request counts as failed.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = value_parser!(u32).range(1..=86_400))]
    request_timeout: u32,
    /// Write the figures to a file, one JSON object a line for each run, with the key names of vLLM's `bench serve`.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a report with tables and plots to a file, which needs nothing else.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// With --json: the times of each request, too.
    #[arg(long, requires = "json")]
    save_detailed: bool,
}

/// How requests arrive at a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Spacing {
    /// Independently of each other.
    Poisson,
    /// At equal distances.
    Constant,
}

/// Why a benchmark cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The server.
    #[error("--server")]
    Target(#[from] TargetError),
    /// The requests.
    #[error("--dataset")]
    Dataset(#[from] DatasetError),
    /// A result cannot be written.
    #[error("{}: {error}", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// Nothing was answered, so there is nothing to tell.
    #[error("all {requests} requests failed, the first with: {first}")]
    AllFailed {
        /// How many.
        requests: usize,
        /// Why.
        first: String,
    },
}

fn rate(text: &str) -> Result<f64, String> {
    let parsed = text.parse().ok().filter(|&rate: &f64| rate > 0.0);
    parsed.ok_or_else(|| format!("{text:?} is no rate: expected requests per second above 0, or inf"))
}

/// Runs every combination of dataset, rate and concurrency against a server, and reports.
///
/// # Errors
///
/// [`BenchError`]. Single requests that fail are counted, not errors.
pub async fn run(args: &ServeArgs) -> Result<(), BenchError> {
    let protocol = args.http.unwrap_or(Protocol::Grpc);
    let default = if protocol == Protocol::Grpc { GRPC_DEFAULT } else { HTTP_DEFAULT };
    let address = args.server.as_deref().unwrap_or(default);
    let limit = Duration::from_secs(args.request_timeout.into());
    let target = Target::connect(address, protocol, args.connections(), !args.no_stream, limit).await?;
    let info = target.info().await?;
    let alphabet = target.alphabet().await?;
    let (mut runs, mut number) = (Vec::new(), 0);
    for dataset in &args.dataset {
        let mut requests = |count: u32| {
            number += 1;
            dataset.requests(count as usize, &alphabet, args.seed, number)
        };
        warm_up(&target, requests(args.num_warmups)?).await;
        for load in &args.loads() {
            let requests = requests(args.num_prompts)?;
            runs.push(measure(args, &target, &info, dataset, requests, load).await?);
        }
    }
    print!("{}", report::markdown(&runs));
    for run in runs.iter().filter(|run| run.dataset == Dataset::JumpStart.to_string()) {
        print!("\n{}", report::jumpstart(run));
    }
    if let Some(path) = &args.json {
        let lines: Vec<_> = runs.iter().map(|run| format!("{}\n", report::json(run, args.save_detailed))).collect();
        write(path, &lines.concat())?;
    }
    if let Some(path) = &args.html {
        write(path, &report::html(&runs))?;
    }
    Ok(())
}

impl ServeArgs {
    /// Every combination of rate and concurrency.
    fn loads(&self) -> Vec<Load> {
        let mut loads = Vec::new();
        for &rate in &self.request_rate {
            let arrivals = match self.arrivals {
                _ if rate.is_infinite() => Arrivals::Closed,
                Spacing::Poisson => Arrivals::Poisson { rate },
                Spacing::Constant => Arrivals::Constant { rate },
            };
            let given = self.max_concurrency.iter().map(|&most| Some(most as usize));
            let default = if rate.is_infinite() { Some(8) } else { None };
            let limits: Vec<_> = if self.max_concurrency.is_empty() { vec![default] } else { given.collect() };
            loads.extend(limits.into_iter().map(|concurrency_max| Load { arrivals, concurrency_max, seed: self.seed }));
        }
        loads
    }

    /// As many connections as the largest number of requests at once needs.
    fn connections(&self) -> usize {
        let most = |load: Load| load.concurrency_max.unwrap_or(self.num_prompts as usize);
        let most = self.loads().into_iter().map(most).max().unwrap_or(1);
        most.div_ceil(STREAMS_PER_CONNECTION).min(CONNECTIONS_MAX)
    }
}

/// Sends requests one after the other, so that what is built at first use is there.
async fn warm_up(target: &Target, requests: Vec<Request>) {
    for (index, request) in requests.iter().enumerate() {
        // What is wrong will be seen when it is measured.
        let _ = target.ask(index, request).await;
    }
}

async fn measure(
    args: &ServeArgs,
    target: &Target,
    info: &ServerInfo,
    dataset: &Dataset,
    requests: Vec<Request>,
    load: &Load,
) -> Result<Run, BenchError> {
    let progress = Arc::new(Progress::default());
    let bar = tokio::spawn(show(progress.clone(), requests.len() as u64, dataset.to_string()));
    let ran = load::run(target, requests, load, &progress).await;
    bar.abort();
    let metrics = Metrics::of(&ran, &args.goodput);
    if metrics.completed == 0 {
        let first = ran.outcomes.iter().find_map(|outcome| outcome.error.clone()).unwrap_or_default();
        return Err(BenchError::AllFailed { requests: ran.outcomes.len(), first });
    }
    let protocol = args.http.unwrap_or(Protocol::Grpc);
    Ok(Run {
        model_id: info.model_id.clone(),
        software: info.software.clone(),
        protocol: protocol.name(),
        dataset: dataset.to_string(),
        rate: load.arrivals.rate(),
        arrivals: load.arrivals.name(),
        concurrency_max: load.concurrency_max,
        slos: args.goodput.iter().map(ToString::to_string).collect(),
        ran,
        metrics,
    })
}

/// Shows how a run goes, on a terminal, until the task is ended.
async fn show(progress: Arc<Progress>, requests: u64, dataset: String) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let style = ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {msg}, {eta} left");
    let bar = ProgressBar::with_draw_target(Some(requests), ProgressDrawTarget::stderr())
        .with_style(style.expect("the template is well formed"))
        .with_prefix(dataset);
    loop {
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let (sent, done) = (read(&progress.sent), read(&progress.done));
        let rate = read(&progress.tokens) as f64 / bar.elapsed().as_secs_f64().max(1e-3);
        bar.set_position(done);
        bar.set_message(format!("{} running, {} failed, {rate:.0} tok/s", sent - done, read(&progress.failed)));
        tokio::time::sleep(REDRAW_INTERVAL).await;
    }
}

fn write(path: &Path, text: &str) -> Result<(), BenchError> {
    std::fs::write(path, text).map_err(|error| BenchError::Write { path: path.to_owned(), error })
}
