//! Why a backend could not do what it was asked.

use crate::CollectiveError;

/// Why a backend could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum BackendError {
    /// The device has no room.
    #[error("out of memory: {what} needs {bytes} bytes")]
    OutOfMemory { what: &'static str, bytes: usize },
    /// Another rank is gone, late, or did something else.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// Another rank is gone or late, as this rank sees it; its own device is sound as far as it knows.
    #[error("{operation}: {message}")]
    Peers { operation: &'static str, message: String },
    /// The device or its driver reports an error.
    #[error("{operation}: {message}")]
    Device { operation: &'static str, message: String },
}

impl BackendError {
    /// Whether it is another rank that is missed, and nothing is known to be wrong with this one.
    #[must_use]
    pub fn is_by_others(&self) -> bool {
        let of_collective = |error: &CollectiveError| {
            matches!(error, CollectiveError::Timeout { .. } | CollectiveError::Aborted { .. })
        };
        match self {
            Self::Peers { .. } => true,
            Self::Collective(error) => of_collective(error),
            Self::OutOfMemory { .. } | Self::Device { .. } => false,
        }
    }
}
