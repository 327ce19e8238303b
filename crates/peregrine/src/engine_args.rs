//! The arguments that say which model runs, and how.

mod cuda;

use crate::hub_args::HubArgs;
use anyhow::{Context, Result, ensure};
use backend_cpu::Isa;
use clap::builder::{NonEmptyStringValueParser, RangedI64ValueParser};
use clap::{Args, Command, Id, ValueEnum, value_parser};
use coordinator::RestartLimits;
pub use cuda::CudaArgs;
use model::FalconConfig;
use runtime::{BackendChoice, EngineOptions, WorkerCommand};
use rustix::param::linux_execfn;
use server::dialects::tgi;
use server::{ChatOverflow, TelemetryOptions};
use sizing::Asked;
use source::{Freshness, Wanted};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Which model runs, and how.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model and workers")]
pub struct EngineArgs {
    /// The model: a folder with config.json, tokenizer.json and safetensors files, ORG/NAME[@REVISION] of the Hugging Face hub,
    /// or a JumpStart id; the demo model if not given.
    #[arg(long, value_name = "MODEL")]
    model: Option<PathBuf>,
    #[command(flatten)]
    hub: HubArgs,
    /// What the model is called in answers and metrics. If not given: ORG/NAME of the hub, or the folder's name.
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    served_model_name: Option<String>,
    /// Where the model runs.
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    backend: Backend,
    /// Refuse to run on CPUs: as --backend cuda, and an error beside another one.
    #[arg(long)]
    require_gpu: bool,
    #[command(flatten)]
    sizes: SizeArgs,
    /// Requests that run at once, at most, while others wait. If not given: --max-concurrent-requests.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=1 << 20))]
    max_batch_size: Option<u32>,
    /// Target for the inter-token latency, in milliseconds: prefill is throttled so that it does not push decode beyond it. If
    /// not given, prompts may fill a step.
    #[arg(long, value_name = "MS", value_parser = value_parser!(u32).range(1..=3_600_000))]
    itl_bound: Option<u32>,
    /// Prefill every prompt from its start, even if KV blocks of the same prefix are cached.
    #[arg(long)]
    no_prefix_cache: bool,
    /// Send a step to the workers only after they have answered the one before.
    #[arg(long)]
    no_step_ahead: bool,
    /// Check the invariants of scheduler, KV blocks and prefix cache whenever there is nothing to do.
    #[arg(long)]
    check_invariants: bool,
    /// Tokens of a prompt, at most. If not given: one less than --max-total-tokens.
    #[arg(long, value_name = "N")]
    max_input_length: Option<usize>,
    /// Tokens of a prompt and its answer, at most. If not given: the positions of the model, or what the KV cache holds.
    #[arg(long, value_name = "N")]
    max_total_tokens: Option<usize>,
    #[command(flatten)]
    tgi: TgiLimitArgs,
    /// Threads that tokenize prompts, beside those of the ranks.
    #[arg(long, value_name = "N", default_value_t = EngineOptions::TOKENIZER_THREADS as u32, value_parser = value_parser!(u32).range(1..=64))]
    tokenizer_threads: u32,
    /// Threads that compute in each worker. If not given: an even share of the cores. (cpu)
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=1024))]
    threads_per_rank: Option<u32>,
    /// Instruction set to use instead of the best one of the CPU: plain, avx2, avx512 or amx. (cpu)
    #[arg(long, value_parser = isa)]
    isa: Option<Isa>,
    /// Seconds that a worker waits for the others within a step before it gives up.
    #[arg(long, value_name = "SECONDS", default_value_t = EngineOptions::COLLECTIVE_LIMIT_S, value_parser = seconds())]
    collective_timeout: u32,
    /// Seconds that a step is allowed at least. A worker that takes longer, and 20 times as long as the longest step of its size,
    /// has hung.
    #[arg(long, value_name = "SECONDS", default_value_t = EngineOptions::STEP_LIMIT_S, value_parser = seconds())]
    step_timeout: u32,
    /// Seconds that workers may be stopped by a signal (SIGSTOP) or a debugger within a step. The other limits count neither
    /// that time, nor time in which the server itself is stopped or frozen.
    #[arg(long, value_name = "SECONDS", default_value_t = EngineOptions::PAUSE_LIMIT_S, value_parser = seconds())]
    pause_timeout: u32,
    /// Seconds that loading may go without progress: no byte read, and no worker ready. A worker that is not ready then has
    /// hung.
    #[arg(long, value_name = "SECONDS", default_value_t = EngineOptions::LOAD_LIMIT_S, value_parser = seconds())]
    load_timeout: u32,
    #[command(flatten)]
    cuda: CudaArgs,
}

