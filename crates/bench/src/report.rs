//! What is told of the runs.

mod html;
mod json;
mod markdown;
mod svg;

use crate::load::Ran;
use crate::metrics::{Distribution, Metrics};
pub(crate) use html::html;
pub(crate) use json::json;
pub(crate) use markdown::{jumpstart, markdown};

/// One run, with what was asked of it.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// The server's model; empty if it does not tell.
    pub(crate) model_id: String,
    /// The server's software, as far as it tells.
    pub(crate) software: String,
    /// How the server was asked.
    pub(crate) protocol: &'static str,
    /// Which requests were sent.
    pub(crate) dataset: String,
    /// Requests per second; infinite where only `concurrency_max` held them back.
    pub(crate) rate: f64,
    /// `poisson` or `constant`; nothing where the rate is infinite.
    pub(crate) arrivals: &'static str,
    /// The most requests at once, if that was limited.
    pub(crate) concurrency_max: Option<usize>,
    /// Service levels, as given.
    pub(crate) slos: Vec<String>,
    /// What came.
    pub(crate) ran: Ran,
    /// What that amounts to.
    pub(crate) metrics: Metrics,
}

impl Run {
    /// Dataset and load.
    fn name(&self) -> String {
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

/// The figures of interest to most: a header, and a row for each run.
fn table(runs: &[Run]) -> ([&'static str; 10], Vec<Vec<String>>) {
    let header = [
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
    let row = |run: &Run| {
        let m = &run.metrics;
        vec![
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
    };
    (header, runs.iter().map(row).collect())
}

/// Percentiles, or a dash where nothing was measured.
fn percentiles(of: &Distribution, percents: &[f64]) -> String {
    let figures: Vec<_> = percents.iter().map(|&percent| format!("{:.1}", of.percentile(percent))).collect();
    if of.values().is_empty() { "–".to_owned() } else { figures.join(" / ") }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A run of three requests, of which one failed.
    pub(crate) fn run() -> Run {
        let ran = crate::metrics::tests::ran();
        Run {
            model_id: "demo".to_owned(),
            software: "peregrine".to_owned(),
            protocol: "grpc",
            dataset: "10/3".to_owned(),
            rate: f64::INFINITY,
            arrivals: "closed",
            concurrency_max: Some(2),
            slos: Vec::new(),
            metrics: Metrics::of(&ran, &[]),
            ran,
        }
    }
}
