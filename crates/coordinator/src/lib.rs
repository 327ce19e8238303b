//! The workers of one model, and the loop that drives them step by step.
//!
//! * [`Coordinator`]: start it, submit requests, watch its [`Status`], drain or stop it.
//! * `epoch`: one life of all ranks, from their start until one of them fails: who they are, what they were sent, what they answered.
//! * `restart_policy` (pure): when the next epoch begins, if one does; `suspects` (pure): which request breaks the ranks.
//! * `fleet` (pure): what is known of every rank, and when all are ready or the epoch has failed.
//! * `watchdog` (pure): how long a step may take; `load_watch` (pure): whether a load still goes on; `idle_watch`
//!   (pure): whether ranks that have nothing to do still answer.
//! * `checksums` (pure): whether a rank that loads again reads what it read at first.
//! * `process`: one worker process, and the socket pair that ties its life to ours; `worker_log`: what it writes;
//!   `process_seen`: what the system tells of it.
//! * `in_process`: a rank within this process instead.
//! * `event`: what the loop reacts to, and what callers get.
//! * `ranks`: all of them, wherever they run; `results` (pure): what they have answered; `requests`: who waits for what.
//! * `survivors`: workers that go on when their epoch has failed, as their ranks are sound.
//! * `observer`: what is told of steps, for metrics and traces.
//! * `drive`: the loop: plan, send to all ranks, gather from all ranks, commit; and from epoch to epoch.
//!
//! A worker is reached over a socket pair that it inherits as its standard input. So there is no socket file to leave
//! behind, nobody else can connect, and either side's death is the end of the connection.
//!
//! **Invariants:** a step commits on all ranks or ends the epoch · an epoch begins when every process of the one before has
//! ended that does not go on · the scheduler is touched by one task only.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod checksums;
mod config;
mod drive;
mod epoch;
mod event;
mod fleet;
mod generation;
mod handle;
mod idle_watch;
mod in_process;
mod load_watch;
mod observer;
mod process;
mod process_seen;
mod ranks;
mod requests;
mod restart_policy;
mod results;
mod survivors;
mod suspects;
mod watchdog;
mod worker_log;

pub use config::{CoordinatorConfig, ProcessConfig, Rendezvous, Workers};
pub use event::Update;
pub use fleet::{RankMemory, Status};
pub use generation::{EndSequence, Generation};
pub use handle::{Activity, Coordinator, SubmitError};
pub use in_process::{InProcessRank, RankAnswers, RankCommands, RankFailure, RankRun};
pub use observer::{Observer, RankTimes, Recovery, StepRecord};
pub use restart_policy::RestartLimits;
pub use scheduler::{Occupancy, Submission, Totals};
