//! `cargo xtask goldens`: every golden of every model, through real worker processes.

use anyhow::{Context, bail};
use std::path::Path;
use std::process::{Command, ExitCode};

/// Runs the goldens tests in their full extent: all models and cases, degrees 1, 2, 4 and 8, both backends of the CPU with
/// every instruction set that it has, and cuda over the stand-in by every way of sums over ranks.
pub fn run(root: &Path, arguments: &[String]) -> anyhow::Result<ExitCode> {
    if let Some(argument) = arguments.iter().find(|argument| *argument != "--all") {
        bail!("goldens: unknown argument {argument}; there is only --all, which is the default");
    }
    let status = Command::new("cargo")
        .args(["test", "--release", "--package", "peregrine", "--test", "engine", "--", "--nocapture"])
        .env("PEREGRINE_GOLDENS", "all")
        .current_dir(root)
        .status()
        .context("cargo test")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
