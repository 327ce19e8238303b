//! Arguments of `peregrine bench engine`.

use crate::engine_args::{CudaArgs, worker_command};
use crate::output::print;
use anyhow::Result;
use bench::Dialect;
use bench::overhead::OverheadOptions;
use clap::{Args, value_parser};

/// Arguments of `peregrine bench engine`.
#[derive(Args, Debug)]
pub struct OverheadArgs {
    /// Requests at once.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = value_parser!(u32).range(1..=8192))]
    concurrency: u32,
    /// How often each dialect is measured, in turns: gRPC, OpenAI's chats, TGI, then the peers.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds for which tokens are counted, in each round of each dialect.
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Tokens of each answer while tokens are counted.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = value_parser!(u32).range(1..=1024))]
    output_len: u32,
    /// Requests over which memory is watched.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = value_parser!(u32).range(1..=100_000_000))]
    requests: u32,
    /// Another server to measure by the same load, as DIALECT=ADDR, with the dialects of `bench serve`.
    #[arg(long, value_name = "DIALECT=ADDR", value_parser = peer)]
    peer: Vec<(Dialect, String)>,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
}

/// Measures, and prints what was measured.
pub async fn run(args: &OverheadArgs) -> Result<()> {
    let options = OverheadOptions {
        worker: worker_command(&CudaArgs::default())?,
        concurrency: args.concurrency,
        rounds: args.rounds,
        seconds: args.seconds,
        output_len: args.output_len,
        requests: args.requests,
        peers: args.peer.clone(),
    };
    let figures = bench::overhead::run(&options).await?;
    print(&if args.json { format!("{}\n", figures.json()) } else { figures.markdown() })
}

fn peer(text: &str) -> Result<(Dialect, String), String> {
    let parse = || {
        let (name, address) = text.split_once('=')?;
        let dialect = Dialect::ALL.into_iter().find(|dialect| dialect.name() == name)?;
        Some((dialect, address.to_owned()))
    };
    let names = || Dialect::ALL.map(Dialect::name).join(", ");
    parse().ok_or_else(|| format!("{text:?} is no peer: expected DIALECT=ADDR, with one of {}", names()))
}
