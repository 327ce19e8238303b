//! `peregrine bench recovery`: how long streams stand still when a rank is killed, beside how long a rank takes to start and load.

use crate::engine::{self, NotReady};
use crate::latency::{LatencyError, submission};
use crate::metrics::Distribution;
use crate::processes::worker;
use coordinator::{Coordinator, Generation, RestartLimits, Status, Update};
use runtime::{Engine, EngineError, EngineOptions};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{self, Write};
use std::time::{Duration, Instant};

/// What is measured of which engine.
#[derive(Clone, Debug)]
pub struct RecoveryOptions {
    /// The engine.
    pub engine: EngineOptions,
    /// Over how many workers the model is cut.
    pub tensor_parallel: u32,
    /// Streams that run when a rank is killed.
    pub streams: u32,
    /// Tokens of their prompts.
    pub input_len: u32,
    /// Tokens that each has when the rank is killed.
    pub tokens_before: u32,
    /// How often all this is done.
    pub repeats: u32,
}

/// Why recovery could not be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum RecoveryError {
    /// The engine cannot be started.
    #[error(transparent)]
    Start(#[from] EngineError),
    /// The model cannot be loaded.
    #[error(transparent)]
    NotReady(#[from] NotReady),
    /// A sequence is refused, or fails.
    #[error(transparent)]
    Sequence(#[from] LatencyError),
    /// A worker cannot be found, or not be killed.
    #[error("the worker of rank {rank}: {error}")]
    Worker { rank: u32, error: io::Error },
    /// What was measured cannot be printed.
    #[error("cannot write to the standard output")]
    Output(#[from] io::Error),
}

/// What a kill costs, in seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    /// From the start of the ranks until all had loaded.
    load: f64,
    /// Of prompts as long as what the streams have when the rank is killed.
    prefill: f64,
    /// From the kill until each stream had its next token.
    pause: f64,
}

impl Times {
    /// The pause, by what it may be: half as long again as a start and a load, and the prefill.
    fn ratio(&self) -> f64 {
        self.pause / (1.5 * self.load + self.prefill)
    }
}

/// Measures, and prints a row for each kill and one of their medians to `out`.
///
/// # Errors
///
/// [`RecoveryError`].
pub async fn run(options: &RecoveryOptions, out: &mut impl Write) -> Result<(), RecoveryError> {
    // Without a window no failure counts, and nothing is waited.
    let restarts = RestartLimits { failures_max: None, window: Duration::ZERO };
    let options = RecoveryOptions { engine: EngineOptions { restarts, ..options.engine.clone() }, ..options.clone() };
    writeln!(
        out,
        "| kill of | start and load s | prefill s | pause s | pause / (1.5 load + prefill) |\n|---|---|---|---|---|"
    )?;
    // The files are in the page cache afterwards, as they are when a rank is started again.
    once(&options, 0).await?;
    let mut all = Vec::new();
    for repeat in 0..options.repeats {
        let rank = repeat % options.tensor_parallel;
        let times = once(&options, rank).await?;
        write_row(out, &format!("rank {rank}"), times)?;
        all.push(times);
    }
    let median = |of: fn(&Times) -> f64| Distribution::of(all.iter().map(of).collect()).median();
    let (load, prefill, pause) =
        (median(|times| times.load), median(|times| times.prefill), median(|times| times.pause));
    write_row(out, "median", Times { load, prefill, pause })?;
    Ok(())
}

fn write_row(out: &mut impl Write, name: &str, times: Times) -> io::Result<()> {
    let Times { load, prefill, pause } = times;
    writeln!(out, "| {name} | {load:.3} | {prefill:.3} | {pause:.3} | {:.2} |", times.ratio())?;
    out.flush()
}

/// Starts an engine, runs streams on it, kills a rank, and ends the engine.
async fn once(options: &RecoveryOptions, rank: u32) -> Result<Times, RecoveryError> {
    let Engine { coordinator, service: _service } = Engine::start(&options.engine, options.tensor_parallel)?;
    let begun = Instant::now();
    let result = match engine::ready(&coordinator).await {
        Ok(()) => measure(options, &coordinator, rank, begun.elapsed().as_secs_f64()).await,
        Err(error) => Err(error.into()),
    };
    coordinator.stop();
    coordinator.ended().await;
    result
}

async fn measure(
    options: &RecoveryOptions,
    coordinator: &Coordinator,
    rank: u32,
    load: f64,
) -> Result<Times, RecoveryError> {
    let (input, before) = (options.input_len as usize, options.tokens_before as usize);
    let begin = |input: usize, output: usize| {
        let streams = (0..options.streams).map(|_| coordinator.submit(submission(input, output)));
        streams.collect::<Result<Vec<_>, _>>().map_err(LatencyError::from)
    };
    // What is built at first use is there afterwards.
    read(&mut begin(input + before, 2)?, 2).await?;
    let started = Instant::now();
    read(&mut begin(input + before, 1)?, 1).await?;
    let prefill = started.elapsed().as_secs_f64();
    // Twice as many as it takes until all have been killed: none may end before.
    let mut streams = begin(input, 2 * before + 16)?;
    read(&mut streams, before).await?;
    let failed = |error| RecoveryError::Worker { rank, error };
    let pid = worker(rank).map_err(failed)?;
    let mut status = coordinator.status();
    let killed = Instant::now();
    kill_process(Pid::from_raw(pid).expect("a pid is not 0"), Signal::KILL).map_err(|error| failed(error.into()))?;
    let recovering = |status: &Status| matches!(status, Status::Recovering { .. });
    status.wait_for(recovering).await.map_err(|_| LatencyError::Ended)?;
    // What the ranks had answered before they failed.
    for stream in &mut streams {
        while stream.try_next().is_some() {}
    }
    read(&mut streams, 1).await?;
    Ok(Times { load, prefill, pause: killed.elapsed().as_secs_f64() })
}

/// Reads so many tokens of each stream.
async fn read(streams: &mut [Generation], tokens: usize) -> Result<(), LatencyError> {
    for stream in streams {
        let mut left = tokens;
        while left > 0 {
            match stream.next().await {
                Some(Update::Token { .. }) => left -= 1,
                Some(Update::Failed { reason } | Update::Lost { reason }) => return Err(LatencyError::Failed(reason)),
                Some(_) => {}
                None => return Err(LatencyError::Ended),
            }
        }
    }
    Ok(())
}
