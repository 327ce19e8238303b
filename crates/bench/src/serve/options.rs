//! What `peregrine bench serve` is asked to do.

use super::Spacing;
use crate::arrivals::Arrivals;
use crate::dataset::Dataset;
use crate::load::Load;
use crate::metrics::Slo;
use crate::target::TargetOptions;
use std::path::PathBuf;

/// Requests at once in a closed loop, if no limit is given.
const CONCURRENCY_DEFAULT: usize = 8;

/// A server allows about 200 streams over one connection.
const STREAMS_PER_CONNECTION: usize = 64;
const CONNECTIONS_MAX: usize = 16;

/// Which load is put on which server. Every combination of dataset, rate and concurrency is a run.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The server.
    pub target: TargetOptions,
    /// What is asked.
    pub datasets: Vec<Dataset>,
    /// Requests of each run.
    pub num_prompts: usize,
    /// Requests per second; infinite for a closed loop.
    pub request_rates: Vec<f64>,
    /// How requests arrive at a finite rate.
    pub spacing: Spacing,
    /// The most requests at once. If empty: 8 in a closed loop, else no limit.
    pub max_concurrency: Vec<usize>,
    /// Requests before each dataset that are not measured.
    pub num_warmups: usize,
    /// Service levels that a request must meet to count as good.
    pub goodput: Vec<Slo>,
    /// Seed of prompts, lengths and arrivals.
    pub seed: u64,
    /// The figures go to this file, one JSON object a line for each run.
    pub json: Option<PathBuf>,
    /// With the times of each request.
    pub save_detailed: bool,
    /// The report goes to this file.
    pub html: Option<PathBuf>,
}

impl ServeOptions {
    /// Every combination of rate and concurrency.
    pub(super) fn loads(&self) -> Vec<Load> {
        let mut loads = Vec::new();
        for &rate in &self.request_rates {
            let arrivals = match self.spacing {
                _ if rate.is_infinite() => Arrivals::Closed,
                Spacing::Poisson => Arrivals::Poisson { rate },
                Spacing::Constant => Arrivals::Constant { rate },
            };
            let default = rate.is_infinite().then_some(CONCURRENCY_DEFAULT);
            let given = self.max_concurrency.iter().copied().map(Some);
            let limits: Vec<_> = if self.max_concurrency.is_empty() { vec![default] } else { given.collect() };
            loads.extend(limits.into_iter().map(|concurrency_max| Load { arrivals, concurrency_max, seed: self.seed }));
        }
        loads
    }

    /// As many connections as the largest number of requests at once needs.
    pub(super) fn connections(&self) -> usize {
        let most = |load: Load| load.concurrency_max.unwrap_or(self.num_prompts);
        let most = self.loads().into_iter().map(most).max().unwrap_or(1);
        most.div_ceil(STREAMS_PER_CONNECTION).min(CONNECTIONS_MAX)
    }
}
