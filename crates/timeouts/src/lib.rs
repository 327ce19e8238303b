//! How long to wait for what may hang.
//!
//! * [`Stopwatch`]: a clock that stands still while its owner, or whom it waits for, is paused.
//! * [`StepTimeLimits`]: how long a step may take, for the coordinator and for a rank.
//! * [`is_stopped`]: whether a signal has stopped a process.
//! * [`Backoff`]: how often to ask for what is not there yet.
//!
//! **Invariant:** a limit counts time in which its own watcher ran. All processes, or one, may stand still for any time (a
//! paused container, a migrated machine, ctrl-z) and go on.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod backoff;
mod step_time_limits;
mod stopped;
mod stopwatch;

pub use backoff::Backoff;
pub use step_time_limits::StepTimeLimits;
pub use stopped::{is_stopped, process_state};
pub use stopwatch::Stopwatch;
