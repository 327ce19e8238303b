//! `peregrine bench soak`: many different requests at once, some of them cancelled, for long. Every answer must be the one
//! that its request gets alone, and memory must not grow.

use crate::dataset::{Dataset, DatasetError, Request};
use crate::processes;
use crate::serve::Ended;
use crate::target::{Dialect, Record, Target, TargetError, TargetOptions};
use fastrand::Rng;
use serde_json::json;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// What is asked of which server, and for how long.
#[derive(Clone, Debug)]
pub struct SoakOptions {
    /// The server, as `HOST:PORT` or URL.
    pub address: String,
    /// For how long.
    pub duration: Duration,
    /// Requests at once.
    pub concurrency: u32,
    /// How many requests differ; each is first sent alone.
    pub requests: usize,
    /// What is asked; half of the requests are sampled, the others greedy.
    pub datasets: Vec<Dataset>,
    /// The share of requests that are cancelled.
    pub cancel: f64,
    /// A process whose memory is watched, with its children.
    pub watch: Option<u32>,
    /// By how many MiB the watched memory may grow, from a fifth of the time to its end.
    pub growth_max: u32,
    /// Seed of requests, choices and cancels.
    pub seed: u64,
    /// Print one JSON object and nothing else.
    pub json: bool,
}

/// Why a soak did not pass.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
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
        pid: u32,
        /// Why its memory is not known.
        source: io::Error,
    },
    /// What was seen cannot be printed.
    #[error("cannot write to the standard output")]
    Print(#[source] io::Error),
    /// A request failed, or was answered otherwise than alone.
    #[error("{count} requests went wrong (seed {seed}), the first: {first}")]
    Wrong {
        /// The number of such requests.
        count: u64,
        /// The seed of the run.
        seed: u64,
        /// What happened to the first.
        first: String,
    },
    /// Memory grew.
    #[error("memory grew from {from} to {to} MiB, more than --growth-max {limit}")]
    Grew {
        /// MiB after a fifth of the time.
        from: u64,
        to: u64,
        limit: u32,
    },
}

/// A request without an end fails after this time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(600);

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

/// Runs the soak and prints what it saw to `out`. When `interrupted` resolves, it ends early, and says nothing of memory.
///
/// # Errors
///
/// [`SoakError`], also when an answer was wrong or memory grew.
pub async fn run(
    options: &SoakOptions,
    out: &mut dyn Write,
    interrupted: impl Future<Output = u8>,
) -> Result<Ended, SoakError> {
    let (tally, start) = (Arc::new(Tally::default()), Instant::now());
    let (ended, memory) = tokio::select! {
        memory = load(options, &tally) => (Ended::Complete, memory?),
        reason = interrupted => (Ended::Interrupted(reason), None),
    };
    let report = report(options, &tally, start.elapsed(), memory);
    out.write_all(report.as_bytes()).and_then(|()| out.flush()).map_err(SoakError::Print)?;
    let count = tally.wrong.load(Ordering::Relaxed);
    if count > 0 {
        let first = tally.first.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        return Err(SoakError::Wrong { count, seed: options.seed, first });
    }
    match memory {
        Some((from, to)) if to > from + u64::from(options.growth_max) => {
            Err(SoakError::Grew { from, to, limit: options.growth_max })
        }
        _ => Ok(ended),
    }
}

/// Sends the requests, and returns the watched memory in MiB after a fifth of the time and at the end.
async fn load(options: &SoakOptions, tally: &Arc<Tally>) -> Result<Option<(u64, u64)>, SoakError> {
    let connections = options.concurrency.div_ceil(64) as usize;
    let target = TargetOptions {
        address: options.address.clone(),
        dialect: Dialect::Grpc,
        model: None,
        api_key: None,
        ca: None,
        stream: true,
        limit: REQUEST_TIMEOUT,
    };
    let target = Target::connect(&target, connections).await?;
    let known = Arc::new(ask_alone(&target, requests(options, &target).await?).await?);
    let end = Instant::now() + options.duration;
    let mut tasks = JoinSet::new();
    for caller in 0..options.concurrency {
        let (target, known, tally) = (target.clone(), known.clone(), tally.clone());
        let (random, cancel) = (Rng::with_seed(options.seed ^ (u64::from(caller) << 32)), options.cancel);
        tasks.spawn(call_until(end, caller as usize, target, known, tally, random, cancel));
    }
    tokio::time::sleep(options.duration / 5).await;
    let before = resident_mib(options)?;
    while tasks.join_next().await.is_some() {}
    Ok(before.zip(resident_mib(options)?))
}

