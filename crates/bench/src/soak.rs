//! `peregrine bench soak`: many different requests at once, of which some are given up, for long. Every answer must be the
//! one that its request gets alone, and memory must not grow.

use crate::dataset::{Dataset, DatasetError, Request};
use crate::memory;
use crate::target::{Protocol, Record, Target, TargetError};
use clap::{Args, value_parser};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Arguments of `peregrine bench soak`.
#[derive(Args, Clone, Debug)]
pub struct SoakArgs {
    /// The server, as HOST:PORT or a URL.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:50051")]
    server: String,
    /// How long.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = value_parser!(u32).range(1..))]
    seconds: u32,
    /// Requests at once.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = value_parser!(u32).range(1..=4096))]
    concurrency: u32,
    /// Requests that differ; each is first sent alone.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = value_parser!(u32).range(1..))]
    requests: u32,
    /// What is asked, as in `bench serve`; half of the requests draw their tokens.
    #[arg(
        long,
        value_name = "WHAT",
        value_delimiter = ',',
        default_value = "log:60:1/log:40:0.8,96+1-40/1-60,1-8/200"
    )]
    dataset: Vec<Dataset>,
    /// The share of requests that are given up on the way.
    #[arg(long, value_name = "SHARE", default_value_t = 0.3, value_parser = share)]
    cancel: f64,
    /// A process whose memory is watched, with all that it has started.
    #[arg(long, value_name = "PID")]
    watch: Option<u32>,
    /// By how many MiB the watched memory may grow, from a fifth of the time to its end.
    #[arg(long, value_name = "MIB", default_value_t = 16)]
    growth_max: u32,
    /// Of requests, choices and cancels.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
}

