//! Checks and measures the CUDA backend on the machine's own GPU: conformance, goldens on one rank, the rate of each kernel
//! beside that of a plain read in the same run, and whole ranks with random weights.
//!
//! Each part runs in a process of its own, so that one that breaks the device spoils no other, and no part runs for ever.

#![forbid(unsafe_code)]

mod checks;
mod kernels;
mod parts;
mod ranks;
mod report;
mod shapes;

use anyhow::{Context, Result};
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;

/// Checks and measures the CUDA backend on this machine's GPU.
#[derive(Parser)]
#[command(max_term_width = 100)]
struct Cli {
    /// Where gpu-check.json and gpu-check.md go.
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// Small shapes and few checks: to try this program itself, over the stand-in. Its times mean nothing.
    #[arg(long)]
    tiny: bool,
    /// Only parts whose names begin so, as in `goldens/` or `kernels/180b`.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Run one part, in this process, and print its result as JSON.
    #[arg(long, hide = true)]
    part: Option<String>,
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    if let Some(part) = &cli.part {
        println!("{}", parts::run(part, cli.tiny)?);
        return Ok(ExitCode::SUCCESS);
    }
    let report = report::Report::new(cli.tiny, parts::run_all(cli.tiny, cli.only.as_deref())?)?;
    std::fs::create_dir_all(&cli.out).with_context(|| format!("--out {}", cli.out.display()))?;
    for (name, text) in [("gpu-check.json", report.json()?), ("gpu-check.md", report.markdown())] {
        let path = cli.out.join(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        println!("{}", path.display());
    }
    Ok(if report.all_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
