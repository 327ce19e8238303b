//! What a coordinator is to run.

use crate::{InProcessRank, RestartLimits};
use std::any::Any;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

/// How requests are scheduled on the ranks.
#[derive(Clone, Debug)]
pub struct CoordinatorConfig {
    /// The tensor-parallel degree: how many workers.
    pub world: usize,
    /// Blocks of every worker's KV cache.
    pub kv_blocks: u32,
    /// The most rows of one step.
    pub step_rows_max: usize,
    /// The most sequences that run at once.
    pub sequences_max: usize,
    /// The most steps that are sent and not answered: 2, so that ranks never wait for the coordinator, or 1.
    pub steps_in_flight_max: usize,
    /// Sequences that begin alike share what has been computed.
    pub prefix_cache: bool,
    /// Prompts have no more rows of a step than keep it below this, if sequences wait for their next token.
    pub itl_bound: Option<Duration>,
    /// How long a step may take at least, before the ranks that have not answered it count as hung. It may take 20 times as
    /// long as the longest of its size, if that is more.
    pub step_limit: Duration,
    /// How long ranks that a step waits for may be stopped by a signal; that is no time of the step.
    pub pause_limit: Duration,
    /// How long the load may go without a byte read or a rank ready.
    pub load_limit: Duration,
    /// How often the ranks are started again after a failure.
    pub restarts: RestartLimits,
    /// The scheduler's invariants are checked whenever there is nothing to do. Debug builds always do that.
    pub check_invariants: bool,
}

/// What runs the steps.
pub enum Workers {
    /// A process for each rank.
    Processes(Box<ProcessConfig>),
    /// Ranks within this process, as many as the tensor-parallel degree.
    InProcess(Vec<InProcessRank>),
}

/// Makes what the ranks of an epoch meet over, and each is handed. Only the backend knows what it is.
pub trait Rendezvous: Send + Sync {
    /// Makes it new: of the epoch before, all have left it, or have ended. Ranks that go on have it already, so it must be the same.
    ///
    /// # Errors
    ///
    /// The system's.
    fn for_epoch(&self) -> std::io::Result<OwnedFd>;
}

impl<F: Fn() -> std::io::Result<OwnedFd> + Send + Sync> Rendezvous for F {
    fn for_epoch(&self) -> std::io::Result<OwnedFd> {
        self()
    }
}

/// How worker processes are started, and what they load.
pub struct ProcessConfig {
    /// The program that runs a rank.
    pub program: PathBuf,
    /// What it is called in lists of processes.
    pub name: OsString,
    /// Its arguments. `--rank R --world N` follow, so that a list of processes tells the ranks apart.
    pub arguments: Vec<OsString>,
    /// Variables that are set for it, beside those that it inherits.
    pub environment: Vec<(OsString, OsString)>,
    /// Folder with `config.json` and the checkpoint.
    pub model_dir: PathBuf,
    /// Whether the output projection is the embedding table, as the checkpoint was found to be.
    pub tied: bool,
    /// Name of the backend that the workers use.
    pub backend: String,
    /// Threads that compute in each worker.
    pub threads_per_rank: usize,
    /// Instruction set for the workers to use instead of the best one.
    pub isa: Option<String>,
    /// How long a rank waits for another.
    pub collective_limit: Duration,
    /// Over what they meet; `None` if there is one rank.
    pub rendezvous: Option<Box<dyn Rendezvous>>,
    /// What must live as long as they do.
    pub keep: Box<dyn Any + Send + Sync>,
}
