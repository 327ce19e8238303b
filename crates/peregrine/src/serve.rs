//! `peregrine serve`.

use crate::access::AccessArgs;
use crate::doctor;
use crate::engine_args::{EngineArgs, ranks, seconds};
use crate::heap;
use crate::profiles;
use crate::progress;
use crate::signals::Signals;
use crate::supervisor::{self, Handed};
use crate::threads::start_runtime;
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use coordinator::{Coordinator, RestartLimits, Status};
use runtime::{Engine, EngineOptions};
use server::{
    ChatOverflow, DEFAULT_PAYLOAD_LIMIT, DEFAULT_STALL_LIMIT, OtlpProtocol, Sampling, Service, Settings,
    TelemetryOptions, Traces,
};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tracing::{error, info, warn};

/// Arguments of `peregrine serve`.
#[derive(Args, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    engine: EngineArgs,
    /// Workers over which the model is sharded. If not given: those for which `peregrine shard` has cut it, or 1.
    #[arg(long, value_name = "N", value_parser = ranks())]
    tensor_parallel: Option<u32>,
    /// The machine, which sets how many workers there are and their sizes, where nothing else is said: an instance type, or local. A machine
    /// that is another one is refused.
    #[arg(long, value_name = "NAME", value_parser = profiles::names())]
    profile: Option<String>,
    #[command(flatten)]
    access: AccessArgs,
    /// File of a chat template, in place of the model's own. If not given: that of the model's folder, or Falcon's format.
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,
    /// What is done with a conversation that is too long.
    #[arg(long, value_enum, default_value_t = Overflow::Error)]
    chat_overflow: Overflow,
    /// Seconds after which a stream that nobody reads is ended, so that others may run.
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_STALL_LIMIT.as_secs(), value_parser = clap::value_parser!(u64).range(1..=86_400))]
    stalled_stream_timeout: u64,
    /// Bytes of the body of an HTTP request, at most.
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_PAYLOAD_LIMIT as u32, value_parser = clap::value_parser!(u32).range(1024..=1 << 30))]
    payload_limit: u32,
    /// Seconds that running requests have to finish after SIGINT, SIGTERM or SIGHUP. Those left then end with the status
    /// UNAVAILABLE.
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = seconds())]
    drain_timeout: u32,
    /// How many failures of the workers within --restart-window are followed by a restart. Requests go on then where they were.
    #[arg(long, value_name = "N", default_value_t = 5)]
    restarts_max: u32,
    /// Seconds for which a failure counts.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = seconds())]
    restart_window: u32,
    /// What is done when the workers fail more often, or cannot be started at all.
    #[arg(long, value_enum, default_value_t = OnFailure::Exit)]
    on_failure: OnFailure,
    /// Serve as SageMaker asks of a container: HTTP on 0.0.0.0:8080, and the model of /opt/ml/model, where nothing else is said.
    #[arg(long)]
    sagemaker: bool,
    /// What a line of the log is.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Put prompts and what was generated into the log, up to 4,096 bytes of each.
    #[arg(long)]
    log_prompts: bool,
    /// Export traces over OTLP to the collector there, as http://HOST:PORT.
    #[arg(long, value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// How the collector is spoken to.
    #[arg(long, value_enum, value_name = "PROTOCOL", default_value_t = Otlp::Grpc, requires = "otlp_endpoint")]
    otlp_protocol: Otlp,
    /// The part of requests that is traced, from 0 to 1, where their callers do not say.
    #[arg(long, value_name = "RATIO", default_value_t = 1.0, value_parser = ratio, requires = "otlp_endpoint")]
    trace_sample_ratio: f64,
    /// The most traces a second of requests whose callers do not say.
    #[arg(long, value_name = "N", default_value_t = 50, requires = "otlp_endpoint")]
    traces_per_second: u32,
    /// Check flags, addresses, model and memory as for a start, and end: nothing is started, and no weight is read.
    #[arg(long)]
    check: bool,
}

/// What is done with a conversation that is too long.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Overflow {
    /// It is refused.
    Error,
    /// Its oldest turns are left out; system messages and the last turn stay.
    Cut,
}

/// What is done when the workers fail too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnFailure {
    /// The server ends with exit code 69, or 1 if the model has never been ready, for a supervisor that restarts it.
    Exit,
    /// The server stays, is not ready, and goes on trying.
    Stay,
}

/// What a line of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text.
    Text,
    /// A JSON object.
    Json,
}

/// How the collector of traces is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Otlp {
    /// By gRPC; usually on port 4317.
    Grpc,
    /// By HTTP, with protocol buffers; usually on port 4318.
    Http,
}

/// A part of a whole.
fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

impl ServeArgs {
    /// Must be called within a tokio runtime.
    fn traces(&self) -> Result<Option<Traces>> {
        let protocol = match self.otlp_protocol {
            Otlp::Grpc => OtlpProtocol::Grpc,
            Otlp::Http => OtlpProtocol::HttpProtobuf,
        };
        let sampling = Sampling { ratio: self.trace_sample_ratio, per_second: self.traces_per_second };
        let export = |endpoint: &String| Traces::export(endpoint, protocol, sampling);
        self.otlp_endpoint.as_ref().map(export).transpose().context("--otlp-endpoint")
    }

