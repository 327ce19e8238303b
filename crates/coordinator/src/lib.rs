//! The workers of one model, and the loop that drives them step by step.
//!
//! * [`Coordinator`]: start it, submit requests, watch its [`Status`], drain or stop it.
//! * `fleet` (pure): what is known of every rank, and when all are ready or the epoch has failed.
//! * `watchdog` (pure): how long a step may take.
//! * `process`: one worker process, and the socket pair that ties its life to ours.
//! * `local`: a rank within this process instead.
//! * `drive`: the loop: plan, send to all ranks, gather from all ranks, commit.
//!
//! A worker is reached over a socket pair that it inherits as its standard input. So there is no socket file to leave
//! behind, nobody else can connect, and either side's death is the end of the connection.
//!
//! **Invariants:** a step commits on all ranks or ends the epoch · the scheduler is touched by one task only.

#![forbid(unsafe_code)]

mod config;
mod drive;
mod fleet;
mod generation;
mod handle;
mod local;
mod process;
mod watchdog;

pub use config::{CoordinatorConfig, ProcessConfig, Rendezvous, Workers};
pub use fleet::{RankMemory, Status};
pub use generation::{EndSequence, Generation, Update};
pub use handle::{Activity, Coordinator, SubmitError};
pub use local::{LocalAnswers, LocalCommands, LocalRank, LocalRun};
pub use scheduler::{Occupancy, Submission, Totals};
