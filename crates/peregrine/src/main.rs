//! The `peregrine` command: runs Falcon language models over tensor-parallel workers.
//!
//! The only place that reads arguments, handles signals and prints; what runs a model is assembled by `runtime`.

#![deny(clippy::print_stdout, clippy::print_stderr)]
#![deny(unsafe_code)]

mod access;
mod benchmarks;
mod chat;
mod client;
mod ctl;
mod doctor;
mod download;
mod endpoint;
mod engine_args;
mod generate;
mod heap;
mod hub_args;
mod input;
mod log;
mod output;
mod parameters;
mod plan;
mod probe;
mod profiles;
mod progress;
mod serve;
mod settings;
mod shard;
mod signals;
mod stream;
mod supervisor;
mod threads;
mod units;
mod watermark_detect;
mod worker;

use anyhow::{Context, Result, ensure};
use clap::error::ErrorKind;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use settings::{ConfigArgs, Settings, show};
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Runs Falcon language models over tensor-parallel workers.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// File with values of flags, in TOML. Variables PEREGRINE_FLAG go before it, and the command line before both.
    #[arg(id = settings::CONFIG, long = settings::CONFIG, global = true, value_name = "FILE")]
    _config: Option<std::path::PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a model over gRPC and HTTP.
    Serve(serve::ServeArgs),
    /// Continue a prompt, on a running server or on workers started for this call.
    Generate(generate::GenerateArgs),
    /// Talk with a model, on a running server or on workers started for this call.
    Chat(chat::ChatArgs),
    /// Show what a running server does, or let it take no more requests.
    Ctl(ctl::CtlArgs),
    /// Download a model from the Hugging Face hub, and print its folder.
    Download(download::DownloadArgs),
    /// Show how a model is sharded over a machine's GPUs or CPUs, and whether it fits.
    Plan(plan::PlanArgs),
    /// Measure throughput and latency.
    Bench(benchmarks::BenchArgs),
    /// Check whether this machine can run a model, and report every problem.
    Doctor(doctor::DoctorArgs),
    /// Show what holds for each flag of `serve`, and from where: command line, variable, file or default.
    Config(ConfigArgs),
    /// Cut a model for its workers: a file for each, which it reads once and in order.
    Shard(shard::ShardArgs),
    /// Detect the watermark in a text.
    WatermarkDetect(watermark_detect::WatermarkDetectArgs),
    /// Run one rank; started by `serve`, `generate` and `chat`, which speak to it over its standard input.
    #[command(hide = true)]
    Worker(worker::WorkerArgs),
    /// Measure all-reduces; started by `doctor`.
    #[command(hide = true)]
    Probe(probe::ProbeArgs),
}

/// What PEREGRINE_LOG asks for, or else `level`.
fn log_filter(level: &str) -> Result<EnvFilter> {
    let asked = std::env::var("PEREGRINE_LOG").unwrap_or_default();
    for part in asked.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        // Any other word is taken for the name of a module, whose messages alone would be seen.
        let is_word = !part.contains(['=', '[']);
        ensure!(
            !is_word || part.parse::<LevelFilter>().is_ok(),
            "{part:?} is no level; there are off, error, warn, info, debug and trace, for a module as in server=debug"
        );
    }
    let filter = EnvFilter::try_new(if asked.trim().is_empty() { level } else { &asked })?;
    // What ranks say has been filtered by them.
    Ok(filter.add_directive("rank=trace".parse()?))
}

/// From here on there is a log. A worker's goes to its coordinator, which knows the time and the lines' target.
fn start_log(command: &Command) -> Result<()> {
    log::report_panics();
    let level =
        if matches!(command, Command::Serve(_) | Command::Download(_) | Command::Shard(_)) { "info" } else { "warn" };
    let filter = log_filter(level).context("PEREGRINE_LOG")?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_target(false);
    // To report that the log cannot be written would mean to write to it, or to panic.
    let log = log.with_writer(|| log::Writer).log_internal_errors(false);
    match command {
        Command::Serve(args) if args.log_format == serve::LogFormat::Json => log.json().flatten_event(true).init(),
        Command::Worker(_) => log.with_ansi(false).without_time().init(),
        _ => log.with_ansi(std::io::stderr().is_terminal()).init(),
    }
    Ok(())
}

