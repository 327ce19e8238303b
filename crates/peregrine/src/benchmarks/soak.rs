//! Arguments of `peregrine bench soak`.

use super::{exit_code, interrupted};
use anyhow::Result;
use bench::Dataset;
use bench::soak::SoakOptions;
use clap::{Args, value_parser};
use std::process::ExitCode;
use std::time::Duration;

/// Arguments of `peregrine bench soak`.
#[derive(Args, Debug)]
pub struct SoakArgs {
    /// The server, as HOST:PORT or a URL.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:50051")]
    server: String,
    /// For how long.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = value_parser!(u32).range(1..))]
    seconds: u32,
    /// Requests at once.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = value_parser!(u32).range(1..=4096))]
    concurrency: u32,
    /// Requests that differ; each is first sent alone.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = value_parser!(u32).range(1..))]
    requests: u32,
    /// What is asked, as in `bench serve`; half of the requests are sampled, the others greedy.
    #[arg(
        long,
        value_name = "WHAT",
        value_delimiter = ',',
        default_value = "log:60:1/log:40:0.8,96+1-40/1-60,1-8/200"
    )]
    dataset: Vec<Dataset>,
    /// The share of requests that are cancelled on the way.
    #[arg(long, value_name = "SHARE", default_value_t = 0.3, value_parser = share)]
    cancel: f64,
    /// A process whose memory is watched, with all that it has started.
    #[arg(long, value_name = "PID")]
    watch: Option<u32>,
    /// By how many MiB the watched memory may grow, from a fifth of the time to its end.
    #[arg(long, value_name = "MIB", default_value_t = 16)]
    growth_max: u32,
    /// Seed of requests, choices and cancels.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
}

fn share(text: &str) -> Result<f64, String> {
    let parsed = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    parsed.ok_or_else(|| format!("{text:?} is no share: expected 0 to 1"))
}

/// Loads a server, and judges its answers.
pub async fn run(args: SoakArgs) -> Result<ExitCode> {
    let interrupted = interrupted()?;
    let options = SoakOptions {
        address: args.server,
        duration: Duration::from_secs(args.seconds.into()),
        concurrency: args.concurrency,
        requests: args.requests as usize,
        datasets: args.dataset,
        cancel: args.cancel,
        watch: args.watch,
        growth_max: args.growth_max,
        seed: args.seed,
        json: args.json,
    };
    Ok(exit_code(bench::soak::run(&options, &mut std::io::stdout(), interrupted).await?))
}
