//! The ranks of one epoch, wherever they run.

use crate::event::{RankSender, Sender};
use crate::in_process::InProcessWorker;
use crate::process::{WorkerProcess, load_request};
use crate::{CoordinatorConfig, ProcessConfig, Workers};
use tokio::sync::mpsc;
use wire::control as pb;

/// One rank, and the means to end it. Dropping it lets it end by itself.
pub(crate) enum Worker {
    Process(Box<WorkerProcess>),
    InProcess(InProcessWorker),
}

/// A rank that runs steps.
pub(crate) struct RankLink {
    pub(crate) commands: mpsc::UnboundedSender<pb::WorkerCommand>,
    pub(crate) worker: Worker,
}

impl Worker {
    /// Opens its stream of steps.
    pub(crate) fn run(self) -> RankLink {
        let commands = match &self {
            Self::Process(process) => process.run(),
            Self::InProcess(rank) => rank.run(),
        };
        RankLink { commands, worker: self }
    }

    /// Asks whether it still answers.
    pub(crate) fn ping(&self) {
        match self {
            Self::Process(process) => process.ping(),
            Self::InProcess(rank) => rank.ping(),
        }
    }

    pub(crate) fn kill(self) {
        match self {
            Self::Process(process) => process.kill(),
            Self::InProcess(rank) => rank.kill(),
        }
    }

    /// Whether a signal has stopped its process.
    pub(crate) fn is_stopped(&self) -> bool {
        match self {
            Self::Process(process) => process.is_stopped(),
            Self::InProcess(_) => false,
        }
    }

    /// What can be told of it without asking it.
    pub(crate) fn seen(&self) -> String {
        match self {
            Self::Process(process) => process.seen(),
            Self::InProcess(_) => String::new(),
        }
    }
}

/// What has been started.
pub(crate) struct Started {
    /// In rank order. The end of each will be an event.
    pub(crate) workers: Vec<Worker>,
    /// Why the next one could not be started, if not all are there.
    pub(crate) failure: Option<String>,
}

/// Starts all ranks of an epoch and asks them to load.
pub(crate) async fn start(config: &CoordinatorConfig, workers: &Workers, events: &Sender, epoch: u64) -> Started {
    let sender = |rank| RankSender { events: events.clone(), epoch, rank };
    match workers {
        Workers::Processes(processes) => start_processes(config, processes, sender).await,
        Workers::InProcess(ranks) => {
            assert_eq!(ranks.len(), config.world, "a rank for each of the tensor-parallel degree");
            let start = |(rank, body)| Worker::InProcess(InProcessWorker::start(body, sender(rank)));
            Started { workers: ranks.iter().enumerate().map(start).collect(), failure: None }
        }
    }
}

async fn start_processes(
    config: &CoordinatorConfig,
    processes: &ProcessConfig,
    sender: impl Fn(usize) -> RankSender,
) -> Started {
    let rendezvous = match processes.rendezvous.as_ref().map(|rendezvous| rendezvous.for_epoch()).transpose() {
        Ok(rendezvous) => rendezvous,
        Err(error) => return Started { workers: Vec::new(), failure: Some(format!("where ranks meet: {error}")) },
    };
    let mut started = Vec::new();
    for rank in 0..config.world {
        match WorkerProcess::start(processes, rendezvous.as_ref(), config.world, sender(rank)).await {
            Ok(process) => started.push(Box::new(process)),
            Err(error) => {
                let workers = started.into_iter().map(Worker::Process).collect();
                return Started { workers, failure: Some(format!("rank {rank}: {error}")) };
            }
        }
    }
    started.iter().enumerate().for_each(|(rank, process)| process.load(load_request(config, processes, rank)));
    Started { workers: started.into_iter().map(Worker::Process).collect(), failure: None }
}
