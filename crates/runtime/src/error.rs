//! Why an engine cannot be started. Settings go by the names of the command's flags.

use backend_cuda::DiscoverError;
use std::path::PathBuf;
use text::{ChatTemplateError, EosError, TokenizerError};
use weights::WeightsError;

/// Why an engine cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum EngineError {
    /// The model's folder is not there.
    #[error("--model {}: there is no such folder", .dir.display())]
    NoFolder {
        /// The folder that was named.
        dir: PathBuf,
    },
    /// The demo model was not installed, and the source tree is gone.
    #[error("the demo model is in none of {candidates:?}; name a model's folder with --model")]
    NoDemo {
        /// Where it was looked for.
        candidates: Vec<PathBuf>,
    },
    /// The model's config.json.
    #[error(transparent)]
    Config(#[from] WeightsError),
    /// The model's tokenizer.json, or a file beside it.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The model's chat template, or the one that was named.
    #[error(transparent)]
    ChatTemplate(#[from] ChatTemplateError),
    /// A file names an end of text that the model does not have.
    #[error("{}/{error}", .dir.display())]
    EndOfText {
        dir: PathBuf,
        /// The file, its key and the token.
        error: EosError,
    },
    /// Threads of the tokenizer.
    #[error("--tokenizer-threads: cannot start a thread: {0}")]
    TokenizerThreads(std::io::Error),
    /// The GPUs that were asked for.
    #[error("--backend cuda: {0}")]
    Gpus(DiscoverError),
    /// The model does not fit.
    #[error("--model {}: {error}", .dir.display())]
    Capacity { dir: PathBuf, error: CapacityError },
    /// The longest sequence is longer than the model can have one.
    #[error("--max-total-tokens is {total}, expected 2 to {positions}")]
    TotalTokens {
        /// Tokens that were asked for.
        total: usize,
        positions: usize,
    },
    /// The longest sequence is longer than the KV cache.
    #[error("--max-total-tokens is {total}, and --kv-tokens has room for {room} only")]
    TotalBeyondCache {
        /// Tokens that were asked for.
        total: usize,
        /// Tokens of the KV cache.
        room: usize,
    },
    /// The longest prompt leaves no room for an answer.
    #[error("--max-input-length is {input}, expected 1 to {most}")]
    InputLength {
        /// Tokens that were asked for.
        input: usize,
        /// One less than the longest sequence.
        most: usize,
    },
    /// The folders of the system's libraries.
    #[error("looking for NVIDIA's libraries: {0}")]
    Libraries(std::io::Error),
    /// NCCL was asked for, and is not there.
    #[error("--all-reduce nccl: {0}")]
    NoNccl(String),
}

/// Why a model cannot run on this machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CapacityError {
    /// The GPUs cannot be used.
    #[error(transparent)]
    Gpus(#[from] DiscoverError),
    /// Their memory, or the host's, is too small.
    #[error(transparent)]
    DoesNotFit(#[from] sizing::DoesNotFit),
}
