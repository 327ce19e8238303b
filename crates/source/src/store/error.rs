//! Why a model cannot be brought from an object store, or be written there.

use super::StoreUrl;
use std::io;
use std::path::PathBuf;

/// Why a model cannot be brought from an object store, or be written there. Each text names the object or the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum StoreError {
    /// It is a URL of something else.
    #[error("{url}: expected s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX")]
    Url { url: String },
    /// The variables make no sense together.
    #[error("{url}: {reason}")]
    Settings { url: StoreUrl, reason: String },
    /// The endpoint is not encrypted, and nobody has allowed that.
    #[error("{url}: the endpoint {endpoint} is not encrypted: set AWS_ALLOW_HTTP=true if that is meant")]
    PlainHttp { url: StoreUrl, endpoint: String },
    /// No folder for what is fetched is known.
    #[error("{url}: there is no folder for what is fetched: name one by --cache-dir, XDG_CACHE_HOME or HOME")]
    NoCache { url: StoreUrl },
    /// The store does not let whoever asks.
    #[error("{object}: the store refuses: {reason}{hint}")]
    Denied { object: String, reason: String, hint: &'static str },
    /// There is no such bucket or object.
    #[error("{object}: there is no such object")]
    NotFound { object: String },
    /// Nothing that could be a model.
    #[error("{url}: expected {expected}, found {found}")]
    NoModel { url: StoreUrl, expected: String, found: String },
    /// Nobody answers, or not as expected, again and again.
    #[error("{object}: {reason}")]
    Failed { object: String, reason: String },
    /// Somebody has written to it meanwhile.
    #[error("{object}: it was changed while it was fetched; start again")]
    Changed { object: String },
    /// Other bytes came than were asked for.
    #[error("{object}: expected {expected} bytes, found {found}")]
    Length { object: String, expected: u64, found: u64 },
    /// Other bytes came than were uploaded.
    #[error(
        "{object}: what came has {found}, expected {expected}; it is thrown away, and the next start fetches it again"
    )]
    Checksum { object: String, expected: String, found: String },
    /// Too little room.
    #[error(
        "{url}: {needed} bytes more are needed in {cache}, where {free} are free; make room, or name a folder on another disk \
         by --cache-dir"
    )]
    Room { url: StoreUrl, needed: u64, free: u64, cache: PathBuf },
    /// The place is taken.
    #[error("{url}: there is a model already, as {found}; name another place")]
    Taken { url: StoreUrl, found: String },
    /// A file of this machine.
    #[error("{path}: {reason}")]
    Io { path: PathBuf, reason: io::Error },
}
