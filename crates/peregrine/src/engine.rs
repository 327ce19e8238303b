//! A model with its workers, as `serve` and `generate` start it.

use crate::backends::{BackendName, CudaArgs, Launch, isa};
use crate::demo;
use crate::room::{Room, Wanted, find_room};
use anyhow::{Context, Result, bail, ensure};
use api::Limits;
use clap::builder::RangedI64ValueParser;
use clap::{Args, Command, FromArgMatches, Id, value_parser};
use coordinator::{Coordinator, CoordinatorConfig, ProcessConfig, Workers};
use model::FalconConfig;
use server::{Info, Service};
use std::path::{Path, PathBuf};
use std::time::Duration;
use step::BLOCK_TOKENS;
use text::Tokenizer;

/// Which model runs, and how.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model and workers")]
pub struct EngineArgs {
    /// Folder of the model, with config.json, tokenizer.json and safetensors files; the demo model if not given.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Where the model runs.
    #[arg(long, value_enum, default_value_t = BackendName::Auto)]
    backend: BackendName,
    /// Tokens for which each rank's KV cache has room, over all requests; if not given, as many as memory allows on GPUs, and
    /// 16,384 on processors.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=1 << 30))]
    kv_tokens: Option<u32>,
    /// The most tokens that one step computes, over all requests; if not given, as many as memory allows, and at most 2,048 on
    /// processors and 16,384 on GPUs.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=65_536))]
    max_batch_tokens: Option<u32>,
    /// The most requests that run or wait at once; any beyond are refused as overloaded, with a time to try again. If not
    /// given, one for each 128 tokens of the KV cache, from 128 to 1,024.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=1 << 20))]
    max_concurrent_requests: Option<u32>,
    /// The most requests that run at once, while others wait; as many as may be under way if not given.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=1 << 20))]
    max_batch_size: Option<u32>,
    /// Milliseconds within which those who wait for their next token get it, as far as that depends on how much of other
    /// requests' prompts runs beside them; as much as fits a step if not given.
    #[arg(long, value_name = "MS", value_parser = value_parser!(u32).range(1..=3_600_000))]
    itl_bound: Option<u32>,
    /// Compute every prompt as a whole, even if another request began alike.
    #[arg(long)]
    no_prefix_cache: bool,
    /// Send a step to the workers only when they have answered the one before.
    #[arg(long)]
    no_step_ahead: bool,
    /// Check the invariants of scheduler, KV blocks and prefix cache whenever there is nothing to do.
    #[arg(long)]
    paranoid: bool,
    /// The most tokens of a prompt; one less than --max-total-tokens if not given.
    #[arg(long, value_name = "N")]
    max_input_length: Option<usize>,
    /// The most tokens of a prompt and its continuation; the model's positions if not given, or the KV cache's room.
    #[arg(long, value_name = "N")]
    max_total_tokens: Option<usize>,
    /// Threads that compute in each rank; an even share of the cores if not given. (cpu)
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=1024))]
    threads_per_rank: Option<u32>,
    /// Instruction set to use instead of the best that the processor has: plain, avx2, avx512 or amx. (cpu)
    #[arg(long, value_parser = isa)]
    isa: Option<String>,
    /// Seconds for which a rank waits for the others within a step before it gives up.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = value_parser!(u32).range(1..=86_400))]
    collective_timeout: u32,
    /// Seconds that a step is allowed at least: a rank that has not answered it then, nor in 20 times as long as the longest
    /// step of its size took, has hung.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = value_parser!(u32).range(1..=86_400))]
    step_timeout: u32,
    #[command(flatten)]
    cuda: CudaArgs,
}

/// Requests that run or wait at once, where nobody says how many: one for so many tokens of the KV cache, within limits.
const REQUEST_TOKENS: u32 = 128;
const CONCURRENT_REQUESTS_LEAST: u32 = 128;
const CONCURRENT_REQUESTS_MOST: u32 = 1024;

/// A model whose workers have been started; they may still be loading.
pub struct Engine {
    /// The workers.
    pub coordinator: Coordinator,
    /// What answers requests.
    pub service: Service,
}

impl EngineArgs {
    /// The names of all of them. A group that has another within it has no members for clap.
    pub fn ids() -> Vec<Id> {
        Self::command().get_arguments().map(|argument| argument.get_id().clone()).collect()
    }

    fn command() -> Command {
        Self::augment_args(Command::new("engine"))
    }

    /// As if these flags had been given, and no others.
    pub fn from_flags(flags: &[(&str, &str)]) -> Result<Self> {
        let flags = flags.iter().flat_map(|(flag, value)| [*flag, *value]);
        let matches = Self::command().try_get_matches_from(std::iter::once("engine").chain(flags))?;
        Ok(Self::from_arg_matches(&matches)?)
    }

