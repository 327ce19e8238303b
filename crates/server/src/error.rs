//! Why a request gets no answer.

use api::Violation;
use coordinator::SubmitError;
use std::time::Duration;

/// Why a request gets no answer. Each dialect has its own way to say so.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum Error {
    /// The request is at fault.
    #[error(transparent)]
    Validation(#[from] Violation),
    /// As many requests as may be are under way.
    #[error("Model is overloaded")]
    Overloaded {
        /// When one of them may have ended.
        retry_after: Duration,
    },
    /// The ranks have failed and are started again, and as many requests as may be wait for them.
    #[error("the model recovers from a failure, and as many requests wait as may")]
    Recovering {
        /// When it may serve again.
        retry_after: Duration,
    },
    /// The model takes no requests now.
    #[error(transparent)]
    Unavailable(#[from] SubmitError),
    /// The model fails at this request.
    #[error("{reason}")]
    Generation { reason: String },
    /// The model failed for good while it worked on the request.
    #[error("{reason}")]
    Lost { reason: String },
    /// The server ended before the request did.
    #[error("Incomplete generation")]
    Incomplete,
    /// The reader of a stream stood still for too long.
    #[error("nothing of the stream was read for {} s, so it was ended (--stalled-stream-timeout)", limit.as_secs())]
    Stalled { limit: Duration },
}

impl Error {
    /// When it may be worth to ask again, where that is known.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded { retry_after } | Self::Recovering { retry_after } => Some(*retry_after),
            _ => None,
        }
    }
}
