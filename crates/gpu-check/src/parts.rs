//! The parts of a run, each in a process of its own.

use crate::kernels::KernelRow;
use crate::ranks::RankRow;
use crate::shapes::{SHAPES, TINY};
use crate::{checks, kernels, ranks};
use anyhow::{Context, Result, bail, ensure};
use backend_cuda::{CUBLASLT, LIBRARY_PATH, Libraries};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// After so long a part is ended.
const LIMIT: Duration = Duration::from_secs(900);

/// What a part found.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Found {
    /// What was checked, in a few words.
    pub checked: String,
    /// GB/s of a plain read, where it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plain_read_gbps: Option<f64>,
    /// Rates of kernels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernels: Vec<KernelRow>,
    /// Times of whole ranks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranks: Vec<RankRow>,
}

/// How a part went.
#[derive(Debug, Serialize)]
pub struct Part {
    /// Name of the part, as `--only` takes it.
    pub name: String,
    /// How long it took.
    pub seconds: f64,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// What it found.
    #[serde(flatten)]
    pub found: Found,
}

/// All parts, in order.
fn names(tiny: bool) -> Vec<String> {
    let shapes: Vec<&str> = if tiny { vec![TINY] } else { SHAPES.map(|(name, ..)| name).to_vec() };
    let operations = checks::OPERATIONS.iter().map(|(name, ..)| *name);
    let operations = operations.filter(|name| !tiny || checks::QUICK.contains(name));
    let models = testkit::goldens::MODELS.into_iter().filter(|model| testkit::goldens::has(model)).take(if tiny {
        1
    } else {
        usize::MAX
    });
    let mut names: Vec<String> = operations.map(|name| format!("conformance/{name}")).collect();
    let models: Vec<&str> = models.collect();
    for (kind, of) in [("goldens", &models), ("kernels", &shapes), ("rank", &shapes), ("ranks", &models)] {
        names.extend(of.iter().map(|name| format!("{kind}/{name}")));
    }
    names
}

/// Runs one part, and gives what it found as JSON.
pub fn run(part: &str, tiny: bool) -> Result<String> {
    let found = match part.split_once('/') {
        Some(("conformance", name)) => checks::conformance(name)?,
        Some(("goldens", model)) => checks::golden(model, tiny)?,
        Some(("kernels", shape)) => kernels::measure(shape)?,
        Some(("ranks", model)) => checks::golden_over_ranks(model, tiny)?,
        Some(("rank", shape)) => ranks::measure(shape)?,
        _ => bail!("{part}: there is no such part"),
    };
    Ok(serde_json::to_string(&found)?)
}

/// Runs all parts, or those whose names begin with `only`.
pub fn run_all(tiny: bool, only: Option<&str>) -> Result<Vec<Part>> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let chosen = names(tiny).into_iter().filter(|name| only.is_none_or(|only| name.starts_with(only)));
    let libraries = Libraries::find(&[&CUBLASLT])?;
    let mut parts = Vec::new();
    for name in chosen {
        eprint!("{name} ... ");
        let begun = Instant::now();
        let mut command = Command::new(&program);
        command.args(["--part", &name]).args(tiny.then_some("--tiny"));
        command.envs(libraries.library_path().map(|path| (LIBRARY_PATH, path)));
        let outcome = run_process(&mut command);
        let seconds = begun.elapsed().as_secs_f64();
        let (found, failed) = match outcome {
            Ok(found) => (found, None),
            Err(error) => (Found::default(), Some(format!("{error:#}"))),
        };
        eprintln!("{} in {seconds:.1} s", if failed.is_some() { "FAILED" } else { "passed" });
        parts.push(Part { name, seconds, failed, found });
    }
    ensure!(!parts.is_empty(), "no part has such a name; parts are {}", names(tiny).join(", "));
    Ok(parts)
}

fn run_process(command: &mut Command) -> Result<Found> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let (stdout, stderr) = (reader(stdout), reader(stderr));
    let status = wait(&mut child)?;
    let read = |reader: std::thread::JoinHandle<String>| reader.join().expect("a reader does not panic");
    let (stdout, stderr) = (read(stdout), read(stderr));
    if !status.is_some_and(|status| status.success()) {
        let how = status.map_or_else(|| format!("ended after {LIMIT:?}"), |status| status.to_string());
        let lines: Vec<&str> = stderr.lines().filter(|line| !line.trim().is_empty()).collect();
        // A panic has its message in the line behind, and a backtrace behind that; an error is the last that is said.
        let panic = lines.iter().position(|line| line.contains("panicked at"));
        let said = panic.unwrap_or(lines.len().saturating_sub(4));
        bail!("{how}: {}", lines[said..lines.len().min(said + 4)].join(" | "));
    }
    let last = stdout.lines().last().unwrap_or_default();
    serde_json::from_str(last).with_context(|| format!("what it found: {last}"))
}

/// Reads to the end, however long that is: a pipe that is full would stop its writer.
fn reader(mut from: impl Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is all that there is.
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child) -> Result<Option<std::process::ExitStatus>> {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    child.wait()?;
    Ok(None)
}
