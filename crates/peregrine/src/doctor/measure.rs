//! What is measured: sums over the ranks, and the rate at which the CPUs read memory.

use super::check::Check;
use crate::engine_args::program;
use crate::probe::{LARGE_BYTES, SMALL_BYTES, Sums};
use anyhow::{Context, Result, bail, ensure};
use runtime::CudaSettings;
use sizing::NODES;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the probe may take: contexts on eight GPUs, and kernels that are compiled for the first time.
const PROBE_LIMIT: Duration = Duration::from_secs(180);
/// Slower than what such a node should give by this factor, and by this time, is told.
const FACTOR: f64 = 2.0;
const SLACK_US: f64 = 10.0;
/// Sums over shared memory take some µs where every rank has a core.
const CPU_SMALL_US: f64 = 1_000.0;
/// What each thread reads.
const MEMORY_BYTES_PER_THREAD: u64 = 256 << 20;
/// Less than a single channel of memory has.
const MEMORY_GBPS_LEAST: f64 = 5.0;

/// How fast all cores read memory together.
pub(super) fn memory_read() -> Check {
    const NAME: &str = "memory read";
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // Half of the memory that is left, at most.
    let threads = cores.min((runtime::available_bytes() / (2 * MEMORY_BYTES_PER_THREAD)) as usize).max(1);
    let rates = match backend_cpu::probe::read_bytes_per_s(threads) {
        Ok(rates) => rates,
        Err(error) => return Check::warn(NAME, format!("not measured: {error}"), "free some memory"),
    };
    let gbps = rates.into_iter().fold(0.0, f64::max) / 1e9;
    let found = format!("{gbps:.1} GB/s by {threads} threads");
    if gbps < MEMORY_GBPS_LEAST {
        return Check::warn(
            NAME,
            found,
            "see what else runs (top), and whether the container may use all of its cores",
        );
    }
    Check::pass(NAME, found)
}

/// How long sums over `ranks` ranks take, beside what GPUs of that name should give.
pub(super) fn all_reduce(gpu: Option<&str>, ranks: usize) -> Check {
    const NAME: &str = "all-reduce";
    let backend = if gpu.is_some() { "cuda" } else { "cpu" };
    match probe(backend, ranks) {
        Ok(sums) => judge(NAME, gpu, ranks, &sums),
        Err(error) => {
            let remedy = match gpu {
                Some(_) => "see the lines about NVLink, NCCL and peers; nvidia-smi: does another program use the GPUs?",
                None => "see the limits of memory and threads",
            };
            Check::fail(NAME, format!("over {ranks} ranks: {error:#}"), remedy)
        }
    }
}

fn judge(name: &'static str, gpu: Option<&str>, ranks: usize, sums: &Sums) -> Check {
    let rate = |us: f64| LARGE_BYTES as f64 / us / 1e3;
    let large = sums.large_us.map(|us| format!(", 16 MB in {us:.0} µs ({:.1} GB/s)", rate(us)));
    let found = format!("over {ranks} ranks: 30 KB in {:.1} µs{}", sums.small_us, large.unwrap_or_default());
    let Some(gpu) = gpu else {
        let remedy = "give each rank a core of its own, and end what else runs";
        let is_slow = sums.small_us > CPU_SMALL_US;
        return if is_slow { Check::warn(name, found, remedy) } else { Check::pass(name, found) };
    };
    // By the model of the GPU; the table is of eight.
    let Some(node) = NODES.iter().find(|node| node.gpus > 1 && node.gpu.is_called(gpu)) else {
        return Check::pass(name, format!("{found}; what such GPUs should give is not known"));
    };
    let expected = |bytes: usize| node.gpu.link.all_reduce_seconds(ranks, bytes as u64) * 1e6;
    let (small, large) = (expected(SMALL_BYTES), expected(LARGE_BYTES));
    let is_slow = |us: f64, expected: f64| us > FACTOR * expected + SLACK_US;
    let told = format!("{found}; expected {small:.1} µs and {large:.0} µs ({:.1} GB/s)", rate(large));
    if is_slow(sums.small_us, small) || sums.large_us.is_none_or(|us| is_slow(us, large)) {
        let remedy = "see the lines about NVLink, clocks and peers; does another program use the GPUs (nvidia-smi)?";
        return Check::warn(name, told, remedy);
    }
    Check::pass(name, told)
}

/// The probe in a process of its own, which is ended when it takes too long.
fn probe(backend: &str, ranks: usize) -> Result<Sums> {
    let mut command = Command::new(program()?);
    command.args(["probe", "--backend", backend, "--ranks", &ranks.to_string()]);
    // Its libraries' folder must be there as long as it runs.
    let mut _keep = None;
    if backend == "cuda" {
        let (variables, keep) = runtime::cuda_environment(ranks, &CudaSettings::default())?;
        command.envs(variables);
        _keep = Some(keep);
    }
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("a process to measure with")?;
    let (status, said, errors) = finish(child)?;
    ensure!(status, "{}", errors.lines().next_back().unwrap_or("the process that measures ended without a word"));
    serde_json::from_str(&said).context("what was measured")
}

/// Waits for the end: whether it succeeded, and what it wrote to both outputs.
fn finish(mut child: Child) -> Result<(bool, String, String)> {
    let (mut out, mut err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    // So that it is never held up by what it writes.
    let errors = std::thread::spawn(move || read(&mut err));
    let said = std::thread::spawn(move || read(&mut out));
    let start = Instant::now();
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if start.elapsed() > PROBE_LIMIT => {
                child.kill()?;
                child.wait()?;
                bail!("it has not ended within {} s", PROBE_LIMIT.as_secs());
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let text = |thread: std::thread::JoinHandle<String>| thread.join().unwrap_or_default();
    Ok((status.success(), text(said), text(errors)))
}

fn read(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    // What there is until an error is told.
    let _ = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::check::Verdict;
    use super::*;

    #[test]
    fn sums_are_held_to_what_such_gpus_give() {
        let of = |gpu, small_us, large_us| judge("all-reduce", gpu, 8, &Sums { small_us, large_us });
        let a100 = Some("NVIDIA A100-SXM4-80GB");
        let good = of(a100, 9.0, Some(230.0));
        assert_eq!(good.verdict, Verdict::Pass, "{good}");
        assert!(good.found.contains("30 KB in 9.0 µs, 16 MB in 230 µs (72.9 GB/s); expected 7.1 µs"), "{good}");
        for slow in [of(a100, 60.0, Some(230.0)), of(a100, 9.0, Some(2000.0)), of(a100, 9.0, None)] {
            assert_eq!(slow.verdict, Verdict::Warn, "{slow}");
        }
        assert_eq!(of(Some("NVIDIA B200"), 60.0, None).verdict, Verdict::Pass, "nothing is known of it");
        assert_eq!(of(None, 60.0, Some(9000.0)).verdict, Verdict::Pass);
        assert_eq!(of(None, 6000.0, None).verdict, Verdict::Warn);
    }
}