/// The command line, with what variables and a file add to it.
fn parse() -> (Cli, Settings, ArgMatches) {
    let mut program = Cli::command();
    let resolved = settings::resolve(&program, std::env::args_os().collect(), std::env::vars_os().collect());
    let (arguments, settings) =
        resolved.unwrap_or_else(|error| program.error(ErrorKind::InvalidValue, format!("{error:#}")).exit());
    let parsed = program.try_get_matches_from(arguments);
    let parsed = parsed.and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (cli, matches) = parsed.unwrap_or_else(|error| {
        if error.use_stderr() {
            settings.behind(&error).iter().for_each(|origin| log::say(origin));
            log::flush();
        }
        error.exit()
    });
    (cli, settings, matches)
}

fn main() -> ExitCode {
    let (cli, settings, matches) = parse();
    let code = start_log(&cli.command).and_then(|()| run(cli.command, &settings, &matches)).unwrap_or_else(|error| {
        log::say(&format!("error: {error:#}"));
        ExitCode::FAILURE
    });
    log::flush();
    code
}

fn run(command: Command, settings: &Settings, matches: &ArgMatches) -> Result<ExitCode> {
    settings.log();
    weights::report_faults(wire::FILE_FAULT_EXIT_CODE).context("a handler for SIGBUS")?;
    match command {
        Command::Serve(args) => serve::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Chat(args) => chat::run(args),
        Command::Ctl(args) => ctl::run(args),
        Command::Download(args) => download::run(&args),
        Command::Plan(args) => plan::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Bench(args) => benchmarks::run(args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Config(args) => show(&args, settings, matches).map(|()| ExitCode::SUCCESS),
        Command::Shard(args) => shard::run(&args).map(|()| ExitCode::SUCCESS),
        Command::WatermarkDetect(args) => watermark_detect::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Worker(args) => worker::run(args).map(|()| ExitCode::SUCCESS),
        Command::Probe(args) => probe::run(&args).map(|()| ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The flags of a table's first column.
    fn documented(text: &str) -> BTreeSet<String> {
        let first_columns = text.lines().filter_map(|line| line.strip_prefix("| `--")?.split(" | ").next());
        let flags = first_columns.flat_map(|column| column.split("`--").collect::<Vec<_>>());
        flags.filter_map(|flag| flag.split(['`', ' ']).next().map(str::to_owned)).collect()
    }

    /// docs/flags.md has a section for each command, and one for what several share.
    #[test]
    fn every_flag_is_documented_and_every_documented_flag_exists() {
        let text = include_str!("../../../docs/flags.md");
        let shared = documented(text.split("## ").nth(1).expect("the shared section"));
        let cli = Cli::command();
        let mut shared_left = shared.clone();
        for name in ["serve", "generate", "chat", "ctl", "download", "plan", "doctor", "shard", "watermark-detect"] {
            let section = text.split("## ").find(|section| section.starts_with(&format!("`{name}`")));
            let documented = documented(section.unwrap_or_else(|| panic!("docs/flags.md has no section `{name}`")));
            let command = cli.find_subcommand(name).expect("a subcommand");
            let visible = command.get_arguments().filter(|argument| !argument.is_hide_set());
            let flags: BTreeSet<String> =
                visible.filter_map(|argument| argument.get_long()).map(str::to_owned).collect();
            let missing: Vec<_> =
                flags.iter().filter(|flag| !documented.contains(*flag) && !shared.contains(*flag)).collect();
            assert!(missing.is_empty(), "docs/flags.md does not have these flags of {name}: {missing:?}");
            let unknown: Vec<_> = documented.difference(&flags).collect();
            assert!(unknown.is_empty(), "{name} does not have these flags of docs/flags.md: {unknown:?}");
            shared_left.retain(|flag| !flags.contains(flag));
        }
        assert!(shared_left.is_empty(), "no command has these flags of docs/flags.md: {shared_left:?}");
    }
}
