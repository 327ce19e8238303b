//! `peregrine bench latency`: batches sent straight to the engine, without gRPC, HTTP and tokenizer.

use crate::engine::{self, NotReady};
use crate::metrics::Distribution;
use coordinator::{Coordinator, Generation, Submission, SubmitError, Update};
use runtime::{Engine, EngineError, EngineOptions, ORDINARY_TOKENS};
use std::io::{self, Write};
use std::time::Instant;
use step::{Priority, SamplingParams, SamplingSettings};
use tokio::task::JoinSet;

/// What is measured of which engine.
#[derive(Clone, Debug)]
pub struct LatencyOptions {
    /// The engine.
    pub engine: EngineOptions,
    /// Over how many workers the model is cut.
    pub tensor_parallel: u32,
    /// Sequences that run together; each size is measured.
    pub batch_sizes: Vec<u32>,
    /// Tokens of the prompts; each length is measured, and there is one at least.
    pub input_lens: Vec<u32>,
    /// Tokens of the answers, 2 at least.
    pub output_len: u32,
    /// How often each batch is run.
    pub repeats: u32,
}

/// Why latency could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum LatencyError {
    /// The engine cannot be started.
    #[error(transparent)]
    Start(#[from] EngineError),
    /// The model cannot be loaded.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// A batch is larger than the KV cache.
    #[error("{batch} sequences of {input} + {output} tokens need --kv-tokens {needed}, not {found}")]
    Cache {
        batch: u32,
        input: u32,
        output: u32,
        /// Tokens that the cache would have to hold.
        needed: usize,
        found: usize,
    },
    /// A batch is larger than what may run at once.
    #[error("{batch} sequences need --max-concurrent-requests {batch}")]
    Requests { batch: u32 },
    /// The engine takes no sequence.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// A sequence failed.
    #[error("{0}")]
    Failed(String),
    /// The engine is gone.
    #[error("the engine ended before the answer did")]
    Ended,
    /// An answer of another length was not the work that is being measured.
    #[error("an answer has {found} tokens instead of the {asked} of --output-len")]
    Length { found: usize, asked: usize },
    /// What was measured cannot be printed.
    #[error("cannot write to the standard output")]
    Output(#[from] io::Error),
}

/// Times in milliseconds.
#[derive(Default)]
struct Times {
    /// From the start of a batch until each of its sequences had its first token.
    prefill: Vec<f64>,
    /// Of each step in which all sequences decoded.
    step: Vec<f64>,
}

/// Measures, and prints a row for each batch to `out`.
///
/// # Errors
///
/// [`LatencyError`].
pub async fn run(options: &LatencyOptions, out: &mut impl Write) -> Result<(), LatencyError> {
    let Engine { coordinator, service } = Engine::start(&options.engine, options.tensor_parallel)?;
    let result = match engine::ready(&coordinator).await {
        Ok(()) => sweep(options, &coordinator, service.info().max_concurrent_requests, out).await,
        Err(error) => Err(error.into()),
    };
    coordinator.stop();
    coordinator.ended().await;
    result
}

async fn sweep(
    options: &LatencyOptions,
    coordinator: &Coordinator,
    sequences_max: usize,
    out: &mut impl Write,
) -> Result<(), LatencyError> {
    let LatencyOptions { input_lens, batch_sizes, repeats, .. } = options;
    let output = options.output_len as usize;
    for &input in input_lens {
        for &batch in batch_sizes {
            let needed = batch as usize * (input as usize + output).next_multiple_of(16);
            let found = coordinator.kv_tokens();
            if needed > found {
                return Err(LatencyError::Cache { batch, input, output: options.output_len, needed, found });
            }
            if batch as usize > sequences_max {
                return Err(LatencyError::Requests { batch });
            }
        }
    }
    writeln!(
        out,
        "| input | batch | prefill p50 / p90 / p99 ms | input tok/s | step p50 / p90 / p99 ms | output tok/s | a sequence's |\n\
         |---|---|---|---|---|---|---|",
    )?;
    // What is built at first use is there afterwards.
    run_batch(coordinator, 1, input_lens[0] as usize, output).await?;
    for &input in input_lens {
        for &batch in batch_sizes {
            let mut all = Times::default();
            for _ in 0..*repeats {
                let times = run_batch(coordinator, batch as usize, input as usize, output).await?;
                all.prefill.extend(times.prefill);
                all.step.extend(times.step);
            }
            writeln!(out, "{}", row(input, batch, all))?;
            out.flush()?;
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
async fn run_batch(
    coordinator: &Coordinator,
    batch: usize,
    input: usize,
    output: usize,
) -> Result<Times, LatencyError> {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..batch {
        tasks.spawn(token_times(coordinator.submit(submission(input, output))?, start));
    }
    let mut times = Vec::new();
    while let Some(joined) = tasks.join_next().await {
        let tokens = joined.expect("no task panics or is cancelled")?;
        check_length(tokens.len(), output)?;
        times.push(tokens);
    }
    let prefilled = times.iter().map(|tokens| tokens[0]).fold(0.0, f64::max);
    // All decode from here on, in the same steps: one sequence tells of all.
    let together: Vec<f64> = times[0].iter().copied().filter(|&time| time >= prefilled).collect();
    Ok(Times { prefill: vec![prefilled], step: together.windows(2).map(|pair| pair[1] - pair[0]).collect() })
}

fn check_length(found: usize, asked: usize) -> Result<(), LatencyError> {
    if found == asked { Ok(()) } else { Err(LatencyError::Length { found, asked }) }
}

/// When each token came, in milliseconds after `start`.
async fn token_times(mut generation: Generation, start: Instant) -> Result<Vec<f64>, LatencyError> {
    let mut times = Vec::new();
    loop {
        match generation.next().await {
            Some(Update::Token { finish, .. }) => {
                times.push(start.elapsed().as_secs_f64() * 1e3);
                if finish.is_some() {
                    return Ok(times);
                }
            }
            Some(Update::Failed { reason } | Update::Lost { reason }) => return Err(LatencyError::Failed(reason)),
            Some(_) => {}
            None => return Err(LatencyError::Ended),
        }
    }
}

/// A random prompt of `input` tokens that is continued by `output`.
pub(crate) fn submission(input: usize, output: usize) -> Submission {
    Submission {
        prompt: (0..input).map(|_| fastrand::u32(ORDINARY_TOKENS)).collect(),
        max_new_tokens: output,
        eos: Vec::new(),
        stop_token_ids: Vec::new(),
        min_tokens: 0,
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
