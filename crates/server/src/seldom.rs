//! Lines of the log that others can cause as often as they like.

use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::warn;

/// How often the log says so.
const INTERVAL: Duration = Duration::from_secs(60);

/// A warning that is said once a minute at most, with how often it was left out.
#[derive(Debug, Default)]
pub(crate) struct Seldom(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    said: Option<Instant>,
    left_out: u64,
}

impl Seldom {
    pub(crate) fn warn(&self, what: impl Display) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.said.is_some_and(|at| at.elapsed() < INTERVAL) {
            state.left_out += 1;
            return;
        }
        state.said = Some(Instant::now());
        match std::mem::take(&mut state.left_out) {
            0 => warn!("{what}"),
            times => warn!("{what} ({times} more like it since the last such line)"),
        }
    }
}
