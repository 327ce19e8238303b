//! A model with its workers and the service over them.

use crate::capacity::threads_of_rank;
use crate::end_of_text::{compare_vocabularies, end_of_text};
use crate::launch::Launch;
use crate::{BackendChoice, CudaSettings, EngineError, Machine, WorkerCommand, demo};
use api::Limits;
use backend_cpu::Isa;
use coordinator::{Coordinator, CoordinatorConfig, ProcessConfig, RestartLimits, Workers};
use model::FalconConfig;
use server::dialects::tgi;
use server::{Chat, ChatOverflow, Info, Service, Telemetry, TelemetryOptions, TokenizerPool};
use sizing::{Asked, CONCURRENT_REQUESTS_MAX, Fit};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use step::BLOCK_TOKENS;
use text::{ChatTemplate, Tokenizer};
use weights::{Checkpoint, Manifest, Unresolved};

/// Which model runs, and how.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Starts a worker, which calls [`open_rank`](crate::open_rank) with settings equal to `cuda`.
    pub worker: WorkerCommand,
    /// Folder of the model; the demo model if `None`.
    pub model: Option<PathBuf>,
    /// What the model is called; `None`: as its folder is.
    pub served_model_name: Option<String>,
    /// Where the model runs.
    pub backend: BackendChoice,
    /// Tokens in each rank's KV cache; `None`: as many as memory allows on GPUs, and 16,384 on CPUs.
    pub kv_tokens: Option<u32>,
    /// The most tokens that one step computes; `None`: as many as memory allows.
    pub max_batch_tokens: Option<u32>,
    /// The most requests that run or wait at once; `None`: by the size of the KV cache.
    pub max_concurrent_requests: Option<u32>,
    /// The most requests that run at once; `None`: as many as run or wait.
    pub max_batch_size: Option<u32>,
    /// The time between tokens that prefill beside decode is to keep; `None`: whatever comes.
    pub itl_bound: Option<Duration>,
    /// Sequences that begin alike share what has been computed.
    pub prefix_cache: bool,
    /// A step is sent to the workers before they have answered the one before.
    pub step_ahead: bool,
    /// The scheduler's invariants are checked whenever there is nothing to do.
    pub check_invariants: bool,
    /// The most tokens of a prompt; `None`: one less than of a sequence.
    pub max_input_length: Option<usize>,
    /// The most tokens of a sequence; `None`: what model and KV cache allow.
    pub max_total_tokens: Option<usize>,
    /// The most that a request may ask for in TGI's dialect.
    pub tgi: tgi::Limits,
    /// The file of a chat template; `None`: the model's own.
    pub chat_template: Option<PathBuf>,
    /// What is done with a conversation that is too long.
    pub chat_overflow: ChatOverflow,
    /// What is told of requests.
    pub telemetry: TelemetryOptions,
    /// Threads that tokenize prompts.
    pub tokenizer_threads: usize,
    /// Threads that compute in each rank; `None`: an even share of the cores. (cpu)
    pub threads_per_rank: Option<usize>,
    /// The instruction set; `None`: the best that the CPU has. (cpu)
    pub isa: Option<Isa>,
    /// How long a rank waits for the others within a step.
    pub collective_limit: Duration,
    /// How long a step is allowed at least.
    pub step_limit: Duration,
    /// How long workers may be stopped by a signal within a step.
    pub pause_limit: Duration,
    /// How long a load may go without progress.
    pub load_limit: Duration,
    /// How often the workers are started again after a failure.
    pub restarts: RestartLimits,
    /// How ranks use GPUs.
    pub cuda: CudaSettings,
}

impl EngineOptions {
    /// Seconds of [`Self::collective_limit`], where nobody says how many.
    pub const COLLECTIVE_LIMIT_S: u32 = 60;
    /// Seconds of [`Self::step_limit`], where nobody says how many.
    pub const STEP_LIMIT_S: u32 = 10;
    /// Seconds of [`Self::pause_limit`], where nobody says how many.
    pub const PAUSE_LIMIT_S: u32 = 600;
    /// Seconds of [`Self::load_limit`], where nobody says how many. Slow disks bring a byte now and then; opening a GPU,
    /// connecting NCCL and capturing graphs, which read none, take a minute at most.
    pub const LOAD_LIMIT_S: u32 = 300;

