//! What is told of the runs.

mod json;
mod markdown;

use crate::load::Ran;
use crate::metrics::Metrics;
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
