//! A model with its workers, as `serve` and `generate` start it.

use crate::backends::{BackendName, isa, rendezvous};
use crate::demo;
use anyhow::{Context, Result, bail, ensure};
use api::Limits;
use clap::Args;
use coordinator::{Coordinator, CoordinatorConfig};
use model::FalconConfig;
use server::{Info, Service};
use std::path::{Path, PathBuf};
use std::time::Duration;
use step::BLOCK_TOKENS;
use text::Tokenizer;

/// Ranks beyond this have never been tried.
const RANKS_MAX: usize = 64;

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
    /// Tokens for which each rank's KV cache has room, over all requests.
    #[arg(long, value_name = "N", default_value_t = 16_384)]
    kv_tokens: usize,
    /// The most tokens that one step computes, over all requests.
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_batch_tokens: usize,
    /// The most requests that are under way at once.
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_concurrent_requests: usize,
    /// The most tokens of a prompt; one less than --max-total-tokens if not given.
    #[arg(long, value_name = "N")]
    max_input_length: Option<usize>,
    /// The most tokens of a prompt and its continuation; the model's positions if not given, or the KV cache's room.
    #[arg(long, value_name = "N")]
    max_total_tokens: Option<usize>,
    /// Threads that compute in each rank; an even share of the cores if not given. (cpu)
    #[arg(long, value_name = "N")]
    threads_per_rank: Option<usize>,
    /// Instruction set to use instead of the best that the processor has: plain, avx2, avx512 or amx. (cpu)
    #[arg(long, value_parser = isa)]
    isa: Option<String>,
    /// Seconds for which a rank waits for the others within a step before it gives up.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    collective_timeout: u64,
}

/// A model whose workers have been started; they may still be loading.
pub struct Engine {
    /// The workers.
    pub coordinator: Coordinator,
    /// What answers requests.
    pub service: Service,
}

impl EngineArgs {
    /// Starts `world` workers. Must be called within a tokio runtime.
    pub fn start(&self, world: usize) -> Result<Engine> {
        ensure!((1..=RANKS_MAX).contains(&world), "--tensor-parallel is {world}, expected 1 to {RANKS_MAX}");
        let model_dir = self.model.clone().map_or_else(demo::model_dir, Ok)?;
        if !model_dir.is_dir() {
            bail!("--model {}: there is no such folder", model_dir.display());
        }
        let config = weights::read_config(&model_dir)?;
        let tokenizer = Tokenizer::open(&model_dir)?;
        let backend = self.backend.resolve()?;
        let info = Info {
            model_id: model_id(&model_dir),
            backend: backend.to_owned(),
            tensor_parallel: world,
            limits: self.limits(&config)?,
            max_concurrent_requests: at_least_1("--max-concurrent-requests", self.max_concurrent_requests)?,
        };
        let program = std::env::current_exe().context("cannot tell where this program is, to start workers")?;
        let coordinator = Coordinator::start(
            CoordinatorConfig {
                worker_command: vec![program.to_string_lossy().into_owned(), "worker".to_owned()],
                model_dir,
                backend: backend.to_owned(),
                world,
                kv_blocks: self.kv_blocks()?,
                step_rows_max: at_least_1("--max-batch-tokens", self.max_batch_tokens)?,
                // A sequence that decodes needs a row of every step.
                sequences_max: self.max_concurrent_requests.min(self.max_batch_tokens),
                threads_per_rank: at_least_1("--threads-per-rank", self.threads(world))?,
                isa: self.isa.clone(),
                collective_limit: Duration::from_secs(self.collective_timeout.max(1)),
            },
            rendezvous(world)?,
        );
        let service = Service::new(coordinator.clone(), tokenizer, config.eos, info);
        Ok(Engine { coordinator, service })
    }

    fn limits(&self, config: &FalconConfig) -> Result<Limits> {
        let room = self.kv_blocks()? as usize * BLOCK_TOKENS;
        let total = self.max_total_tokens.unwrap_or_else(|| config.max_positions.min(room));
        let positions = config.max_positions;
        ensure!((2..=positions).contains(&total), "--max-total-tokens is {total}, expected 2 to {positions}");
        ensure!(total <= room, "--max-total-tokens is {total}, and --kv-tokens has room for {room} only");
        let input = self.max_input_length.unwrap_or(total - 1);
        ensure!((1..total).contains(&input), "--max-input-length is {input}, expected 1 to {}", total - 1);
        Ok(Limits { max_input_length: input, max_total_tokens: total, ..Limits::of_model(positions, config.vocab) })
    }

    fn kv_blocks(&self) -> Result<u32> {
        let tokens = at_least_1("--kv-tokens", self.kv_tokens)?;
        u32::try_from(tokens.div_ceil(BLOCK_TOKENS)).with_context(|| format!("--kv-tokens is {tokens}: too many"))
    }

    fn threads(&self, world: usize) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.threads_per_rank.unwrap_or((cores / world).max(1))
    }
}

fn at_least_1(flag: &str, value: usize) -> Result<usize> {
    ensure!(value > 0, "{flag} is 0, expected at least 1");
    Ok(value)
}

/// A model is called as its folder.
fn model_id(dir: &Path) -> String {
    let absolute = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    absolute.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}
