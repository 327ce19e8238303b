//! Arguments of `peregrine bench backend`.

use super::ShapeArg;
use crate::engine_args;
use crate::log::say;
use crate::output::print;
use anyhow::Result;
use backend_cpu::Isa;
use bench::backend::CpuBenchOptions;
use clap::{Args, value_parser};

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
    #[arg(long, value_enum, default_value_t = ShapeArg::Small)]
    shape: ShapeArg,
    /// Instruction set to use instead of the best that the CPU has: plain, avx2, avx512 or amx.
    #[arg(long, value_parser = engine_args::isa)]
    isa: Option<Isa>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Measures, and prints what was found.
pub fn run(args: &BackendArgs) -> Result<()> {
    let numbers = |numbers: &[u32]| numbers.iter().map(|&number| number as usize).collect();
    let options = CpuBenchOptions {
        threads: numbers(&args.threads),
        ranks: numbers(&args.ranks),
        shape: args.shape.into(),
        isa: args.isa,
    };
    let report = bench::backend::run(&options, &say)?;
    print(&if args.json { serde_json::to_string_pretty(&report)? + "\n" } else { report.table() })
}