async fn requests(options: &SoakOptions, target: &Target) -> Result<Vec<Request>, SoakError> {
    let vocabulary = target.vocabulary().await?;
    let each = options.requests.div_ceil(options.datasets.len());
    let mut requests = Vec::new();
    for dataset in &options.datasets {
        requests.extend(dataset.load()?.requests(each, &vocabulary, options.seed, 0));
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
    mut random: Rng,
    cancel: f64,
) {
    while Instant::now() < end {
        let chosen = &known[random.usize(0..known.len())];
        let mut request = chosen.request.clone();
        let tokens = u32::try_from(chosen.alone.len()).expect("few");
        request.cancel_after = (random.f64() < cancel).then(|| random.u32(0..=tokens));
        let (record, result) = target.ask(caller, &request).await;
        tally.tokens.fetch_add(record.ids.len() as u64, Ordering::Relaxed);
        tally.cached_tokens.fetch_add(record.counts.cached_tokens.unwrap_or(0).into(), Ordering::Relaxed);
        let wrong = judge(chosen, &request, &record, result);
        let kind = match (&wrong, request.cancel_after) {
            (Some(_), _) => &tally.wrong,
            (None, Some(_)) => &tally.cancelled,
            (None, None) => &tally.completed,
        };
        kind.fetch_add(1, Ordering::Relaxed);
        if let Some(wrong) = wrong {
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
    // A cancelled request has the beginning of the answer.
    let expected = if request.cancel_after.is_some() { alone.get(..ids.len()) } else { Some(&alone[..]) };
    (expected != Some(&ids[..])).then(|| {
        let at = alone.iter().zip(ids).take_while(|(one, other)| one == other).count();
        format!("{} tokens came, {} alone, the first {at} are equal: {:?}", ids.len(), alone.len(), request.parameters)
    })
}

fn resident_mib(options: &SoakOptions) -> Result<Option<u64>, SoakError> {
    let Some(pid) = options.watch else { return Ok(None) };
    let bytes = processes::resident_bytes_of_family(&pid.to_string());
    bytes.map(|bytes| Some(bytes >> 20)).map_err(|source| SoakError::Watch { pid, source })
}

fn report(options: &SoakOptions, tally: &Tally, took: Duration, memory: Option<(u64, u64)>) -> String {
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (completed, cancelled, wrong) = (read(&tally.completed), read(&tally.cancelled), read(&tally.wrong));
    let (tokens, cached, seconds) = (read(&tally.tokens), read(&tally.cached_tokens), took.as_secs_f64());
    if options.json {
        let object = json!({
            "duration": seconds, "completed": completed, "cancelled": cancelled, "wrong": wrong,
            "total_output_tokens": tokens, "total_cached_tokens": cached, "resident_mib": memory.map(|(a, b)| [a, b]),
        });
        return format!("{object}\n");
    }
    let rate = tokens as f64 / seconds;
    let memory = memory.map_or_else(String::new, |(before, after)| {
        format!("memory: {before} MiB after a fifth of the time, {after} MiB at the end\n")
    });
    format!(
        "{seconds:.0} s: {completed} requests completed, {cancelled} cancelled, {wrong} wrong\n\
         {tokens} output tokens, {rate:.0} a second; {cached} prompt tokens from the prefix cache\n{memory}"
    )
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
            let mut record = Record::new(None);
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
        assert!(judge(&known, &known.request, &Record::new(None), Err(TargetError::Broken("no".to_owned()))).is_some());
    }
}
