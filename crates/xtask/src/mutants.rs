//! `cargo xtask mutants`: tests of the conformance suite. Each kernel of a list gets a typical bug, is compiled, and takes the
//! place of the one that ships, in the stand-in; some test of the suite must fail then.

mod bugs;

use anyhow::{Context, ensure};
use bugs::{BUGS, Bug};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

/// How the stand-in runs kernels: when asynchronous copies take place, and in which order warps run (0: in that of their
/// numbers).
const MODES: [(&str, &str); 6] =
    [("late", "0"), ("early", "0"), ("late", "1"), ("early", "1"), ("late", "2"), ("early", "2")];

/// A kernel that waits for ever fails then.
const LIMIT_MS: &str = "20000";

/// Breaks each kernel and demands that the suite notices. `--all-modes` goes on after the first mode that does, and counts.
pub fn run(root: &Path, arguments: &[String]) -> anyhow::Result<ExitCode> {
    let all_modes = arguments == ["--all-modes"];
    ensure!(all_modes || arguments.is_empty(), "mutants: there is only --all-modes, found {arguments:?}");
    // This program is in the folder `release` of it.
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(2).context("a program of cargo's lies in a target folder")?;
    let compiled = compile(root, target)?;
    let mut missed = 0;
    // What fails without a bug finds none.
    let mut tests: Vec<&str> = BUGS.iter().map(|bug| bug.test).collect();
    tests.sort_unstable();
    tests.dedup();
    for test in tests {
        ensure!(suite(root, test, MODES[0], None)?.is_none(), "{test} fails without a bug");
    }
    for (bug, ptx) in BUGS.iter().zip(&compiled) {
        let start = Instant::now();
        let mut found = Vec::new();
        for mode in MODES {
            found.extend(suite(root, bug.test, mode, Some(ptx))?.map(|why| (mode, why)));
            if !found.is_empty() && !all_modes {
                break;
            }
        }
        missed += usize::from(found.is_empty());
        let outcome = if found.is_empty() { "MISSED" } else { "caught" };
        let modes = if all_modes { format!("in {} of {} modes, ", found.len(), MODES.len()) } else { String::new() };
        let ((copies, seed), why) = found.first().map_or((("", ""), ""), |(mode, why)| (*mode, why));
        let seconds = start.elapsed().as_secs_f32();
        println!(
            "{outcome} {modes}{seconds:4.1} s  {}: {}\n    {} {copies} {seed}: {why}",
            bug.class, bug.what, bug.test
        );
    }
    println!("mutants: {} bugs, {missed} missed", BUGS.len());
    Ok(if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Plants each bug in a copy of the kernels, and compiles it. Returns where the PTX is.
fn compile(root: &Path, target: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut sources = Vec::new();
    for (index, bug) in BUGS.iter().enumerate() {
        let to = target.join("mutants").join(index.to_string());
        std::fs::create_dir_all(&to)?;
        for file in std::fs::read_dir(root.join("kernels"))? {
            let path = file?.path();
            if path.is_file() {
                let text = std::fs::read_to_string(&path)?;
                let name = path.file_name().context("a file has a name")?;
                let text = if name == bug.file { planted(bug, &text)? } else { text };
                std::fs::write(to.join(name), text)?;
            }
        }
        sources.push(to.join(format!("{}.cu", bug.kernels)));
    }
    let cache = target.join("cuda-compilers");
    let mut command = Command::new(root.join("scripts/build-kernels"));
    let status = command.arg("--cache").arg(cache).arg("--ptx").args(&sources).status().context("build-kernels")?;
    ensure!(status.success(), "the kernels with bugs could not be compiled");
    Ok(sources.into_iter().map(|source| source.with_extension("ptx")).collect())
}

/// The source with the bug.
fn planted(bug: &Bug, text: &str) -> anyhow::Result<String> {
    ensure!(
        text.contains(bug.from),
        "{}: `{}` is not there any more; adapt the bug \"{}\"",
        bug.file,
        bug.from,
        bug.what
    );
    Ok(text.replacen(bug.from, bug.to, 1))
}

/// Runs tests of the suite, with other kernels; what the first that fails says.
fn suite(root: &Path, test: &str, (copies, seed): (&str, &str), ptx: Option<&Path>) -> anyhow::Result<Option<String>> {
    let mut command = Command::new("cargo");
    command.args(["test", "--quiet", "--release", "--package", "backend-cuda", "--test", "it", "--", "--exact", test]);
    command.env("CUDA_STANDIN_COPIES", copies).env("CUDA_STANDIN_SEED", seed).env("CUDA_STANDIN_LIMIT_MS", LIMIT_MS);
    command.envs(ptx.map(|path| ("CUDA_STANDIN_PTX", path))).env("RUST_BACKTRACE", "0");
    let output = command.current_dir(root).stdin(Stdio::null()).output().context("cargo test")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        ensure!(text.contains("1 passed"), "there is no test {test}:\n{text}");
        return Ok(None);
    }
    let failed = text.contains("1 failed") || output.status.code().is_none();
    ensure!(failed, "the tests could not be run:\n{text}");
    let mut lines = text.lines().skip_while(|line| !line.contains("panicked at")).skip(1);
    Ok(Some(lines.next().unwrap_or("the process died").chars().take(150).collect()))
}
