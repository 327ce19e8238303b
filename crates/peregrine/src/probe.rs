//! `peregrine probe`, which `doctor` starts: how long sums over ranks take, by the code that serves. The ranks are threads of a process of its
//! own, so that whatever becomes of it, `doctor` goes on.

use crate::engine_args::{CudaArgs, ranks};
use crate::output::print;
use anyhow::Result;
use backend::{Backend, BackendError, Threads};
use backend_cpu::{Cpu, SharedMemory};
use backend_cuda::{Cuda, CudaOptions};
use clap::{Args, ValueEnum};
use runtime::{CudaSettings, cpu_options};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// Arguments of `peregrine probe`.
#[derive(Args, Debug)]
pub struct ProbeArgs {
    /// Where the ranks are.
    #[arg(long, value_enum)]
    backend: On,
    /// How many.
    #[arg(long, value_name = "N", value_parser = ranks())]
    ranks: u32,
    #[command(flatten)]
    cuda: CudaArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum On {
    Cpu,
    Cuda,
}

/// How long an all-reduce takes, by its size in bytes on each rank.
#[derive(Debug, Serialize, Deserialize)]
pub struct Sums {
    /// Of [`SMALL_BYTES`], in µs.
    pub small_us: f64,
    /// Of [`LARGE_BYTES`], in µs; `None` where it would take too long.
    pub large_us: Option<f64>,
}

/// A row of Falcon-180B is near that, in bf16: what decode sums up.
pub const SMALL_BYTES: usize = 30 << 10;
/// A step of prefill.
pub const LARGE_BYTES: usize = 16 << 20;

const COLUMNS: usize = SMALL_BYTES / size_of::<f32>();
const TIME_LIMIT: Duration = Duration::from_secs(60);
/// How often each is measured; the median counts.
const ROUNDS: usize = 9;
/// Small sums of a round, behind each other, as layers follow each other.
const SMALL_LAUNCHES: usize = 64;
/// Where a small sum takes longer, a large one is not waited for.
const HOPELESS: Duration = Duration::from_millis(5);

/// Measures, and prints JSON.
pub fn run(args: &ProbeArgs) -> Result<()> {
    let ranks = args.ranks as usize;
    let sums = match args.backend {
        On::Cuda => over(Threads::connect(ranks), |rank, end| {
            let mut cuda = cuda(rank, end, &args.cuda.settings())?;
            measure(&mut cuda, ranks, |cuda, work| cuda.time(work))
        }),
        On::Cpu => {
            let memory = SharedMemory::create(ranks)?;
            let threads = (std::thread::available_parallelism().map_or(1, usize::from) / ranks).max(1);
            let join = |rank| SharedMemory::join(&memory, rank, ranks, TIME_LIMIT);
            over((0..ranks).map(join).collect::<Result<Vec<_>, _>>()?, |rank, end| {
                let mut cpu = Cpu::new(&cpu_options(rank, ranks, threads, None), Box::new(end))?;
                measure(&mut cpu, ranks, |cpu, work| {
                    let start = Instant::now();
                    work(cpu).map(|()| start.elapsed())
                })
            })
        }
    };
    print(&(serde_json::to_string(&sums?)? + "\n"))
}

fn cuda(rank: usize, end: Threads, settings: &CudaSettings) -> Result<Cuda, BackendError> {
    let options = CudaOptions { all_reduce: settings.all_reduce, wait_limit: TIME_LIMIT, ..CudaOptions::new(rank) };
    Cuda::new(&options, Box::new(end))
}

/// What rank 0 says, each of them being on a thread of its own.
fn over<C: Send>(
    ends: Vec<C>,
    rank: impl Fn(usize, C) -> Result<Sums, BackendError> + Sync,
) -> Result<Sums, BackendError> {
    let rank = &rank;
    std::thread::scope(|scope| {
        let ranks = ends.into_iter().enumerate();
        let threads: Vec<_> = ranks.map(|(index, end)| scope.spawn(move || rank(index, end))).collect();
        let all = threads.into_iter().map(|thread| thread.join().expect("a rank does not panic"));
        all.collect::<Result<Vec<Sums>, _>>().map(|mut all| all.swap_remove(0))
    })
}

type Work<'a, B> = &'a mut dyn FnMut(&mut B) -> Result<(), BackendError>;

/// Measures on one rank; `time` does work, and says how long it took. All ranks do the same.
fn measure<B: Backend>(
    backend: &mut B,
    ranks: usize,
    time: impl Fn(&mut B, Work<'_, B>) -> Result<Duration, BackendError>,
) -> Result<Sums, BackendError> {
    let sums = |backend: &mut B, bytes: usize, rounds: usize, launches: usize| {
        let rows = (bytes / SMALL_BYTES).max(1);
        let (mut partial, mut x) = (backend.tensor(rows, COLUMNS)?, backend.tensor(rows, COLUMNS)?);
        let zeros = vec![0.0; rows * COLUMNS];
        // The first one makes what all others use.
        let mut times = Vec::with_capacity(rounds + 1);
        for _ in 0..=rounds {
            backend.write(&mut partial, &zeros)?;
            backend.write(&mut x, &zeros)?;
            let mut all =
                |backend: &mut B| (0..launches).try_for_each(|_| backend.all_reduce_add(&mut partial, &mut x));
            times.push(time(backend, &mut all)?.div_f64(launches as f64));
        }
        times.remove(0);
        times.sort_unstable();
        Ok::<_, BackendError>(times[times.len() / 2])
    };
    let once = sums(backend, SMALL_BYTES, 3, 1)?;
    // What all ranks take together: each of them then decides alike.
    let mut shared = backend.tensor(1, COLUMNS)?;
    backend.write(&mut shared, &vec![once.as_secs_f32(); COLUMNS])?;
    backend.all_reduce(&mut shared)?;
    let is_hopeless = backend.read(&shared)?[0] > HOPELESS.as_secs_f32() * ranks as f32;
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    if is_hopeless {
        return Ok(Sums { small_us: micros(once), large_us: None });
    }
    Ok(Sums {
        small_us: micros(sums(backend, SMALL_BYTES, ROUNDS, SMALL_LAUNCHES)?),
        large_us: Some(micros(sums(backend, LARGE_BYTES, ROUNDS, 4)?)),
    })
}
