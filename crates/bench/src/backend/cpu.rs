//! The CPU backend, and the report on it.

use super::{BenchError, Place, Probes, Report, Row, Subject, measure};
use crate::shape::Shape;
use ::backend::{BackendError, Collective, SingleRank};
use backend_cpu::{Cpu, Isa, SharedMemory, probe};
use runtime::cpu_options;
use std::fmt::Write;
use std::time::Duration;

/// What is measured.
#[derive(Clone, Debug)]
pub struct CpuBenchOptions {
    /// Threads of each rank; one measurement for each number.
    pub threads: Vec<usize>,
    /// Ranks over which the model is cut; one measurement for each number.
    pub ranks: Vec<usize>,
    /// Shape of the model.
    pub shape: Shape,
    /// Instruction set; `None`: the best that the CPU has.
    pub isa: Option<Isa>,
}

/// Why some ranks and threads could not be measured.
#[derive(Debug, thiserror::Error)]
#[error("{ranks} ranks of {threads} threads: {error}")]
pub struct CpuBenchError {
    ranks: usize,
    threads: usize,
    error: BenchError,
}

/// No rank works this long on one step.
const COLLECTIVE_LIMIT: Duration = Duration::from_secs(120);

/// Measures every number of ranks with every number of threads that the CPU has cores for. `progress` is told what is
/// under way, and what is left out.
///
/// # Errors
///
/// [`CpuBenchError`].
pub fn run(options: &CpuBenchOptions, progress: &dyn Fn(&str)) -> Result<Report, CpuBenchError> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut report = Report { shape: options.shape.name().to_owned(), rows: Vec::new() };
    for &ranks in &options.ranks {
        for &threads in &options.threads {
            if ranks * threads > cores {
                progress(&format!("{ranks} ranks of {threads} threads are left out: there are {cores} cores"));
                continue;
            }
            let row = measure_row(options, ranks, threads, progress);
            report.rows.push(row.map_err(|error| CpuBenchError { ranks, threads, error })?);
        }
    }
    Ok(report)
}

fn measure_row(
    options: &CpuBenchOptions,
    ranks: usize,
    threads: usize,
    progress: &dyn Fn(&str),
) -> Result<Row, BenchError> {
    let failed = |error| BenchError::Backend { rank: 0, error };
    let memory = (ranks > 1).then(|| SharedMemory::create(ranks)).transpose();
    let memory = memory.map_err(|error| failed(BackendError::from(error)))?;
    let isa = options.isa.unwrap_or_else(Isa::detect);
    let open = |place: Place| {
        let collective: Box<dyn Collective> = match &memory {
            Some(memory) => Box::new(SharedMemory::join(memory, place.rank, ranks, COLLECTIVE_LIMIT)?),
            None => Box::new(SingleRank),
        };
        Cpu::new(&cpu_options(place.rank, ranks, place.threads, Some(isa)), collective)
    };
    let subject = Subject {
        config: &options.shape.config(),
        open: &open,
        probes: Probes { read: &probe::read_bytes_per_s, matrix: &probe::matrix_operations_per_s },
        isa: isa.to_string(),
        progress: &|what| progress(&format!("{ranks} ranks of {threads} threads: {what}")),
    };
    measure(&subject, ranks, threads)
}

impl Report {
    /// As a table.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("shape {}\n", self.shape);
        let _ = writeln!(
            text,
            "{:>5} {:>7} {:>7} {:>9} {:>11} {:>6} {:>11} {:>9} {:>9} {:>7} {:>8} {:>8}",
            "ranks",
            "threads",
            "isa",
            "read GB/s",
            "decode GB/s",
            "",
            "prefill t/s",
            "GFLOP/s",
            "of peak",
            "1 tok/s",
            "8",
            "16"
        );
        for row in &self.rows {
            let of_peak = row.amx_peak_gflops.map_or("-".to_owned(), |peak| percent(row.prefill_gflops / peak));
            let times = |batch| format!("{:.2}×", row.decode_tok_s[batch] / row.decode_tok_s["1"]);
            let _ = writeln!(
                text,
                "{:>5} {:>7} {:>7} {:>9.1} {:>11.1} {:>6} {:>11.0} {:>9.0} {:>9} {:>7.2} {:>8} {:>8}",
                row.ranks,
                row.threads,
                row.isa,
                row.read_gbps,
                row.decode_gbps,
                percent(row.decode_gbps / row.read_gbps),
                row.prefill_tok_s,
                row.prefill_gflops,
                of_peak,
                row.decode_tok_s["1"],
                times("8"),
                times("16"),
            );
        }
        text
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}
