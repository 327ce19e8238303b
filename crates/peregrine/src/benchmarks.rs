//! `peregrine bench`: one module for each subcommand, or the one of the `bench` crate.

mod backend;
mod engine;
mod latency;
mod random_model;
mod simulate;

use crate::threads::start_runtime;
use anyhow::{Result, bail};
use bench::engine::EngineArgs;
use bench::serve::ServeArgs;
use bench::soak::SoakArgs;
use clap::{Args, Subcommand};
use coordinator::{Coordinator, Status};
use node::Published;
use std::process::ExitCode;

/// The config.json of the shape 1.3b.
const SMALL_CONFIG: &[u8] = include_bytes!("benchmarks/shape-1.3b.json");

/// The shape 7b.
fn falcon_7b() -> &'static Published {
    Published::find("huggingface-llm-falcon-7b-bf16").expect("it was published")
}

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
    /// Load a server for long, and hold every answer against the one that its request gets alone.
    Soak(SoakArgs),
    /// Write a folder with a model of random weights, to measure a shape without its checkpoint.
    MakeModel(random_model::MakeModelArgs),
    /// Measure prefill and decode by batch size, straight at an engine that is started for it.
    Latency(latency::LatencyArgs),
    /// Measure the processor backend alone, on a model of random weights, beside what the processor can do.
    Backend(backend::BackendArgs),
    /// Predict throughput and latency of a node with GPUs: the real scheduler, and a clock that is computed.
    Simulate(simulate::SimulateArgs),
    /// Measure all but the model: streams from workers that answer at once, the scheduler alone, memory over many requests.
    Engine(EngineArgs),
}

/// Runs one benchmark.
pub fn run(args: BenchArgs) -> Result<ExitCode> {
    match args.command {
        BenchCommand::Serve(args) => start_runtime()?.block_on(bench::serve::run(&args))?,
        BenchCommand::Soak(args) => start_runtime()?.block_on(bench::soak::run(&args))?,
        BenchCommand::MakeModel(args) => random_model::run(&args)?,
        BenchCommand::Simulate(args) => simulate::run(&args)?,
        BenchCommand::Latency(args) => start_runtime()?.block_on(latency::run(args))?,
        BenchCommand::Backend(args) => backend::run(&args)?,
        BenchCommand::Engine(args) => start_runtime()?.block_on(engine::run(&args))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until an engine can be measured.
async fn ready(coordinator: &Coordinator) -> Result<()> {
    let mut status = coordinator.status();
    let loaded = status.wait_for(|status| !matches!(status, Status::Loading { .. })).await?;
    match &*loaded {
        Status::Failed { reason } => bail!("{reason}"),
        _ => Ok(()),
    }
}
