//! What a coordinator is to run.

use std::any::Any;
use std::path::PathBuf;
use std::time::Duration;

/// What to run, and how.
#[derive(Clone, Debug)]
pub struct CoordinatorConfig {
    /// The program to start for a worker, with its arguments.
    pub worker_command: Vec<String>,
    /// Folder with `config.json` and the checkpoint.
    pub model_dir: PathBuf,
    /// Name of the backend that the workers use.
    pub backend: String,
    /// The tensor-parallel degree: how many workers.
    pub world: usize,
    /// Blocks of every worker's KV cache.
    pub kv_blocks: u32,
    /// The most rows of one step.
    pub step_rows_max: usize,
    /// The most sequences that run at once.
    pub sequences_max: usize,
    /// Threads that compute in each worker.
    pub threads_per_rank: usize,
    /// Instruction set for the workers to use instead of the best one.
    pub isa: Option<String>,
    /// How long a rank waits for another.
    pub collective_limit: Duration,
    /// How long a step may take at least, before the ranks that have not answered it count as hung. It may take 20 times as
    /// long as the longest of its size, if that is more.
    pub step_limit: Duration,
}

/// A place where the ranks of one epoch meet. Only the backend knows what it is.
pub struct Rendezvous {
    /// How a rank finds it; empty if there is one rank.
    pub address: String,
    /// What must live as long as the place is needed.
    pub keep: Box<dyn Any + Send>,
}
