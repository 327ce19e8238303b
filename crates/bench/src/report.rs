//! Reports of runs.

mod html;
mod json;
mod markdown;
mod style;
mod svg;

use crate::failures::Failure;
use crate::load::Ran;
use crate::metrics::{Distribution, Metrics};
use std::time::SystemTime;

pub(crate) use html::html;
pub(crate) use json::json;
pub(crate) use markdown::{failures as markdown_failures, header as markdown_header, jumpstart, row as markdown_row};

/// One run, with what was asked of it.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// When it started.
    pub(crate) date: SystemTime,
    /// The server's model; empty if it does not tell.
    pub(crate) model_id: String,
    /// The server's software, as far as it tells.
    pub(crate) software: String,
    /// What the server was asked in.
    pub(crate) dialect: &'static str,
    /// Which requests were sent.
    pub(crate) dataset: String,
    /// Requests per second; infinite in a closed loop.
    pub(crate) rate: f64,
    /// `poisson`, `constant`, or `closed` for a closed loop.
    pub(crate) arrivals: &'static str,
    /// The most requests at once, if that was limited.
    pub(crate) concurrency_max: Option<usize>,
    /// Service levels, as given.
    pub(crate) slos: Vec<String>,
    /// What came.
    pub(crate) ran: Ran,
    /// What that amounts to.
    pub(crate) metrics: Metrics,
    /// Why requests failed, most frequent reason first.
    pub(crate) failures: Vec<Failure>,
}

impl Run {
    /// Dataset and load.
    pub(crate) fn name(&self) -> String {
        format!("{}, {}", self.dataset, self.load())
    }

    /// The load in words.
    fn load(&self) -> String {
        let limit = self.concurrency_max.map(|most| format!("{most} at once"));
        match (self.rate.is_finite(), limit) {
            (true, Some(limit)) => format!("{} req/s, {limit}", self.rate),
            (true, None) => format!("{} req/s", self.rate),
            (false, Some(limit)) => limit,
            (false, None) => "all at once".to_owned(),
        }
    }
}

/// The columns of the table of runs.
const HEADER: [&str; 10] = [
    "dataset",
    "load",
    "done / failed",
    "req/s",
    "output tok/s",
    "TTFT p50 / p99 ms",
    "ITL p50 / p99 ms",
    "TPOT p50 ms",
    "E2E p50 / p99 ms",
    "goodput req/s",
];

/// A run's figures under [`HEADER`].
fn row(run: &Run) -> [String; 10] {
    let m = &run.metrics;
    [
        run.dataset.clone(),
        run.load(),
        format!("{} / {}", m.completed, m.failed),
        format!("{:.2}", m.rate(m.completed as f64)),
        format!("{:.1}", m.output_throughput()),
        percentiles(&m.ttft, &[50.0, 99.0]),
        percentiles(&m.itl, &[50.0, 99.0]),
        percentiles(&m.tpot, &[50.0]),
        percentiles(&m.e2el, &[50.0, 99.0]),
        m.good.map_or_else(|| "–".to_owned(), |good| format!("{:.2}", m.rate(good as f64))),
    ]
}

/// Who counted the tokens of the answers.
pub(crate) fn counted(runs: &[Run]) -> String {
    let sum = |count: fn(&Metrics) -> usize| runs.iter().map(|run| count(&run.metrics)).sum::<usize>();
    let (completed, by_server) = (sum(|metrics| metrics.completed), sum(|metrics| metrics.counted_by_server));
    match completed - by_server {
        0 => "counted by the server".to_owned(),
        rest => format!("counted by the server in {by_server} answers, one for each message with text in {rest}"),
    }
}

/// The columns of the table of failures.
const FAILURES_HEADER: [&str; 2] = ["run", "failed requests"];

/// Each run's reasons under [`FAILURES_HEADER`].
fn failure_rows(runs: &[Run]) -> impl Iterator<Item = [String; 2]> {
    runs.iter().flat_map(|run| run.failures.iter().map(|reason| [run.name(), failure(reason)]))
}

/// As in `3 × 422 Unprocessable Entity: …`.
pub(crate) fn failure(failure: &Failure) -> String {
    format!("{} × {}", failure.count, failure.reason)
}

/// Percentiles, or a dash where nothing was measured.
fn percentiles(of: &Distribution, percents: &[f64]) -> String {
    let figures: Vec<_> = percents.iter().map(|&percent| format!("{:.1}", of.percentile(percent))).collect();
    if of.values().is_empty() { "–".to_owned() } else { figures.join(" / ") }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::environment::{Environment, Machine};
    use std::time::Duration;

    pub(crate) fn environment() -> Environment {
        let machine = Machine { cpu: "CPU <1>".to_owned(), cores: 2, memory_bytes: 3 << 30, os: "Linux".to_owned() };
        Environment { command: "peregrine bench serve".to_owned(), version: "1.2.3", machine }
    }

    /// A run of three requests, of which one failed.
    pub(crate) fn run() -> Run {
        let ran = crate::metrics::tests::ran();
        Run {
            date: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            model_id: "demo".to_owned(),
            software: "peregrine".to_owned(),
            dialect: "grpc",
            dataset: "10/3".to_owned(),
            rate: f64::INFINITY,
            arrivals: "closed",
            concurrency_max: Some(2),
            slos: Vec::new(),
            metrics: Metrics::of(&ran, &[]),
            failures: crate::failures::by_reason(&ran),
            ran,
        }
    }
}