    /// [`Self::tokenizer_threads`], where nobody says how many.
    pub const TOKENIZER_THREADS: usize = 2;

    /// The demo model, with what is chosen where nobody says.
    #[must_use]
    pub fn new(worker: WorkerCommand) -> Self {
        Self {
            worker,
            model: None,
            served_model_name: None,
            backend: BackendChoice::Auto,
            kv_tokens: None,
            max_batch_tokens: None,
            max_concurrent_requests: None,
            max_batch_size: None,
            itl_bound: None,
            prefix_cache: true,
            step_ahead: true,
            check_invariants: false,
            max_input_length: None,
            max_total_tokens: None,
            tgi: tgi::Limits::default(),
            chat_template: None,
            chat_overflow: ChatOverflow::default(),
            telemetry: TelemetryOptions::default(),
            tokenizer_threads: Self::TOKENIZER_THREADS,
            threads_per_rank: None,
            isa: None,
            collective_limit: Duration::from_secs(Self::COLLECTIVE_LIMIT_S.into()),
            step_limit: Duration::from_secs(Self::STEP_LIMIT_S.into()),
            pause_limit: Duration::from_secs(Self::PAUSE_LIMIT_S.into()),
            load_limit: Duration::from_secs(Self::LOAD_LIMIT_S.into()),
            restarts: RestartLimits::NEVER,
            cuda: CudaSettings::default(),
        }
    }
}

impl EngineOptions {
    /// Over how many workers the model is sharded: as `asked`, or as it was cut, or else `otherwise`.
    ///
    /// # Errors
    ///
    /// If the folder's manifest makes no sense.
    pub fn degree(&self, asked: Option<u32>, otherwise: u32) -> Result<u32, EngineError> {
        let cut = match (&self.model, asked) {
            (Some(dir), None) => Manifest::read(dir)?.map(|manifest| manifest.tensor_parallel as u32),
            _ => None,
        };
        Ok(asked.or(cut).unwrap_or(otherwise))
    }
}

/// Requests that run or wait at once, where nobody says how many: one for so many tokens of the KV cache, within limits.
const REQUEST_TOKENS: u32 = 128;
const CONCURRENT_REQUESTS_LEAST: u32 = 128;

/// A model whose workers have been started; they may still be loading.
pub struct Engine {
    /// The workers.
    pub coordinator: Coordinator,
    /// What answers requests.
    pub service: Service,
}

impl Engine {
    /// Starts `world` workers. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`EngineError`]: the model is not there or does not fit, or a setting does not suit it. What goes wrong in a worker is
    /// told by the coordinator's status.
    pub fn start(options: &EngineOptions, world: u32) -> Result<Self, EngineError> {
        let Prepared { tokenizer, chat, eos, info, processes, scheduling } = Prepared::new(options, world as usize)?;
        let tokenizing = TokenizerPool::start(tokenizer, options.tokenizer_threads, info.max_concurrent_requests)
            .map_err(EngineError::TokenizerThreads)?;
        let telemetry = Telemetry::new(options.telemetry.clone());
        let workers = Workers::Processes(Box::new(processes));
        let coordinator = Coordinator::start(scheduling, workers, Arc::new(telemetry.clone()));
        let service = Service::new(coordinator.clone(), tokenizing, chat, eos, info, telemetry);
        Ok(Self { coordinator, service })
    }

    /// What [`Engine::start`] would start, where it would not refuse; starts nothing.
    ///
    /// # Errors
    ///
    /// As [`Engine::start`].
    pub fn check(options: &EngineOptions, world: u32) -> Result<Info, EngineError> {
        Ok(Prepared::new(options, world as usize)?.info)
    }
}

