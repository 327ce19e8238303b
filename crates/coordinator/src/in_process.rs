//! Ranks within this process: for tests, and to measure what the coordinator costs.

use crate::event::{Event, Sender};
use crate::fleet::{RankEvent, RankMemory};
use std::pin::Pin;
use step::{Command, StepResult};
use tokio::sync::{mpsc, oneshot};
use wire::control as pb;

/// What a rank does: it runs commands, answers plans in their order, and ends when the commands do, or with an error.
pub type InProcessRank = Box<dyn FnOnce(RankCommands, RankAnswers) -> RankRun + Send>;

/// A rank at work.
pub type RankRun = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

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
pub struct RankAnswers {
    rank: usize,
    events: Sender,
}

impl RankAnswers {
    /// Answers the oldest plan that has not been answered.
    ///
    /// # Panics
    ///
    /// If the result cannot be said over the wire.
    pub fn send(&self, result: StepResult) {
        let result = wire::result_from_wire(wire::result_to_wire(result)).expect("what goes in comes out");
        self.events.send(Event::Result { rank: self.rank, result });
    }
}

/// A rank that may not run yet.
pub(crate) struct InProcessWorker {
    rank: usize,
    commands: mpsc::UnboundedSender<pb::WorkerCommand>,
    /// Used to let it run, or dropped before: then it ends.
    start: Option<oneshot::Sender<()>>,
    task: tokio::task::AbortHandle,
}

impl InProcessWorker {
    pub(crate) fn new(rank: usize, body: InProcessRank, events: Sender) -> Self {
        // As many plans as there may be in flight.
        let (commands, commands_from) = mpsc::unbounded_channel();
        let (start, started) = oneshot::channel();
        let answers = RankAnswers { rank, events: events.clone() };
        let task = tokio::spawn(async move {
            match started.await {
                Ok(()) => body(RankCommands(commands_from), answers).await,
                Err(_) => Ok(()),
            }
        });
        let abort = task.abort_handle();
        tokio::spawn(async move {
            let status = match task.await {
                Ok(Ok(())) => "it ended".to_owned(),
                Ok(Err(error)) => {
                    events.rank(rank, RankEvent::Error(error));
                    "it failed".to_owned()
                }
                Err(error) => error.to_string(),
            };
            events.rank(rank, RankEvent::Exited { status, last_words: String::new() });
        });
        Self { rank, commands, start: Some(start), task: abort }
    }

    /// There is nothing to load.
    pub(crate) fn load(&self, events: &Sender) {
        events.rank(self.rank, RankEvent::Ready(RankMemory { weight_bytes: 0, kv_bytes: 0 }));
    }

    pub(crate) fn run(&mut self) -> mpsc::UnboundedSender<pb::WorkerCommand> {
        let start = self.start.take().expect("a rank runs once");
        // If it is gone, its end is on the way.
        let _ = start.send(());
        self.commands.clone()
    }

    pub(crate) fn kill(self) {
        self.task.abort();
    }
}
