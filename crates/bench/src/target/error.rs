//! Why a request failed.

use super::TargetOptions;
use std::path::PathBuf;
use std::time::Duration;

/// Longer messages of a server are cut off.
const MESSAGE_CHARS_MAX: usize = 300;

/// Why a request, or a server as a whole, cannot be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum TargetError {
    /// The address cannot be used.
    #[error("{address}: not an address: {reason}; expected HOST:PORT, http:// or https://")]
    Address {
        address: String,
        /// Why it cannot be used.
        reason: String,
    },
    /// The key cannot stand in a header.
    #[error("--api-key: expected visible ASCII characters")]
    ApiKey,
    /// The authorities cannot be used.
    #[error("--ca {}: {reason}", file.display())]
    Ca { file: PathBuf, reason: String },
    /// There is no connection.
    #[error("{address}: cannot connect: {reason}")]
    Connect { address: String, reason: String },
    /// The server refused the request: an HTTP or gRPC status.
    #[error("{status}: {message}")]
    Status {
        /// As in `422 Unprocessable Entity` or `INVALID_ARGUMENT`.
        status: String,
        message: String,
    },
    /// The answer holds an error: an event of a stream, or the body of a 200.
    #[error("error in the answer: {0}")]
    Reported(String),
    /// The answer stopped before its protocol's end.
    #[error("incomplete answer: {missing} is missing")]
    Incomplete { missing: String },
    /// The connection broke in the middle of an answer.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The answer is not what its protocol says.
    #[error("unexpected answer: {0}")]
    Unexpected(String),
    /// The answer did not end in time.
    #[error("no complete answer within --request-timeout {} s", .0.as_secs())]
    Late(Duration),
}

impl TargetError {
    pub(super) fn address(address: &str, error: &dyn std::error::Error) -> Self {
        Self::Address { address: address.to_owned(), reason: root(error) }
    }

    pub(super) fn ca(options: &TargetOptions, error: &dyn std::error::Error) -> Self {
        Self::Ca { file: options.ca.clone().unwrap_or_default(), reason: root(error) }
    }

    pub(super) fn incomplete(missing: impl Into<String>) -> Self {
        Self::Incomplete { missing: missing.into() }
    }

    pub(super) fn connect(address: &str, error: &dyn std::error::Error) -> Self {
        Self::Connect { address: address.to_owned(), reason: root(error) }
    }

    pub(super) fn broken(error: &dyn std::error::Error) -> Self {
        Self::Broken(root(error))
    }
}

/// The first cause; the layers above it say nothing more.
fn root(error: &dyn std::error::Error) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}

/// The beginning of a text, in one line.
pub(super) fn shortened(text: &str) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((at, _)) = line.char_indices().nth(MESSAGE_CHARS_MAX) {
        line.truncate(at);
        line.push('…');
    }
    line
}