/// All that is decided before a worker starts.
struct Prepared {
    tokenizer: Tokenizer,
    chat: Chat,
    /// Ids that end a text.
    eos: Vec<u32>,
    info: Info,
    processes: ProcessConfig,
    scheduling: CoordinatorConfig,
}

impl Prepared {
    fn new(options: &EngineOptions, world: usize) -> Result<Self, EngineError> {
        let model_dir = options.model.clone().map_or_else(demo::model_dir, Ok)?;
        if !model_dir.is_dir() {
            return Err(EngineError::NoFolder { dir: model_dir });
        }
        let (config, checkpoint) = open(&model_dir, options.backend)?;
        if let Some(checkpoint) = &checkpoint {
            checkpoint.check_degree(world)?;
        }
        let tokenizer = Tokenizer::open(&model_dir)?;
        compare_vocabularies(&config, &tokenizer)?;
        if tokenizer.ignores_clean_up() {
            tracing::info!("tokenizer_config.json `clean_up_tokenization_spaces` has no effect, as in transformers 5");
        }
        let eos = end_of_text(&model_dir, &config, &tokenizer)?;
        let template = match &options.chat_template {
            Some(file) => ChatTemplate::from_file(file, &model_dir)?,
            None => ChatTemplate::open(&model_dir)?,
        };
        let chat = Chat { template, overflow: options.chat_overflow };
        let backend = options.backend.resolve(world)?;
        let requests = options.max_concurrent_requests;
        let asked = Asked::new(&config, options.kv_tokens, options.max_batch_tokens, requests);
        let (config, fit) = Machine::of(backend, options.threads_per_rank, options.isa)
            .and_then(|machine| match checkpoint {
                Some(checkpoint) => {
                    let (checkpoint, fit) = machine.fit_checkpoint(checkpoint, world, &asked)?;
                    log_notes(&checkpoint);
                    Ok((checkpoint.config().clone(), fit))
                }
                None => machine.fit(&config, world, &asked).map(|fit| (config, fit)),
            })
            .map_err(|error| EngineError::Capacity { dir: model_dir.clone(), error })?;
        let kv_tokens = fit.kv_blocks * BLOCK_TOKENS as u32;
        let usual = (kv_tokens / REQUEST_TOKENS).clamp(CONCURRENT_REQUESTS_LEAST, CONCURRENT_REQUESTS_MAX);
        let max_concurrent_requests = options.max_concurrent_requests.unwrap_or(usual);
        let info = Info {
            model_id: options.served_model_name.clone().unwrap_or_else(|| model_id(&model_dir)),
            model_dir: model_dir.clone(),
            backend: backend.to_owned(),
            tensor_parallel: world,
            limits: options.limits(&config, &tokenizer, kv_tokens as usize, max_concurrent_requests)?,
            tgi: options.tgi_limits(max_concurrent_requests),
            max_concurrent_requests: max_concurrent_requests as usize,
        };
        let launch = Launch::new(backend, world, &options.cuda, &options.worker.variables)?;
        let processes = ProcessConfig {
            program: options.worker.program.clone(),
            name: options.worker.name.clone(),
            arguments: options.worker.arguments.clone(),
            environment: launch.environment,
            model_dir,
            tied: config.tied,
            backend: backend.to_owned(),
            threads_per_rank: threads_of_rank(options.threads_per_rank, world),
            isa: options.isa.map(|isa| isa.to_string()),
            collective_limit: options.collective_limit,
            rendezvous: launch.rendezvous,
            keep: launch.keep,
        };
        tracing::info!("KV cache of {kv_tokens} tokens, steps of up to {} tokens", fit.step_rows);
        let scheduling = options.scheduling(world, &fit, max_concurrent_requests);
        Ok(Self { tokenizer, chat, eos, info, processes, scheduling })
    }
}

/// Holds the checkpoint against its config, once for all ranks. No weight is read; the instant backend needs none.
fn open(model_dir: &Path, backend: BackendChoice) -> Result<(FalconConfig, Option<Unresolved>), EngineError> {
    if backend == BackendChoice::Instant {
        return Ok((weights::read_config(model_dir)?, None));
    }
    let checkpoint = Checkpoint::open_unresolved(model_dir)?;
    Ok((checkpoint.config().clone(), Some(checkpoint)))
}

