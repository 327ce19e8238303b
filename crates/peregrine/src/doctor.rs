//! `peregrine doctor`: what a machine is, and whether it can run a model. Nothing is loaded.

mod check;
mod container;
mod disk;
mod gpus;
mod host;
mod measure;
mod model;
mod nvml;

use crate::engine_args::SizeArgs;
use crate::hub_args::HubArgs;
use crate::output::print;
use crate::units::gb;
use anyhow::Result;
use backend_cuda::SYSFS;
use check::{Check, Verdict};
use clap::{Args, ValueEnum, value_parser};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const AFTER_HELP: &str = "\
Every problem is reported, with what would fix it; the exit code is 1 if there is one. What only makes the model slower is a \
warning. Sums over the ranks are measured by ranks of their own, which are started for it and take some seconds, memory and disk by \
reading; --no-measure leaves that out, as beside a server that runs. Without --strict, missing peer access between GPUs, and a missing cuBLASLt or NCCL, are warnings: another all-reduce is \
used then. No model is loaded, and no weight is looked at, but those of an output projection that is tied to the embedding table and \
stored beside it.";

/// What to check.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct DoctorArgs {
    /// The model: a folder, of which config.json and the files' headers are read, ORG/NAME[@REVISION] of the Hugging Face hub,
    /// of which nothing large is downloaded, or a JumpStart id.
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    #[command(flatten)]
    hub: HubArgs,
    /// Where the model is to run.
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    backend: Backend,
    /// Ranks. If not given: one for each GPU, or one on CPUs.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=64))]
    tensor_parallel: Option<u32>,
    #[command(flatten)]
    sizes: SizeArgs,
    /// Require peer access between the GPUs, cuBLASLt and NCCL.
    #[arg(long)]
    strict: bool,
    /// Only look: do not measure all-reduce, memory and disk.
    #[arg(long)]
    no_measure: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Where the files of limits are: /proc and /sys.
    #[arg(long, hide = true, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Where Linux describes the machine.
    #[arg(long, hide = true, value_name = "DIR", default_value = SYSFS)]
    sysfs: PathBuf,
}

/// Where the model is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Backend {
    /// As `peregrine serve` would choose.
    Auto,
    /// CPUs.
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
}

/// All that was found. The keys of its JSON stay.
#[derive(Debug, Serialize)]
struct Report {
    /// There is no problem.
    ready: bool,
    /// Where the model would run: `cuda` or `cpu`.
    backend: &'static str,
    tensor_parallel: usize,
    /// The CUDA version of the driver, if there is one.
    driver: Option<String>,
    gpus: Vec<gpus::Gpu>,
    /// Every GPU reaches the memory of every other that a rank has; `None` where that was not asked.
    peers: Option<bool>,
    libraries: Vec<gpus::FoundLibrary>,
    cpu: host::Cpu,
    /// Bytes of the host's memory that may still be taken.
    memory_available_bytes: u64,
    huge_pages: host::HugePages,
    limits: host::Limits,
    model: Option<model::Model>,
    /// What passes, warns or fails, each with its remedy. Those that fail are among the problems, too, and those that warn among the warnings.
    checks: Vec<Check>,
    /// What stands in the way.
    problems: Vec<String>,
    /// What makes it slower.
    warnings: Vec<String>,
}