/// The most that a request may ask for in Text Generation Inference's dialect, which gRPC has, too. No dialect has more.
#[derive(Args, Clone, Copy, Debug)]
struct TgiLimitArgs {
    /// Continuations that `best_of` may ask for.
    #[arg(long, value_name = "N", default_value_t = tgi::Limits::default().max_best_of as u32, value_parser = value_parser!(u32).range(1..=128))]
    max_best_of: u32,
    /// Stop strings that `stop` may have.
    #[arg(long, value_name = "N", default_value_t = tgi::Limits::default().max_stop_sequences as u32, value_parser = value_parser!(u32).range(0..=64))]
    max_stop_sequences: u32,
    /// Tokens that `top_n_tokens` may ask for beside each.
    #[arg(long, value_name = "N", default_value_t = tgi::Limits::default().max_top_n_tokens, value_parser = value_parser!(u32).range(0..=20))]
    max_top_n_tokens: u32,
}

impl From<TgiLimitArgs> for tgi::Limits {
    fn from(args: TgiLimitArgs) -> Self {
        Self {
            max_best_of: args.max_best_of as usize,
            max_stop_sequences: args.max_stop_sequences as usize,
            max_top_n_tokens: args.max_top_n_tokens,
        }
    }
}

/// How large the KV cache and the steps are, and how many requests share them.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct SizeArgs {
    /// Tokens in each worker's KV cache, over all requests. If not given: as many as memory allows on GPUs, 16,384 on CPUs.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=1 << 30))]
    pub kv_tokens: Option<u32>,
    /// Tokens computed per step, at most, over all requests. Lower values shorten the gaps between tokens of running requests
    /// while a long prompt is prefilled. If not given: as many as memory allows, up to 2,048 on CPUs and 16,384 on GPUs.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=65_536))]
    pub max_batch_tokens: Option<u32>,
    /// Requests that run or wait at once, at most; further ones are refused as overloaded, with a time to try again. If not
    /// given: one for each 128 tokens of the KV cache, from 128 to 1,024.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=1 << 20))]
    pub max_concurrent_requests: Option<u32>,
}

impl SizeArgs {
    /// As `sizing` takes them.
    pub fn asked(&self, config: &FalconConfig) -> Asked {
        Asked::new(config, self.kv_tokens, self.max_batch_tokens, self.max_concurrent_requests)
    }

    /// The flags that were given.
    pub fn given(&self) -> impl Iterator<Item = (&'static str, u32)> {
        let flags = [
            ("--kv-tokens", self.kv_tokens),
            ("--max-batch-tokens", self.max_batch_tokens),
            ("--max-concurrent-requests", self.max_concurrent_requests),
        ];
        flags.into_iter().filter_map(|(flag, value)| Some((flag, value?)))
    }
}

/// Where a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Backend {
    /// NVIDIA GPUs where there is one for each rank, else the CPU.
    Auto,
    /// Vectorized kernels on the CPU.
    Cpu,
    /// Plain code on the CPU: slow, and the reference for the others.
    Reference,
    /// NVIDIA GPUs.
    Cuda,
    /// No model: answers at once, to benchmark everything else.
    #[value(hide = true)]
    Instant,
}

impl From<Backend> for BackendChoice {
    fn from(backend: Backend) -> Self {
        match backend {
            Backend::Auto => Self::Auto,
            Backend::Cpu => Self::Cpu,
            Backend::Reference => Self::Reference,
            Backend::Cuda => Self::Cuda,
            Backend::Instant => Self::Instant,
        }
    }
}

