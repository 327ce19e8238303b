//! Continuous batching as a pure state machine.
//!
//! [`Scheduler::submit`] queues a sequence, [`Scheduler::plan`] says what the ranks run next, [`Scheduler::commit`] takes
//! what they answer, [`Scheduler::abort`] ends a sequence early. One rule drives all of it: a sequence's computed tokens
//! catch up with its known tokens, under a budget of rows a step; when they have caught up, the next token is sampled.
//!
//! Full blocks are shared: what one sequence has computed, others that begin alike need not compute again. A block enters
//! this prefix cache when the step that filled it is committed, and stays until its room is needed.
//!
//! A step may be planned before the one ahead of it is committed: the sampled token is known on the ranks by then, though
//! not here. What turns out to be surplus, because a sequence ended meanwhile, is dropped at its commit.
//!
//! When the ranks are lost, what ran waits before all others, with its tokens, and is computed anew on those that take their place.
//!
//! **Invariants:** no tensor, clock, socket, log or random number · a sequence that is admitted has the blocks for all its
//! tokens reserved for it · a shared block is full, and nobody writes to it · no plan names a sequence after its end ·
//! whoever waits is overtaken by a bounded number of others.

#![forbid(unsafe_code)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod itl;
mod pool;
mod queue;
mod scheduler;
mod sequence;
mod types;

pub use itl::ItlController;
pub use pool::{BlockContent, BlockPool, PrefixId};
pub use scheduler::{Lost, Scheduler};
pub use sequence::Submission;
pub use types::{CommitError, Event, Occupancy, SchedulerConfig, SubmitError, Totals};
