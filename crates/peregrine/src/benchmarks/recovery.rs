//! Arguments of `peregrine bench recovery`.

use crate::engine_args::{EngineArgs, ranks};
use anyhow::Result;
use bench::recovery::RecoveryOptions;
use clap::{Args, value_parser};

/// Arguments of `peregrine bench recovery`.
#[derive(Args, Debug)]
pub struct RecoveryArgs {
    #[command(flatten)]
    engine: EngineArgs,
    /// Over how many workers the model is cut. If not given: those for which `peregrine shard` has cut it, or 2.
    #[arg(long, value_name = "N", value_parser = ranks())]
    tensor_parallel: Option<u32>,
    /// Streams that run when a rank is killed.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = value_parser!(u32).range(1..=65_536))]
    streams: u32,
    /// Tokens of their prompts.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = value_parser!(u32).range(1..=1 << 20))]
    input_len: u32,
    /// Tokens that each has when the rank is killed.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = value_parser!(u32).range(1..=1 << 20))]
    tokens_before: u32,
    /// How often all this is done.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u32).range(1..=10_000))]
    repeats: u32,
}

/// Measures, and prints a row for each kill.
pub async fn run(args: RecoveryArgs) -> Result<()> {
    let engine = args.engine.options().await?;
    let options = RecoveryOptions {
        tensor_parallel: engine.degree(args.tensor_parallel, 2)?,
        engine,
        streams: args.streams,
        input_len: args.input_len,
        tokens_before: args.tokens_before,
        repeats: args.repeats,
    };
    Ok(bench::recovery::run(&options, &mut std::io::stdout()).await?)
}
