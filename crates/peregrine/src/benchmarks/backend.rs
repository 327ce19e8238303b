//! `peregrine bench backend`: the processor backend beside the limits of the processor.

use super::{SMALL_CONFIG, falcon_7b};
use crate::engine_args;
use crate::log::say;
use crate::output::print;
use anyhow::{Context, Result};
use backend::{Alone, Collective};
use backend_cpu::{Cpu, Isa, SharedMemory, probe};
use bench::backend::{Place, Probes, Report, Row, Subject, measure};
use clap::{Args, ValueEnum, value_parser};
use model::FalconConfig;
use runtime::cpu_options;
use std::fmt::Write;
use std::time::Duration;

/// What is measured.
#[derive(Args, Debug)]
pub struct BackendArgs {
    /// Threads of each rank; one measurement for each number.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1", value_parser = value_parser!(u32).range(1..=1024))]
    threads: Vec<u32>,
    /// Ranks over which the model is cut; one measurement for each number.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1", value_parser = value_parser!(u32).range(1..=64))]
    ranks: Vec<u32>,
    /// Shape of the model.
    #[arg(long, value_enum, default_value_t = Shape::Small)]
    shape: Shape,
    /// Instruction set to use instead of the best that the processor has: plain, avx2, avx512 or amx.
    #[arg(long, value_parser = engine_args::isa)]
    isa: Option<Isa>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A model's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shape {
    /// 24 layers of 2,048 columns, 32 query heads, one KV head.
    #[value(name = "1.3b")]
    Small,
    /// Falcon-7B.
    #[value(name = "7b")]
    Falcon7b,
}

impl Shape {
    fn config(self) -> FalconConfig {
        match self {
            Self::Small => FalconConfig::from_json(SMALL_CONFIG).expect("the config is valid"),
            Self::Falcon7b => falcon_7b().config(),
        }
    }

    fn name(self) -> String {
        self.to_possible_value().expect("no shape is skipped").get_name().to_owned()
    }
}

/// No rank works this long on one step.
const COLLECTIVE_LIMIT: Duration = Duration::from_secs(120);

/// Measures every number of ranks with every number of threads that the processor has cores for.
pub fn run(args: &BackendArgs) -> Result<()> {
    let isa = args.isa.unwrap_or_else(Isa::detect);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut report = Report { shape: args.shape.name(), rows: Vec::new() };
    for &ranks in &args.ranks {
        for &threads in &args.threads {
            let (ranks, threads) = (ranks as usize, threads as usize);
            if ranks * threads > cores {
                say(&format!("{ranks} ranks of {threads} threads are left out: there are {cores} cores"));
                continue;
            }
            let row = measure_row(args.shape, isa, ranks, threads);
            report.rows.push(row.with_context(|| format!("{ranks} ranks of {threads} threads"))?);
        }
    }
    print(&if args.json { serde_json::to_string_pretty(&report)? + "\n" } else { table(&report) })
}

fn measure_row(shape: Shape, isa: Isa, ranks: usize, threads: usize) -> Result<Row> {
    let memory = if ranks > 1 { Some(SharedMemory::create(ranks)?) } else { None };
    let open = |place: Place| {
        let collective: Box<dyn Collective> = match &memory {
            Some(memory) => Box::new(SharedMemory::join(memory, place.rank, ranks, COLLECTIVE_LIMIT)?),
            None => Box::new(Alone),
        };
        Cpu::new(&cpu_options(place.rank, ranks, place.threads, Some(isa)), collective)
    };
    let subject = Subject {
        config: &shape.config(),
        open: &open,
        probes: Probes { read: &probe::read_bytes_per_s, matrix: &probe::matrix_operations_per_s },
        isa: isa.to_string(),
        progress: &|what| say(&format!("{ranks} ranks of {threads} threads: {what}")),
    };
    Ok(measure(&subject, ranks, threads)?)
}

fn table(report: &Report) -> String {
    let mut text = format!("shape {}\n", report.shape);
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
    for row in &report.rows {
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

fn percent(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}
