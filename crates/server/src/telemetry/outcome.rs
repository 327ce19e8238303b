//! How a request to generate can end.

use crate::Error;

/// How a request to generate ended: the label `err` of TGI's counter of failures, but for the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    Success,
    Validation,
    Overloaded,
    Incomplete,
    Generation,
    /// The model takes no requests: it loads, recovers and has no room for more that wait, has failed, or the server ends.
    Healthcheck,
    /// Its caller went away, or stopped reading.
    Dropped,
}

impl Outcome {
    pub(crate) const ALL: [Self; 7] = [
        Self::Success,
        Self::Validation,
        Self::Overloaded,
        Self::Incomplete,
        Self::Generation,
        Self::Healthcheck,
        Self::Dropped,
    ];

    /// Its name in metrics and in the log.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Validation => "validation",
            Self::Overloaded => "overloaded",
            Self::Incomplete => "incomplete",
            Self::Generation => "generation",
            Self::Healthcheck => "healthcheck",
            Self::Dropped => "dropped",
        }
    }
}

impl From<&Error> for Outcome {
    fn from(error: &Error) -> Self {
        match error {
            Error::Validation(_) => Self::Validation,
            Error::Overloaded { .. } => Self::Overloaded,
            Error::Incomplete => Self::Incomplete,
            Error::Generation { .. } | Error::Lost { .. } => Self::Generation,
            Error::Unavailable(_) | Error::Recovering { .. } => Self::Healthcheck,
            Error::Stalled { .. } => Self::Dropped,
        }
    }
}
