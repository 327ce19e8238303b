//! `peregrine bench latency`: batches sent straight to the engine, without gRPC, HTTP and tokenizer.

use super::ready;
use crate::engine_args::{EngineArgs, ranks};
use crate::output::print;
use anyhow::{Result, bail, ensure};
use bench::Distribution;
use clap::{Args, value_parser};
use coordinator::{Coordinator, Generation, Submission, Update};
use runtime::{Engine, ORDINARY_TOKENS};
use std::time::Instant;
use step::{Priority, SamplingParams, SamplingSettings};
use tokio::task::JoinSet;

/// Arguments of `peregrine bench latency`.
#[derive(Args, Debug)]
pub struct LatencyArgs {
    #[command(flatten)]
    engine: EngineArgs,
    /// Over how many workers the model is cut.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = ranks())]
    tensor_parallel: u32,
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

/// Milliseconds.
#[derive(Default)]
struct Times {
    /// From the start of a batch until each of its sequences had its first token.
    prefill: Vec<f64>,
    /// Of each step in which all sequences decoded.
    step: Vec<f64>,
}

/// Measures, and prints a row for each batch.
pub async fn run(args: LatencyArgs) -> Result<()> {
    let Engine { coordinator, service } = Engine::start(&args.engine.options()?, args.tensor_parallel)?;
    let result = match ready(&coordinator).await {
        Ok(()) => sweep(&args, &coordinator, service.info().max_concurrent_requests).await,
        Err(error) => Err(error),
    };
    coordinator.stop();
    coordinator.ended().await;
    result
}

async fn sweep(args: &LatencyArgs, coordinator: &Coordinator, sequences_max: usize) -> Result<()> {
    let output = args.output_len as usize;
    for &input in &args.input_lens {
        for &batch in &args.batch_sizes {
            let (tokens, room) =
                (batch as usize * (input as usize + output).next_multiple_of(16), coordinator.kv_tokens());
            ensure!(
                tokens <= room,
                "{batch} sequences of {input} + {output} tokens need --kv-tokens {tokens}, not {room}"
            );
            ensure!(batch as usize <= sequences_max, "{batch} sequences need --max-concurrent-requests {batch}");
        }
    }
    print(
        "| input | batch | prefill p50 / p90 / p99 ms | input tok/s | step p50 / p90 / p99 ms | output tok/s | a sequence's |\n\
         |---|---|---|---|---|---|---|\n",
    )?;
    // What is built at first use is there afterwards.
    run_batch(coordinator, 1, args.input_lens[0] as usize, output).await?;
    for &input in &args.input_lens {
        for &batch in &args.batch_sizes {
            let mut all = Times::default();
            for _ in 0..args.repeats {
                let times = run_batch(coordinator, batch as usize, input as usize, output).await?;
                all.prefill.extend(times.prefill);
                all.step.extend(times.step);
            }
            print(&(row(input, batch, all) + "\n"))?;
        }
    }
    Ok(())
}

fn row(input: u32, batch: u32, times: Times) -> String {
    let (prefill, step) = (Distribution::of(times.prefill), Distribution::of(times.step));
    let percentiles = |of: &Distribution| {
        let [p50, p90, p99] = [50.0, 90.0, 99.0].map(|percent| of.percentile(percent));
        format!("{p50:.1} / {p90:.1} / {p99:.1}")
    };
    let per_second = |count: f64, of: &Distribution| count * 1e3 / of.median();
    format!(
        "| {input} | {batch} | {} | {:.1} | {} | {:.1} | {:.1} |",
        percentiles(&prefill),
        per_second(f64::from(input) * f64::from(batch), &prefill),
        percentiles(&step),
        per_second(f64::from(batch), &step),
        per_second(1.0, &step),
    )
}

/// Runs `batch` sequences of random prompts together, to the end.
async fn run_batch(coordinator: &Coordinator, batch: usize, input: usize, output: usize) -> Result<Times> {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..batch {
        tasks.spawn(token_times(coordinator.submit(submission(input, output))?, start));
    }
    let mut times = Vec::new();
    while let Some(joined) = tasks.join_next().await {
        let tokens = joined??;
        check_length(tokens.len(), output)?;
        times.push(tokens);
    }
    let prefilled = times.iter().map(|tokens| tokens[0]).fold(0.0, f64::max);
    // All decode from here on, in the same steps: one sequence tells of all.
    let together: Vec<f64> = times[0].iter().copied().filter(|&time| time >= prefilled).collect();
    Ok(Times { prefill: vec![prefilled], step: together.windows(2).map(|pair| pair[1] - pair[0]).collect() })
}

/// An answer of another length was not the work that is being measured.
fn check_length(tokens: usize, asked: usize) -> Result<()> {
    ensure!(tokens == asked, "an answer has {tokens} tokens instead of the {asked} of --output-len");
    Ok(())
}

/// When each token came, in milliseconds after `start`.
async fn token_times(mut generation: Generation, start: Instant) -> Result<Vec<f64>> {
    let mut times = Vec::new();
    loop {
        match generation.next().await {
            Some(Update::Token { finish, .. }) => {
                times.push(start.elapsed().as_secs_f64() * 1e3);
                if finish.is_some() {
                    return Ok(times);
                }
            }
            Some(Update::Failed { reason }) => bail!("{reason}"),
            Some(_) => {}
            None => bail!("the engine ended before the answer did"),
        }
    }
}

fn submission(input: usize, output: usize) -> Submission {
    Submission {
        prompt: (0..input).map(|_| fastrand::u32(ORDINARY_TOKENS)).collect(),
        max_new_tokens: output,
        eos: Vec::new(),
        sampling: SamplingParams::try_new(SamplingSettings::default()).expect("the default is valid"),
        priority: Priority::Normal,
        prompt_logprobs: false,
        top_n: 0,
        return_logits: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_another_length_is_an_error() {
        assert!(check_length(32, 32).is_ok());
        for tokens in [0, 31, 33] {
            let error = check_length(tokens, 32).expect_err("another length").to_string();
            assert_eq!(error, format!("an answer has {tokens} tokens instead of the 32 of --output-len"));
        }
    }
}
