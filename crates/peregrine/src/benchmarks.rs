//! `peregrine bench`: one module for each subcommand.

mod backend;
mod engine;
mod latency;
mod make_model;
mod recovery;
mod serve;
mod simulate;
mod soak;

use crate::log;
use crate::signals::Signals;
use crate::threads::start_runtime;
use anyhow::Result;
use bench::{Ended, Shape};
use clap::{Args, Subcommand, ValueEnum};
use std::process::ExitCode;

/// A model's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ShapeArg {
    /// 24 layers of 2,048 columns, 32 query heads, one KV head; 2.6 GB.
    #[value(name = "1.3b")]
    Small,
    /// Falcon-7B; 13.8 GB.
    #[value(name = "7b")]
    Falcon7b,
    /// A few million parameters, for tests.
    #[value(name = "tiny", hide = true)]
    Tiny,
}

impl From<ShapeArg> for Shape {
    fn from(shape: ShapeArg) -> Self {
        match shape {
            ShapeArg::Small => Self::Small,
            ShapeArg::Falcon7b => Self::Falcon7b,
            ShapeArg::Tiny => Self::Tiny,
        }
    }
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
    ///
    /// Each run is printed and written when it ends; ctrl-c cancels the run under way and keeps those before it. Exit status: 0,
    /// also if single requests failed, which are counted with their reasons; 1 if a run had no answer at all; 130 after ctrl-c.
    Serve(serve::ServeArgs),
    /// Load a server for long, and compare every answer with the one that its request gets alone.
    Soak(soak::SoakArgs),
    /// Write a folder with a model of random weights, to measure a shape without its checkpoint.
    MakeModel(make_model::MakeModelArgs),
    /// Measure prefill and decode by batch size, straight at an engine that is started for it.
    Latency(latency::LatencyArgs),
    /// Measure how long streams stand still when a worker is killed, beside how long a worker takes to start and load.
    Recovery(recovery::RecoveryArgs),
    /// Measure the CPU backend alone, on a model of random weights, beside what the CPU can do.
    Backend(backend::BackendArgs),
    /// Predict throughput and latency of a node with GPUs: the real scheduler, and a clock that is computed.
    Simulate(simulate::SimulateArgs),
    /// Measure all but the model: streams from workers that answer at once, the scheduler alone, memory over many requests.
    Engine(engine::OverheadArgs),
}

/// Runs one benchmark.
pub fn run(args: BenchArgs) -> Result<ExitCode> {
    match args.command {
        BenchCommand::Serve(args) => return start_runtime()?.block_on(serve::run(args)),
        BenchCommand::Soak(args) => return start_runtime()?.block_on(soak::run(args)),
        BenchCommand::MakeModel(args) => make_model::run(args)?,
        BenchCommand::Simulate(args) => simulate::run(&args)?,
        BenchCommand::Latency(args) => start_runtime()?.block_on(latency::run(args))?,
        BenchCommand::Recovery(args) => start_runtime()?.block_on(recovery::run(args))?,
        BenchCommand::Backend(args) => backend::run(&args)?,
        BenchCommand::Engine(args) => start_runtime()?.block_on(engine::run(&args))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Resolves at ctrl-c, SIGTERM or SIGHUP, with the exit code for it. A second one ends the process at once.
fn interrupted() -> Result<impl Future<Output = u8>> {
    let mut signals = Signals::new()?;
    Ok(async move {
        let code = signals.next().await;
        tokio::spawn(async move { std::process::exit(signals.next().await.into()) });
        code
    })
}

fn exit_code(ended: Ended) -> ExitCode {
    match ended {
        Ended::Complete => ExitCode::SUCCESS,
        Ended::Interrupted(code) => {
            log::say("interrupted: what had ended before is reported");
            code.into()
        }
    }
}