    async fn options(&self) -> Result<EngineOptions> {
        let chat_overflow = match self.chat_overflow {
            Overflow::Error => ChatOverflow::Error,
            Overflow::Cut => ChatOverflow::Cut,
        };
        let chat_template = self.chat_template.clone();
        let telemetry = TelemetryOptions { traces: self.traces()?, log_prompts: self.log_prompts };
        let restarts = RestartLimits {
            failures_max: (self.on_failure == OnFailure::Exit).then_some(self.restarts_max),
            window: Duration::from_secs(self.restart_window.into()),
        };
        let mut options = self.engine.options().await?;
        options.worker.variables = self.profile.as_deref().map(profiles::variables).unwrap_or_default();
        Ok(EngineOptions { chat_template, chat_overflow, telemetry, restarts, ..options })
    }
}

/// The exit code when the workers have failed too often: sysexits.h calls it EX_UNAVAILABLE.
const WORKERS_FAILED: u8 = 69;

/// Serves until a signal asks for the end, or the model cannot be loaded, or fails too often.
pub fn run(args: ServeArgs) -> Result<ExitCode> {
    heap::give_back_large_allocations();
    server::raise_descriptor_limit();
    let handed = Handed::take()?;
    start_runtime()?.block_on(serve(args, handed))
}

async fn serve(args: ServeArgs, handed: Handed) -> Result<ExitCode> {
    let slower = args.profile.as_deref().map(profiles::check).transpose()?;
    let settings = Settings {
        stall_limit: Duration::from_secs(args.stalled_stream_timeout),
        payload_limit: args.payload_limit as usize,
        ..args.access.settings()?
    };
    // From here on a signal must end a download, and then the workers, too. Each of the two sees every signal.
    let (mut first, mut second) = (Signals::new()?, Signals::new()?);
    // As long as a download takes, callers had better go elsewhere than wait.
    let options = tokio::select! {
        options = args.options() => options?,
        _ = first.next() => return Ok(ExitCode::SUCCESS),
    };
    if let Some(slower) = slower {
        let disk = options.model.as_deref().and_then(doctor::read_ahead);
        slower.into_iter().chain(disk).for_each(|text| warn!("{text}"));
    }
    // The platform stands in front of a container, and shows no key of ours.
    let listeners = args.access.listen(args.sagemaker, handed).await?;
    if !args.engine.has_model() {
        warn!(
            "no --model is given: this serves the tiny demo model, which is a toy to try things with; name the folder of a \
             Falcon model to serve that"
        );
    }
    let degree = options.degree(args.tensor_parallel, 1)?;
    if args.check {
        let info = Engine::check(&options, degree)?;
        info!("{} over {} workers, backend {}: ready to start", info.model_id, info.tensor_parallel, info.backend);
        return Ok(ExitCode::SUCCESS);
    }
    let Engine { coordinator, service } = Engine::start(&options, degree)?;
    let info = service.info();
    info!("{} over {} workers, backend {}", info.model_id, info.tensor_parallel, info.backend);
    info!("gRPC on {}, HTTP on {}", listeners.grpc.local_addr()?, listeners.http.local_addr()?);
    if let Some(metrics) = &listeners.metrics {
        info!("metrics on {}", metrics.local_addr()?);
    }
    tokio::spawn(progress::show(coordinator.status()));
    supervisor::tell(&service);
    let mut was_ready = false;
    let end = until_end(&args, &coordinator, service.clone(), &mut first, &mut was_ready);
    let served = async {
        server::serve(service, listeners, settings, end).await?;
        Ok::<_, std::io::Error>(coordinator.ended().await)
    };
    let ended = tokio::select! {
        ended = served => ended,
        () = second_of(&mut second) => {
            warn!("stopping at once");
            coordinator.stop();
            Ok(coordinator.ended().await)
        }
    };
    if ended.is_err() {
        coordinator.stop();
        coordinator.ended().await;
    }
    match ended? {
        Status::Failed { reason } if was_ready => {
            error!("the workers have failed too often (--restarts-max {}): {reason}", args.restarts_max);
            Ok(ExitCode::from(WORKERS_FAILED))
        }
        Status::Failed { reason } => bail!("{reason}"),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Waits until the server is to close: when all that was accepted is finished after a signal, or when the model has failed for good.
/// Tells whether it has ever been ready.
async fn until_end(
    args: &ServeArgs,
    coordinator: &Coordinator,
    service: Service,
    signals: &mut Signals,
    was_ready: &mut bool,
) {
    let mut status = coordinator.status();
    let mut signalled = false;
    loop {
        match &*status.borrow_and_update() {
            Status::Stopped | Status::Failed { .. } => return,
            Status::Ready { .. } => *was_ready = true,
            Status::Recovering { .. } | Status::Loading { .. } | Status::Draining => {}
        }
        tokio::select! {
            _ = signals.next(), if !signalled => {
                signalled = true;
                let load = coordinator.activity().load;
                info!("finishing {} requests; a second signal stops at once", load.waiting + load.running);
                service.end();
                tokio::spawn(stop_after(coordinator.clone(), args.drain_timeout));
            }
            // The last status has been seen when no other can follow.
            Ok(()) = status.changed() => {}
            else => return,
        }
    }
}

/// Stops what is left after a time. Seconds in which this process was itself stopped do not count.
async fn stop_after(coordinator: Coordinator, limit_s: u32) {
    for _ in 0..limit_s {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let load = coordinator.activity().load;
    warn!("{} requests were not finished within --drain-timeout {limit_s}: cut off", load.waiting + load.running);
    coordinator.stop();
}

async fn second_of(signals: &mut Signals) {
    signals.next().await;
    signals.next().await;
}
