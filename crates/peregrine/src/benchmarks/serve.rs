//! Arguments of `peregrine bench serve`.

use super::{exit_code, interrupted};
use anyhow::Result;
use bench::serve::{ServeOptions, Spacing};
use bench::{Dataset, Dialect, Environment, Slo, TargetOptions};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum, value_parser};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Where servers listen unless told otherwise.
const GRPC_DEFAULT: &str = "127.0.0.1:50051";
const HTTP_DEFAULT: &str = "127.0.0.1:8080";

/// Arguments of `peregrine bench serve`.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// The server, as HOST:PORT or a URL. [default: 127.0.0.1:50051 for grpc, else 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    server: Option<String>,
    /// The API by which it is asked.
    #[arg(long, value_parser = dialects(), default_value = Dialect::Grpc.name())]
    dialect: Dialect,
    /// The model that requests name; for sagemaker-runtime, the endpoint. [default: the first of /v1/models; peregrine]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// A key that is sent as a bearer token with each request.
    #[arg(long, value_name = "KEY", env = "PEREGRINE_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// File of certificates in PEM: the authorities that are trusted to know the server, in place of the system's.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Ask for whole answers instead of streams; there is no time to first token then.
    #[arg(long)]
    no_stream: bool,
    /// What is asked: IN/OUT in tokens, each N, LOW-HIGH, normal:MEAN:DEVIATION or log:MEDIAN:SIGMA, and SHARED+IN/OUT for
    /// prompts with a common prefix; sharegpt:FILE; or jumpstart, the prompts of scripts/examples. Several are run one after
    /// the other.
    #[arg(long, value_name = "WHAT", value_delimiter = ',', default_value = "128/128")]
    dataset: Vec<Dataset>,
    /// Requests in each run.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = value_parser!(u32).range(1..))]
    num_prompts: u32,
    /// Requests per second, or inf: as fast as --max-concurrency allows. Several are run one after the other.
    #[arg(long, value_name = "RATE", value_delimiter = ',', default_value = "inf", value_parser = rate)]
    request_rate: Vec<f64>,
    /// How requests arrive at a finite rate.
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson)]
    arrivals: Arrivals,
    /// The most requests at once. Several are run one after the other. [default: 8 without a rate, else no limit]
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = value_parser!(u32).range(1..=65_536))]
    max_concurrency: Vec<u32>,
    /// Requests sent beforehand, which are not measured.
    #[arg(long, value_name = "N", default_value_t = 2)]
    num_warmups: u32,
    /// Service levels that a request must meet to count as good: ttft:MS, tpot:MS, e2el:MS.
    #[arg(long, value_name = "LEVEL", value_delimiter = ',')]
    goodput: Vec<Slo>,
    /// Seed of prompts, lengths and arrivals.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Seconds after which a request counts as failed.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = value_parser!(u32).range(1..=86_400))]
    request_timeout: u32,
    /// Write the figures to a file, one JSON object a line for each run, with the key names of vLLM's `bench serve`. Each run
    /// is written when it ends.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a report with tables and plots to a file, which needs nothing else. It is brought up to date when a run ends.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// With --json: the times of each request, too.
    #[arg(long, requires = "json")]
    save_detailed: bool,
}

fn dialects() -> impl TypedValueParser<Value = Dialect> {
    let value = |dialect: Dialect| PossibleValue::new(dialect.name()).help(asked_by(dialect));
    let of_name = |name: String| Dialect::ALL.into_iter().find(|dialect| dialect.name() == name);
    PossibleValuesParser::new(Dialect::ALL.map(value)).map(move |name| of_name(name).expect("one of them"))
}

fn asked_by(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Grpc => "The gRPC service peregrine.v1.Generation",
        Dialect::Tgi => "TGI: /generate_stream, or /generate for whole answers",
        Dialect::OpenAi => "OpenAI: /v1/completions",
        Dialect::OpenAiChat => "OpenAI: /v1/chat/completions; a prompt is a user's message",
        Dialect::SageMaker => "A container on SageMaker: /invocations, with TGI's bodies",
        Dialect::SageMakerRuntime => "SageMaker's runtime API: /endpoints/NAME/invocations-response-stream, unsigned",
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Arrivals {
    /// Independently of each other.
    Poisson,
    /// At equal intervals.
    Constant,
}

fn rate(text: &str) -> Result<f64, String> {
    let parsed = text.parse().ok().filter(|&rate: &f64| rate > 0.0);
    parsed.ok_or_else(|| format!("{text:?} is no rate: expected requests per second above 0, or inf"))
}

/// Measures a server, and reports.
pub async fn run(args: ServeArgs) -> Result<ExitCode> {
    let interrupted = interrupted()?;
    Ok(exit_code(bench::serve::run(&args.options(), &Environment::here(), &mut std::io::stdout(), interrupted).await?))
}

impl ServeArgs {
    fn options(self) -> ServeOptions {
        let address = if self.dialect == Dialect::Grpc { GRPC_DEFAULT } else { HTTP_DEFAULT };
        let target = TargetOptions {
            address: self.server.unwrap_or_else(|| address.to_owned()),
            dialect: self.dialect,
            model: self.model,
            api_key: self.api_key,
            ca: self.ca,
            stream: !self.no_stream,
            limit: Duration::from_secs(self.request_timeout.into()),
        };
        ServeOptions {
            target,
            datasets: self.dataset,
            num_prompts: self.num_prompts as usize,
            request_rates: self.request_rate,
            spacing: match self.arrivals {
                Arrivals::Poisson => Spacing::Poisson,
                Arrivals::Constant => Spacing::Constant,
            },
            max_concurrency: self.max_concurrency.into_iter().map(|most| most as usize).collect(),
            num_warmups: self.num_warmups as usize,
            goodput: self.goodput,
            seed: self.seed,
            json: self.json,
            save_detailed: self.save_detailed,
            html: self.html,
        }
    }
}
