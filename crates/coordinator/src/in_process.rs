//! Ranks within this process: for tests, and to measure what the coordinator costs.

use crate::event::RankSender;
use crate::fleet::{RankEvent, RankMemory, Ready};
use std::pin::Pin;
use std::sync::Arc;
use step::{Command, StepResult};
use tokio::sync::mpsc;
use wire::control as pb;

/// What a rank does: it says that it is ready, runs commands, answers plans in their order, and ends when the commands do, or with an
/// error. It is called for each epoch.
pub type InProcessRank = Arc<dyn Fn(RankCommands, RankAnswers) -> RankRun + Send + Sync>;

/// A rank at work.
pub type RankRun = Pin<Box<dyn Future<Output = Result<(), RankFailure>> + Send>>;

/// Why a rank ends before its commands do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RankFailure {
    /// What it says itself.
    Error(String),
    /// As if somebody had killed its process.
    Killed,
}

impl From<String> for RankFailure {
    fn from(error: String) -> Self {
        Self::Error(error)
    }
}

/// A message to the rank.
pub struct RankCommands(mpsc::UnboundedReceiver<pb::WorkerCommand>);

impl RankCommands {
    /// The next command; `None` when there are no more.
    ///
    /// # Panics
    ///
    /// If the coordinator sends what is no command.
    pub async fn next(&mut self) -> Option<Command> {
        let command = self.0.recv().await?;
        Some(wire::command_from_wire(command).expect("the coordinator is of this build"))
    }
}

/// The way back to the coordinator.
pub struct RankAnswers(RankSender);

impl RankAnswers {
    /// The rank can run steps.
    pub fn ready(&self) {
        let memory = RankMemory { weight_bytes: 0, kv_bytes: 0 };
        self.0.event(RankEvent::Ready(Ready { memory, read_bytes: 0, can_rejoin: false }));
    }

    /// Answers the oldest plan that has not been answered.
    ///
    /// # Panics
    ///
    /// If the result cannot be said over the wire.
    pub fn send(&self, result: StepResult) {
        let result = wire::result_from_wire(wire::result_to_wire(result)).expect("what goes in comes out");
        self.0.result(result);
    }
}

/// A rank that runs. Without commands it ends.
pub(crate) struct InProcessWorker {
    events: RankSender,
    commands: mpsc::UnboundedSender<pb::WorkerCommand>,
    task: tokio::task::AbortHandle,
}

impl InProcessWorker {
    pub(crate) fn start(body: &InProcessRank, events: RankSender) -> Self {
        // As many plans as there may be in flight.
        let (commands, commands_from) = mpsc::unbounded_channel();
        let task = tokio::spawn(body(RankCommands(commands_from), RankAnswers(events.clone())));
        let (abort, ended) = (task.abort_handle(), events.clone());
        tokio::spawn(async move {
            let (status, killed) = match task.await {
                Ok(Ok(())) => ("it ended".to_owned(), false),
                Ok(Err(RankFailure::Killed)) => ("it was killed".to_owned(), true),
                Ok(Err(RankFailure::Error(error))) => {
                    ended.event(RankEvent::Error(error));
                    ("it failed".to_owned(), false)
                }
                Err(error) => (error.to_string(), false),
            };
            ended.event(RankEvent::Exited { status, killed, last_words: String::new() });
        });
        Self { events, commands, task: abort }
    }

    pub(crate) fn run(&self) -> mpsc::UnboundedSender<pb::WorkerCommand> {
        self.commands.clone()
    }

    /// It shares this process, which is there.
    pub(crate) fn ping(&self) {
        self.events.pong();
    }

    pub(crate) fn kill(self) {
        self.task.abort();
    }
}
