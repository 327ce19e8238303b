//! Why a model's files are not to be had.

use crate::{Repository, StoreError};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a model's files are not to be had. Each text says what would help.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum SourceError {
    /// It is neither a folder nor the name of a repository.
    #[error(
        "--model {}: there is no such folder, and it is not ORG/NAME[@REVISION], a repository of the Hugging Face hub",
        .model.display()
    )]
    NoSuchModel { model: PathBuf },
    /// What is given as a revision cannot be one.
    #[error("--revision {revision}: expected a branch, a tag or a commit")]
    Revision { revision: String },
    /// No folder for downloads is known.
    #[error("there is no folder for downloads: name one by --cache-dir, HF_HOME or HOME")]
    NoCache,
    /// The variable for another hub holds no URL.
    #[error("HF_ENDPOINT: expected a URL as https://HOST, found {found:?}")]
    Endpoint { found: String },
    /// The token has characters that cannot be sent.
    #[error("{place}: this is no token: it has characters that no token has")]
    Token { place: String },
    /// The hub must not be asked, and the cache does not have the model, or not all of it.
    #[error(
        "{repository}: {missing} is not in {cache}, and HF_HUB_OFFLINE keeps the hub from being asked; `peregrine download \
         {repository}` brings it there"
    )]
    Offline { repository: Repository, missing: String, cache: PathBuf },
    /// Nobody answers.
    #[error(
        "{repository}: {url} cannot be reached: {reason}. --model takes a folder, too; HF_ENDPOINT names a mirror, HTTPS_PROXY \
         a proxy"
    )]
    Unreachable { repository: Repository, url: String, reason: String },
    /// There is no such repository, or it is not shown to whoever asks.
    #[error(
        "{repository}: there is no such folder, and {endpoint} has no such repository, or does not show it {}",
        if *.has_token { "to the owner of this token" } else { "without a token: HF_TOKEN, or `hf auth login`" }
    )]
    NoRepository { repository: Repository, endpoint: String, has_token: bool },
    /// There is no such branch, tag or commit.
    #[error("{repository}: {endpoint}/{} has no branch, tag or commit {:?}", .repository.id(), .repository.revision())]
    NoRevision { repository: Repository, endpoint: String },
    /// Its licence must be accepted first.
    #[error(
        "{repository}: the owner asks everybody to accept a licence first. Do so at {endpoint}/{}, {}",
        .repository.id(),
        if *.has_token {
            "with the account whose token this is, and wait if the owner must agree"
        } else {
            "and give that account's token as HF_TOKEN, or by `hf auth login`"
        }
    )]
    Gated { repository: Repository, endpoint: String, has_token: bool },
    /// The token is wrong.
    #[error(
        "{repository}: {endpoint} does not accept the token: it is wrong or has expired; make one at {endpoint}/settings/tokens"
    )]
    TokenRefused { repository: Repository, endpoint: String },
    /// Any other answer that is no success.
    #[error("{repository}: {url} answers {status}{message}")]
    Status {
        repository: Repository,
        url: String,
        status: u16,
        /// What it says besides, behind a colon; may be empty.
        message: String,
        /// How long to wait before another try, if it says so.
        after: Option<Duration>,
    },
    /// An answer is not what the hub's protocol says.
    #[error("{repository}: {url}: expected {expected}, found {found}")]
    Answer { repository: Repository, url: String, expected: &'static str, found: String },
    /// Weights in other formats only.
    #[error(
        "{repository}: it has no safetensors files{}; docs/getting-a-model.md says how other formats are converted",
        .other.as_ref().map(|file| format!(", but {file}")).unwrap_or_default()
    )]
    NoSafetensors {
        repository: Repository,
        /// A file of another format, if there is one.
        other: Option<String>,
    },
    /// The index of the weights names no files.
    #[error("{path}: expected an object `weight_map` of tensor names and file names, found {found}")]
    Index { path: PathBuf, found: String },
    /// Too little room.
    #[error(
        "{repository}: {needed} more are needed in {cache}, where {free} are free; make room, or name a folder on another \
         disk by --cache-dir or HF_HUB_CACHE"
    )]
    Room { repository: Repository, needed: String, free: String, cache: PathBuf },
    /// The connection broke again and again.
    #[error(
        "{repository}: {file} ended after {found} of {expected} bytes: {reason}. What has come is kept, and the next try goes \
         on from there"
    )]
    Cut { repository: Repository, file: String, found: u64, expected: u64, reason: String },
    /// Other bytes came than the hub has.
    #[error("{repository}: {file} came with the hash {found}, expected {expected}; what came is thrown away")]
    Hash { repository: Repository, file: String, expected: String, found: String },
    /// An object store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file of this machine.
    #[error("{path}: {reason}")]
    Io { path: PathBuf, reason: io::Error },
}

/// Answers that may be others a moment later.
const PASSING: [u16; 6] = [408, 429, 500, 502, 503, 504];

impl SourceError {
    /// Whether another try may go better.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Cut { .. } => true,
            Self::Status { status, .. } => PASSING.contains(status),
            _ => false,
        }
    }
}