/// Says in the log what a checkpoint's owner should know.
fn log_notes(checkpoint: &Checkpoint) {
    for note in checkpoint.notes() {
        if note.is_warning() {
            tracing::warn!("{note}");
        } else {
            tracing::info!("{note}");
        }
    }
}

impl EngineOptions {
    fn scheduling(&self, world: usize, fit: &Fit, max_concurrent_requests: u32) -> CoordinatorConfig {
        // A sequence that decodes needs a row of every step.
        let sequences_max = self.max_batch_size.unwrap_or(max_concurrent_requests).min(fit.step_rows);
        CoordinatorConfig {
            world,
            kv_blocks: fit.kv_blocks,
            step_rows_max: fit.step_rows as usize,
            sequences_max: sequences_max as usize,
            steps_in_flight_max: if self.step_ahead { 2 } else { 1 },
            prefix_cache: self.prefix_cache,
            itl_bound: self.itl_bound,
            step_limit: self.step_limit,
            pause_limit: self.pause_limit,
            load_limit: self.load_limit,
            restarts: self.restarts,
            check_invariants: self.check_invariants,
        }
    }

    fn limits(
        &self,
        config: &FalconConfig,
        tokenizer: &Tokenizer,
        room: usize,
        requests: u32,
    ) -> Result<Limits, EngineError> {
        let positions = config.max_positions;
        let total = self.max_total_tokens.unwrap_or_else(|| positions.min(room));
        if !(2..=positions).contains(&total) {
            return Err(EngineError::TotalTokens { total, positions });
        }
        if total > room {
            return Err(EngineError::TotalBeyondCache { total, room });
        }
        let (input, most) = (self.max_input_length.unwrap_or(total - 1), total - 1);
        if !(1..=most).contains(&input) {
            return Err(EngineError::InputLength { input, most });
        }
        let limits = Limits::of_model(positions, config.vocab, tokenizer.token_bytes_max());
        // Each sequence of a request counts as one of those that may run or wait.
        let max_continuations = limits.max_continuations.min(requests as usize);
        Ok(Limits { max_input_length: input, max_total_tokens: total, max_continuations, ..limits })
    }

    fn tgi_limits(&self, requests: u32) -> tgi::Limits {
        tgi::Limits { max_best_of: self.tgi.max_best_of.min(requests as usize), ..self.tgi }
    }
}

/// A model is called as its folder, or as its repository if that is a snapshot in Hugging Face's cache:
/// `models--ORG--NAME/snapshots/COMMIT`.
fn model_id(dir: &Path) -> String {
    let absolute = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let name = |dir: Option<&Path>| Some(dir?.file_name()?.to_string_lossy().into_owned());
    let parent = absolute.parent();
    let repository = name(parent.and_then(Path::parent)).filter(|_| name(parent).as_deref() == Some("snapshots"));
    let repository = repository.and_then(|folder| Some(folder.strip_prefix("models--")?.replacen("--", "/", 1)));
    repository.or_else(|| name(Some(&absolute))).unwrap_or_else(|| "model".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_called_as_its_folder_or_its_repository() {
        let root = tempfile::tempdir().expect("a folder");
        for (dir, id) in [
            ("falcon-7b", "falcon-7b"),
            ("hub/models--tiiuae--falcon-7b/snapshots/898df1396f35e447d5fe44e0a3ccaaaa69f30d36", "tiiuae/falcon-7b"),
            ("hub/models--gpt2/snapshots/898df1396f35e447d5fe44e0a3ccaaaa69f30d36", "gpt2"),
            ("mine/snapshots/7", "7"),
        ] {
            let dir = root.path().join(dir);
            std::fs::create_dir_all(&dir).expect("a folder");
            assert_eq!(model_id(&dir), id);
        }
        assert_eq!(model_id(Path::new("/")), "model");
    }
}