    /// Starts `world` workers. Must be called within a tokio runtime.
    pub fn start(&self, world: u32) -> Result<Engine> {
        let world = world as usize;
        let model_dir = self.model.clone().map_or_else(demo::model_dir, Ok)?;
        if !model_dir.is_dir() {
            bail!("--model {}: there is no such folder", model_dir.display());
        }
        let config = weights::read_config(&model_dir)?;
        let tokenizer = Tokenizer::open(&model_dir)?;
        let backend = self.backend.resolve(world)?;
        let requests_most = self.max_concurrent_requests.unwrap_or(CONCURRENT_REQUESTS_MOST);
        let wanted = Wanted {
            kv_tokens: self.kv_tokens,
            step_rows: self.max_batch_tokens,
            kv_tokens_most: u64::from(requests_most) * config.max_positions as u64,
        };
        let room =
            find_room(backend, &config, world, &wanted).with_context(|| format!("--model {}", model_dir.display()))?;
        let kv_tokens = room.kv_blocks * BLOCK_TOKENS as u32;
        let usual = (kv_tokens / REQUEST_TOKENS).clamp(CONCURRENT_REQUESTS_LEAST, CONCURRENT_REQUESTS_MOST);
        let max_concurrent_requests = self.max_concurrent_requests.unwrap_or(usual);
        let info = Info {
            model_id: model_id(&model_dir),
            backend: backend.to_owned(),
            tensor_parallel: world,
            limits: self.limits(&config, kv_tokens as usize, max_concurrent_requests)?,
            max_concurrent_requests: max_concurrent_requests as usize,
        };
        let launch = Launch::new(backend, world, &self.cuda)?;
        let processes = ProcessConfig {
            program: launch.program,
            arguments: launch.arguments,
            environment: launch.environment,
            model_dir,
            backend: backend.to_owned(),
            threads_per_rank: self.threads(world),
            isa: self.isa.clone(),
            collective_limit: Duration::from_secs(self.collective_timeout.into()),
            rendezvous: launch.rendezvous,
        };
        tracing::info!("KV cache of {kv_tokens} tokens, steps of up to {} tokens", room.step_rows);
        let scheduling = self.scheduling(world, room, max_concurrent_requests);
        let coordinator = Coordinator::start(scheduling, Workers::Processes(processes));
        let service = Service::new(coordinator.clone(), tokenizer, config.eos, info);
        Ok(Engine { coordinator, service })
    }

    fn scheduling(&self, world: usize, room: Room, max_concurrent_requests: u32) -> CoordinatorConfig {
        // A sequence that decodes needs a row of every step.
        let sequences_max = self.max_batch_size.unwrap_or(max_concurrent_requests).min(room.step_rows);
        CoordinatorConfig {
            world,
            kv_blocks: room.kv_blocks,
            step_rows_max: room.step_rows as usize,
            sequences_max: sequences_max as usize,
            steps_in_flight_max: if self.no_step_ahead { 1 } else { 2 },
            prefix_cache: !self.no_prefix_cache,
            itl_bound: self.itl_bound.map(|ms| Duration::from_millis(ms.into())),
            step_limit: Duration::from_secs(self.step_timeout.into()),
            paranoid: self.paranoid,
        }
    }

    fn limits(&self, config: &FalconConfig, room: usize, requests: u32) -> Result<Limits> {
        let total = self.max_total_tokens.unwrap_or_else(|| config.max_positions.min(room));
        let positions = config.max_positions;
        ensure!((2..=positions).contains(&total), "--max-total-tokens is {total}, expected 2 to {positions}");
        ensure!(total <= room, "--max-total-tokens is {total}, and --kv-tokens has room for {room} only");
        let input = self.max_input_length.unwrap_or(total - 1);
        ensure!((1..total).contains(&input), "--max-input-length is {input}, expected 1 to {}", total - 1);
        let limits = Limits::of_model(positions, config.vocab);
        // Each sequence of a request counts as one of those that may run or wait.
        let max_best_of = limits.max_best_of.min(requests as usize);
        Ok(Limits { max_input_length: input, max_total_tokens: total, max_best_of, ..limits })
    }

    fn threads(&self, world: usize) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.threads_per_rank.map_or((cores / world).max(1), |threads| threads as usize)
    }
}

/// Tensor-parallel degrees. Ranks beyond the largest have never been tried.
pub fn ranks() -> RangedI64ValueParser<u32> {
    value_parser!(u32).range(1..=64)
}

/// A model is called as its folder.
fn model_id(dir: &Path) -> String {
    let absolute = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    absolute.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}
