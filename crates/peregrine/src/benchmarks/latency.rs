//! Arguments of `peregrine bench latency`.

use crate::engine_args::{EngineArgs, ranks};
use anyhow::Result;
use bench::latency::LatencyOptions;
use clap::{Args, value_parser};

/// Arguments of `peregrine bench latency`.
#[derive(Args, Debug)]
pub struct LatencyArgs {
    #[command(flatten)]
    engine: EngineArgs,
    /// Over how many workers the model is cut. If not given: those for which `peregrine shard` has cut it, or 1.
    #[arg(long, value_name = "N", value_parser = ranks())]
    tensor_parallel: Option<u32>,
    /// Sequences that run together; each size is measured.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1,2,4,8,16", value_parser = value_parser!(u32).range(1..=65_536))]
    batch_sizes: Vec<u32>,
    /// Tokens of the prompts; each length is measured.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "128,512", value_parser = value_parser!(u32).range(1..=1 << 20))]
    input_lens: Vec<u32>,
    /// Tokens of the answers.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = value_parser!(u32).range(2..=1 << 20))]
    output_len: u32,
    /// How often each batch is run.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = value_parser!(u32).range(1..=10_000))]
    repeats: u32,
}

/// Measures, and prints a row for each batch.
pub async fn run(args: LatencyArgs) -> Result<()> {
    let engine = args.engine.options().await?;
    let options = LatencyOptions {
        tensor_parallel: engine.degree(args.tensor_parallel, 1)?,
        engine,
        batch_sizes: args.batch_sizes,
        input_lens: args.input_lens,
        output_len: args.output_len,
        repeats: args.repeats,
    };
    Ok(bench::latency::run(&options, &mut std::io::stdout()).await?)
}