impl EngineArgs {
    /// The names of all of them. A group that has another within it has no members for clap.
    pub fn ids() -> Vec<Id> {
        let command = Self::augment_args(Command::new("engine"));
        command.get_arguments().map(|argument| argument.get_id().clone()).collect()
    }

    /// Whether a model is named.
    pub fn has_model(&self) -> bool {
        self.model.is_some()
    }

    /// As the engine takes them; its workers are this program. A model of the hub is downloaded if it is not there.
    pub async fn options(&self) -> Result<EngineOptions> {
        let is_gpu = matches!(self.backend, Backend::Auto | Backend::Cuda);
        ensure!(is_gpu || !self.require_gpu, "--require-gpu: --backend runs the model elsewhere");
        let model = match &self.model {
            Some(model) => Some(self.hub.folder(model, Wanted::Model, Freshness::AsCached).await?),
            None => None,
        };
        Ok(EngineOptions {
            worker: worker_command(&self.cuda)?,
            model,
            served_model_name: self.served_model_name.clone(),
            backend: if self.require_gpu { BackendChoice::Cuda } else { self.backend.into() },
            kv_tokens: self.sizes.kv_tokens,
            max_batch_tokens: self.sizes.max_batch_tokens,
            max_concurrent_requests: self.sizes.max_concurrent_requests,
            max_batch_size: self.max_batch_size,
            itl_bound: self.itl_bound.map(|ms| Duration::from_millis(ms.into())),
            prefix_cache: !self.no_prefix_cache,
            step_ahead: !self.no_step_ahead,
            check_invariants: self.check_invariants,
            max_input_length: self.max_input_length,
            max_total_tokens: self.max_total_tokens,
            tgi: self.tgi.into(),
            chat_template: None,
            chat_overflow: ChatOverflow::default(),
            telemetry: TelemetryOptions::default(),
            tokenizer_threads: self.tokenizer_threads as usize,
            threads_per_rank: self.threads_per_rank.map(|threads| threads as usize),
            isa: self.isa,
            collective_limit: Duration::from_secs(self.collective_timeout.into()),
            step_limit: Duration::from_secs(self.step_timeout.into()),
            pause_limit: Duration::from_secs(self.pause_timeout.into()),
            load_limit: Duration::from_secs(self.load_timeout.into()),
            restarts: RestartLimits::NEVER,
            cuda: self.cuda.settings(),
        })
    }
}

/// Starts this program as a worker.
pub fn worker_command(cuda: &CudaArgs) -> Result<WorkerCommand> {
    let mut arguments = vec![OsString::from("worker")];
    arguments.extend(cuda.arguments());
    let name = std::env::args_os().next().unwrap_or_else(|| "peregrine".into());
    Ok(WorkerCommand { program: program()?, name, arguments, variables: Vec::new() })
}

/// Leads to the program that runs, even when its file has been replaced by another version: workers that are started again later must be of
/// the coordinator's build.
const ITSELF: &str = "/proc/self/exe";

/// This program. Where there is no /proc to tell it, as it was called.
pub fn program() -> Result<PathBuf> {
    if Path::new(ITSELF).exists() {
        return Ok(ITSELF.into());
    }
    let called = Path::new(OsStr::from_bytes(linux_execfn().to_bytes()));
    ensure!(called.is_file(), "cannot tell where this program is, to start workers");
    std::path::absolute(called).context("cannot tell where this program is, to start workers")
}

/// Tensor-parallel degrees. Ranks beyond the largest have never been tried.
pub fn ranks() -> RangedI64ValueParser<u32> {
    value_parser!(u32).range(1..=64)
}

/// Seconds, up to a day.
pub fn seconds() -> RangedI64ValueParser<u32> {
    value_parser!(u32).range(1..=86_400)
}

/// An instruction set, by its name, if this CPU has it.
pub fn isa(name: &str) -> Result<Isa> {
    let isa: Isa = name.parse()?;
    ensure!(isa.supported(), "this CPU does not have {isa}");
    Ok(isa)
}
