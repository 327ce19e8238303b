//! `peregrine bench`: one module for each subcommand, or the one of the `bench` crate.

mod engine;
pub mod instant;

use anyhow::Result;
use bench::engine::EngineArgs;
use bench::serve::ServeArgs;
use clap::{Args, Subcommand};
use std::process::ExitCode;

/// Arguments of `peregrine bench`.
#[derive(Args, Debug)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Subcommand, Debug)]
enum BenchCommand {
    /// Put load on a server that runs, and measure throughput and latency.
    Serve(ServeArgs),
    /// Measure all but the model: streams from workers that answer at once, the scheduler alone, memory over many requests.
    Engine(EngineArgs),
}

/// Runs one benchmark.
pub fn run(args: BenchArgs) -> Result<ExitCode> {
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match args.command {
        BenchCommand::Serve(args) => runtime()?.block_on(bench::serve::run(&args))?,
        BenchCommand::Engine(args) => runtime()?.block_on(engine::run(&args))?,
    }
    Ok(ExitCode::SUCCESS)
}