/// Why a soak did not pass.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SoakError {
    /// The server.
    #[error("--server")]
    Target(#[from] TargetError),
    /// The requests.
    #[error("--dataset")]
    Dataset(#[from] DatasetError),
    /// The watched process.
    #[error("--watch {pid}")]
    Watch {
        /// Which.
        pid: u32,
        /// Why its memory is not known.
        source: std::io::Error,
    },
    /// A request failed, or was answered otherwise than alone.
    #[error("{count} requests went wrong (seed {seed}), the first: {first}")]
    Wrong {
        /// How many.
        count: u64,
        /// Of the run.
        seed: u64,
        /// What happened.
        first: String,
    },
    /// Memory grew.
    #[error("memory grew from {from} to {to} MiB, more than --growth-max {limit}")]
    Grew {
        /// MiB after a fifth of the time.
        from: u64,
        /// MiB at the end.
        to: u64,
        /// MiB that were allowed.
        limit: u32,
    },
}

fn share(text: &str) -> Result<f64, String> {
    let parsed = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    parsed.ok_or_else(|| format!("{text:?} is no share: expected 0 to 1"))
}

/// A request, and the tokens that it gets alone.
struct Known {
    request: Request,
    alone: Vec<u32>,
}

#[derive(Default)]
struct Tally {
    completed: AtomicU64,
    cancelled: AtomicU64,
    tokens: AtomicU64,
    cached_tokens: AtomicU64,
    wrong: AtomicU64,
    first: Mutex<Option<String>>,
}

/// Runs the soak and prints what it saw.
///
/// # Errors
///
/// [`SoakError`], also when an answer was wrong or memory grew.
pub async fn run(args: &SoakArgs) -> Result<(), SoakError> {
    let connections = args.concurrency.div_ceil(64) as usize;
    let limit = Duration::from_secs(600);
    let target = Target::connect(&args.server, Protocol::Grpc, connections, true, limit).await?;
    let known = Arc::new(ask_alone(&target, requests(args, &target).await?).await?);
    let tally = Arc::new(Tally::default());
    let (begin, duration) = (Instant::now(), Duration::from_secs(args.seconds.into()));
    let mut tasks = JoinSet::new();
    for caller in 0..args.concurrency {
        let (target, known, tally) = (target.clone(), known.clone(), tally.clone());
        let (random, cancel) = (StdRng::seed_from_u64(args.seed ^ (u64::from(caller) << 32)), args.cancel);
        tasks.spawn(call_until(begin + duration, caller as usize, target, known, tally, random, cancel));
    }
    tokio::time::sleep(duration / 5).await;
    let before = resident_mib(args)?;
    while tasks.join_next().await.is_some() {}
    let after = resident_mib(args)?;
    report(args, &tally, begin.elapsed(), before.zip(after));
    let count = tally.wrong.load(Ordering::Relaxed);
    if count > 0 {
        let first = tally.first.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        return Err(SoakError::Wrong { count, seed: args.seed, first });
    }
    match before.zip(after) {
        Some((from, to)) if to > from + u64::from(args.growth_max) => {
            Err(SoakError::Grew { from, to, limit: args.growth_max })
        }
        _ => Ok(()),
    }
}

async fn requests(args: &SoakArgs, target: &Target) -> Result<Vec<Request>, SoakError> {
    let alphabet = target.alphabet().await?;
    let each = (args.requests as usize).div_ceil(args.dataset.len());
    let mut requests = Vec::new();
    for dataset in &args.dataset {
        requests.extend(dataset.requests(each, &alphabet, args.seed, 0)?);
    }
    for (seed, request) in (0..).zip(&mut requests).step_by(2) {
        request.parameters.temperature = Some(0.9);
        request.parameters.seed = Some(seed);
    }
    Ok(requests)
}

/// Sends each request alone.
async fn ask_alone(target: &Target, requests: Vec<Request>) -> Result<Vec<Known>, SoakError> {
    let mut known = Vec::new();
    for (index, request) in requests.into_iter().enumerate() {
        let (Record { ids: alone, .. }, result) = target.ask(index, &request).await;
        result?;
        known.push(Known { request, alone });
    }
    Ok(known)
}

/// One caller: asks one request after the other.
async fn call_until(
    end: Instant,
    caller: usize,
    target: Target,
    known: Arc<Vec<Known>>,
    tally: Arc<Tally>,
    mut random: StdRng,
    cancel: f64,
) {
    while Instant::now() < end {
        let chosen = &known[random.random_range(0..known.len())];
        let mut request = chosen.request.clone();
        let tokens = u32::try_from(chosen.alone.len()).expect("few");
        request.cancel_after = random.random_bool(cancel).then(|| random.random_range(0..=tokens));
        let (record, result) = target.ask(caller, &request).await;
        tally.tokens.fetch_add(record.ids.len() as u64, Ordering::Relaxed);
        tally.cached_tokens.fetch_add(record.cached_tokens.into(), Ordering::Relaxed);
        let kind = if request.cancel_after.is_some() { &tally.cancelled } else { &tally.completed };
        kind.fetch_add(1, Ordering::Relaxed);
        if let Some(wrong) = judge(chosen, &request, &record, result) {
            tally.wrong.fetch_add(1, Ordering::Relaxed);
            tally.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(wrong);
        }
    }
}

/// What is wrong with an answer, if something is.
fn judge(known: &Known, request: &Request, record: &Record, result: Result<(), TargetError>) -> Option<String> {
    if let Err(error) = result {
        return Some(error.to_string());
    }
    let (alone, ids) = (&known.alone, &record.ids);
    // Whoever gives up has the beginning of the answer.
    let expected = if request.cancel_after.is_some() { alone.get(..ids.len()) } else { Some(&alone[..]) };
    (expected != Some(&ids[..])).then(|| {
        let at = alone.iter().zip(ids).take_while(|(one, other)| one == other).count();
        format!("{} tokens came, {} alone, the first {at} are equal: {:?}", ids.len(), alone.len(), request.parameters)
    })
}

fn resident_mib(args: &SoakArgs) -> Result<Option<u64>, SoakError> {
    let Some(pid) = args.watch else { return Ok(None) };
    let bytes = memory::resident_bytes_of_family(&pid.to_string());
    bytes.map(|bytes| Some(bytes >> 20)).map_err(|source| SoakError::Watch { pid, source })
}

fn report(args: &SoakArgs, tally: &Tally, took: Duration, memory: Option<(u64, u64)>) {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (completed, cancelled, wrong) = (read(&tally.completed), read(&tally.cancelled), read(&tally.wrong));
    let (tokens, cached, seconds) = (read(&tally.tokens), read(&tally.cached_tokens), took.as_secs_f64());
    if args.json {
        let object = json!({
            "duration": seconds, "completed": completed, "cancelled": cancelled, "wrong": wrong,
            "total_output_tokens": tokens, "total_cached_tokens": cached, "resident_mib": memory.map(|(a, b)| [a, b]),
        });
        println!("{object}");
        return;
    }
    println!("{seconds:.0} s: {completed} requests answered, {cancelled} given up, {wrong} wrong;");
    println!("{tokens} tokens, {:.0} a second; {cached} prompt tokens from the cache.", tokens as f64 / seconds);
    if let Some((before, after)) = memory {
        println!("memory: {before} MiB after a fifth of the time, {after} MiB at the end.");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{Parameters, Prompt};

    #[test]
    fn answers_are_held_against_those_alone() {
        let request = |cancel_after| Request {
            prompt: Prompt::Ids(vec![1]),
            parameters: Parameters::default(),
            ignore_eos: true,
            cancel_after,
        };
        let known = Known { request: request(None), alone: vec![1, 2, 3] };
        let judged = |ids: &[u32], cancel_after| {
            let mut record = Record::new();
            record.ids = ids.to_vec();
            judge(&known, &request(cancel_after), &record, Ok(()))
        };
        assert_eq!(judged(&[1, 2, 3], None), None);
        assert_eq!(judged(&[1, 2], Some(2)), None);
        assert_eq!(judged(&[], Some(0)), None);
        for (ids, cancel_after) in
            [(&[1, 2][..], None), (&[1, 3], Some(2)), (&[1, 2, 3, 4], Some(3)), (&[1, 2, 4], None)]
        {
            assert!(judged(ids, cancel_after).is_some(), "{ids:?}");
        }
        let wrong = judged(&[1, 9, 3], None).expect("another token");
        assert!(wrong.starts_with("3 tokens came, 3 alone, the first 1 are equal"), "{wrong}");
        assert!(judge(&known, &known.request, &Record::new(), Err(TargetError::Refused("no".to_owned()))).is_some());
    }
}
