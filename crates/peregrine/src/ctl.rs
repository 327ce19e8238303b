//! `peregrine ctl`: what a running server does, and whether it takes requests.

use crate::client;
use crate::output::print;
use crate::stream::status_error;
use crate::threads::start_runtime;
use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use wire::generation as pb;
use wire::generation::admin_client::AdminClient;

/// Arguments of `peregrine ctl`.
#[derive(Args, Debug)]
pub struct CtlArgs {
    /// What to do.
    action: Action,
    /// The server's address for gRPC, as HOST:PORT, http:// or https://.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:50051")]
    server: String,
    /// File of certificates in PEM: the authorities that are trusted to know the server, in place of the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// File whose first key is sent to the server.
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

/// How long an answer may take. A process that stands still never gives one.
const LIMIT: Duration = Duration::from_secs(10);

/// What is asked of a server.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Action {
    /// Show what it does.
    Status,
    /// Let it take no new requests, and finish those that it has; it stays up.
    Drain,
    /// Let it take requests again.
    Undrain,
    /// Tell whether it serves, by the exit code, too: 0 if it does, 1 if not. Needs no key.
    Health,
}

/// Asks a server, and prints what it does then.
pub fn run(args: CtlArgs) -> Result<ExitCode> {
    start_runtime()?.block_on(ask(args))
}

async fn ask(args: CtlArgs) -> Result<ExitCode> {
    let server = args.server.clone();
    let answered = tokio::time::timeout(LIMIT, answered(args)).await;
    answered.with_context(|| format!("--server {server}: no answer within {} s", LIMIT.as_secs()))?
}

async fn answered(args: CtlArgs) -> Result<ExitCode> {
    let channel = client::channel(&args.server, args.ca.as_deref(), args.api_key_file).await?;
    let mut admin = AdminClient::new(channel.clone());
    let answer = match args.action {
        Action::Status => admin.status(pb::StatusRequest {}).await,
        Action::Drain => admin.drain(pb::DrainRequest {}).await,
        Action::Undrain => admin.undrain(pb::UndrainRequest {}).await,
        Action::Health => return health(channel, args.json).await,
    };
    let status = Status::from(answer.map_err(|status| status_error(&status))?.into_inner());
    ensure!(!status.state.name.is_empty(), "--server {}: it does not say what it does", args.server);
    print(&if args.json { serde_json::to_string(&status)? + "\n" } else { status.text(SystemTime::now()) })?;
    Ok(ExitCode::SUCCESS)
}

/// Asks as a probe does, by `grpc.health.v1`, and prints the answer in its words.
async fn health(channel: InterceptedService<Channel, client::ShowKey>, json: bool) -> Result<ExitCode> {
    let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    let status = answer.map_err(|status| status_error(&status))?.into_inner().status().as_str_name();
    print(&if json { format!("{{\"status\":\"{status}\"}}\n") } else { format!("{status}\n") })?;
    Ok(if status == "SERVING" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What a server does.
#[derive(Debug, Serialize)]
struct Status {
    state: State,
    load: Load,
    ranks: Vec<Rank>,
    build: Build,
}

#[derive(Debug, Serialize)]
struct State {
    name: String,
    /// In seconds since 1970.
    since: u64,
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct Load {
    running: u32,
    waiting: u32,
    max_concurrent_requests: u32,
    kv_tokens_total: u64,
    kv_tokens_available: u64,
}

#[derive(Debug, Serialize)]
struct Rank {
    rank: u32,
    pid: Option<u32>,
    step_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Build {
    version: String,
    model_id: String,
    backend: String,
    tensor_parallel: u32,
}

impl From<pb::StatusResponse> for Status {
    fn from(status: pb::StatusResponse) -> Self {
        let pb::ServerState { name, since_unix_seconds: since, reason } = status.state.unwrap_or_default();
        let load = status.load.unwrap_or_default();
        let build = status.build.unwrap_or_default();
        let rank = |rank: pb::RankStatus| Rank {
            rank: rank.rank,
            pid: rank.pid,
            step_seconds: rank.step_micros.map(|micros| micros as f64 / 1e6),
        };
        Self {
            state: State { name, since, reason: Some(reason).filter(|reason| !reason.is_empty()) },
            load: Load {
                running: load.running,
                waiting: load.waiting,
                max_concurrent_requests: load.max_concurrent_requests,
                kv_tokens_total: load.kv_tokens_total,
                kv_tokens_available: load.kv_tokens_available,
            },
            ranks: status.ranks.into_iter().map(rank).collect(),
            build: Build {
                version: build.version,
                model_id: build.model_id,
                backend: build.backend,
                tensor_parallel: build.tensor_parallel,
            },
        }
    }
}

impl Status {
    /// For people.
    fn text(&self, now: SystemTime) -> String {
        let Self { state, load, ranks, build } = self;
        let unix_s = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let lasts = humantime::format_duration(Duration::from_secs(unix_s.saturating_sub(state.since)));
        let why = state.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        let mut text = format!("{} for {lasts}{why}\n", state.name);
        let mut line = |line: std::fmt::Arguments<'_>| {
            // Writing into memory does not fail.
            let _ = writeln!(text, "{line}");
        };
        let Load { running, waiting, max_concurrent_requests: most, kv_tokens_available, kv_tokens_total } = load;
        line(format_args!("requests: {running} run, {waiting} wait, of at most {most}"));
        line(format_args!("KV cache: {kv_tokens_available} of {kv_tokens_total} tokens are available"));
        for Rank { rank, pid, step_seconds } in ranks {
            let process = pid.map(|pid| format!(", process {pid}")).unwrap_or_default();
            let step = step_seconds.map(|s| format!(", last step {:.1} ms", 1e3 * s)).unwrap_or_default();
            line(format_args!("rank {rank}{process}{step}"));
        }
        let Build { version, model_id, backend, tensor_parallel: degree } = build;
        line(format_args!("{model_id} over {degree} workers, backend {backend}, peregrine {version}"));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_left_out() {
        let rank = |rank, step_micros, pid| pb::RankStatus { rank, step_micros, pid };
        let mut status = pb::StatusResponse {
            state: Some(pb::ServerState {
                name: "recovering".to_owned(),
                since_unix_seconds: 100,
                reason: "rank 1 is gone".to_owned(),
            }),
            ranks: vec![rank(0, Some(1500), Some(17)), rank(1, None, None)],
            ..Default::default()
        };
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let text = Status::from(status.clone()).text(at(190));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "recovering for 1m 30s: rank 1 is gone");
        assert_eq!(lines[3..5], ["rank 0, process 17, last step 1.5 ms", "rank 1"]);
        status.state =
            Some(pb::ServerState { name: "ready".to_owned(), since_unix_seconds: 100, ..Default::default() });
        let text = Status::from(status).text(at(90));
        assert_eq!(text.lines().next(), Some("ready for 0s"), "a clock that was set back");
    }
}