/// Prints what is found.
pub fn run(args: &DoctorArgs) -> Result<ExitCode> {
    let report = examine(args);
    let code = if report.ready { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if args.json {
        print(&(serde_json::to_string_pretty(&report)? + "\n"))?;
        return Ok(code);
    }
    print(&text(&report))?;
    for problem in &report.problems {
        crate::log::say(&format!("error: {problem}"));
    }
    Ok(code)
}

/// What is to be known of how the system reads ahead on the disk of a model's folder; nothing if all is well.
pub fn read_ahead(dir: &Path) -> Option<String> {
    let checks = disk::look(dir, Path::new(SYSFS), false);
    checks.iter().find(|check| check.verdict != Verdict::Pass).map(Check::to_string)
}

fn examine(args: &DoctorArgs) -> Report {
    let mut found = gpus::look(args);
    let host = host::look();
    let uses_gpus = match args.backend {
        Backend::Cpu => false,
        Backend::Cuda => true,
        Backend::Auto => found.usable,
    };
    let (mut problems, mut warnings) = (host.problems, host.warnings);
    match (args.backend, found.usable) {
        (Backend::Cuda, false) => problems.append(&mut found.problems),
        (Backend::Auto, false) => {
            warnings.extend(found.problems.drain(..).map(|why| format!("the model would run on the CPUs: {why}")));
        }
        _ => {}
    }
    if uses_gpus {
        let told = if args.strict { &mut problems } else { &mut warnings };
        told.append(&mut found.slower);
    }
    let backend = if uses_gpus { "cuda" } else { "cpu" };
    let on_cpus = args.tensor_parallel.map_or(1, |ranks| ranks as usize);
    let tensor_parallel = if uses_gpus { found.ranks } else { on_cpus };
    // Where the GPUs will not do, what they could hold is not known.
    let machine = if uses_gpus && !found.usable { None } else { Some(backend) };
    let mut dir = None;
    let model = args.model.as_ref().map(|model| {
        let looked = model::look(args, model, machine, tensor_parallel);
        dir = looked.dir;
        problems.extend(looked.problems);
        warnings.extend(looked.warnings);
        looked.model
    });
    let gpu = found.gpus.first().filter(|_| uses_gpus && found.usable).map(|gpu| gpu.name.as_str());
    let checks = checks(args, dir.as_deref(), uses_gpus, gpu, tensor_parallel);
    for check in &checks {
        match check.verdict {
            Verdict::Pass => {}
            Verdict::Warn => warnings.push(check.to_string()),
            Verdict::Fail => problems.push(check.to_string()),
        }
    }
    Report {
        ready: problems.is_empty(),
        backend,
        tensor_parallel,
        driver: found.driver,
        gpus: found.gpus,
        peers: found.peers,
        libraries: found.libraries,
        cpu: host.cpu,
        memory_available_bytes: runtime::available_bytes(),
        huge_pages: host.huge_pages,
        limits: host.limits,
        model,
        checks,
        problems,
        warnings,
    }
}

/// All lines with a verdict. `dir`: the model's folder, if there is one; `gpu`: what the first is called, if ranks can use them.
fn checks(args: &DoctorArgs, dir: Option<&Path>, uses_gpus: bool, gpu: Option<&str>, ranks: usize) -> Vec<Check> {
    let measures = !args.no_measure;
    // Where they cannot be used, NVML may know why.
    let has_gpus = uses_gpus || (args.backend == Backend::Auto && runtime::gpu_traces().is_some());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if uses_gpus { 1 } else { (cores / ranks).max(1) };
    let mut checks = if has_gpus { nvml::look(args.strict) } else { Vec::new() };
    checks.extend(container::look(&args.root, &container::Needs { ranks, on_gpus: uses_gpus, threads }));
    if let Some(dir) = dir {
        checks.extend(disk::look(dir, &args.sysfs, measures));
    }
    if measures {
        checks.push(measure::memory_read());
        // Ranks that cannot be would only say so once more.
        if ranks > 1 && (gpu.is_some() || !uses_gpus) {
            checks.push(measure::all_reduce(gpu, ranks));
        }
    }
    checks
}

fn text(report: &Report) -> String {
    let mut lines: Vec<(String, String)> = Vec::new();
    let mut say = |label: &str, text: String| lines.push((label.to_owned(), text));
    if let Some(driver) = &report.driver {
        say("driver", format!("CUDA {driver}"));
    }
    for gpu in &report.gpus {
        say(&format!("GPU {}", gpu.ordinal), gpu.to_string());
    }
    if report.peers == Some(true) {
        say("peers", "every GPU reaches the memory of every other".to_owned());
    }
    for library in &report.libraries {
        say(library.name, library.path.clone().unwrap_or_else(|| "missing".to_owned()));
    }
    say("CPU", report.cpu.to_string());
    say("memory", format!("{} GB available", gb(report.memory_available_bytes)));
    say("huge pages", report.huge_pages.to_string());
    say("limits", report.limits.to_string());
    if let Some(model) = &report.model {
        say("model", model.to_string());
    }
    say("ranks", format!("{} on {}", report.tensor_parallel, if report.backend == "cuda" { "GPUs" } else { "CPUs" }));
    for check in &report.checks {
        let verdict = match check.verdict {
            Verdict::Pass => "ok",
            Verdict::Warn => "warning",
            Verdict::Fail => "FAILS",
        };
        say(verdict, check.to_string());
    }
    let is_told = |warning: &&String| report.checks.iter().any(|check| check.to_string() == **warning);
    for warning in report.warnings.iter().filter(|warning| !is_told(warning)) {
        say("warning", warning.clone());
    }
    let lines: String = lines.iter().map(|(label, text)| format!("{label:<12}{text}\n")).collect();
    lines + if report.ready { "ready\n" } else { "" }
}
