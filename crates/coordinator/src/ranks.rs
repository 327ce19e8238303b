//! The ranks of one epoch, wherever they run.

use crate::event::Sender;
use crate::in_process::InProcessWorker;
use crate::process::{WorkerProcess, load_request};
use crate::{CoordinatorConfig, InProcessRank, ProcessConfig, Workers};
use tokio::sync::mpsc;
use wire::control as pb;

/// One rank, and the means to end it. Dropping it lets it end by itself.
pub(crate) enum Worker {
    Process(WorkerProcess),
    InProcess(InProcessWorker),
}

/// A rank that runs steps.
pub(crate) struct RankLink {
    pub(crate) commands: mpsc::UnboundedSender<pb::WorkerCommand>,
    pub(crate) worker: Worker,
}

impl Worker {
    /// Opens its stream of steps.
    pub(crate) fn run(mut self, events: Sender) -> RankLink {
        let commands = match &mut self {
            Self::Process(process) => process.run(events),
            Self::InProcess(rank) => rank.run(),
        };
        RankLink { commands, worker: self }
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
    /// It must live as long as they do.
    pub(crate) _processes: Option<ProcessConfig>,
}

/// Starts all ranks and asks them to load.
pub(crate) async fn start(config: &CoordinatorConfig, workers: Workers, events: &Sender) -> Started {
    match workers {
        Workers::Processes(processes) => {
            let (workers, failure) = start_processes(config, &processes, events).await;
            Started { workers, failure, _processes: Some(processes) }
        }
        Workers::InProcess(ranks) => {
            Started { workers: start_in_process(config, ranks, events), failure: None, _processes: None }
        }
    }
}

async fn start_processes(
    config: &CoordinatorConfig,
    processes: &ProcessConfig,
    events: &Sender,
) -> (Vec<Worker>, Option<String>) {
    let (mut started, mut failure) = (Vec::new(), None);
    for rank in 0..config.world {
        match WorkerProcess::start(processes, rank, config.world, events.clone()).await {
            Ok(process) => started.push(process),
            Err(error) => {
                failure = Some(format!("rank {rank}: {error}"));
                break;
            }
        }
    }
    for (rank, process) in started.iter().enumerate().filter(|_| failure.is_none()) {
        process.load(load_request(config, processes, rank), events.clone());
    }
    (started.into_iter().map(Worker::Process).collect(), failure)
}

fn start_in_process(config: &CoordinatorConfig, ranks: Vec<InProcessRank>, events: &Sender) -> Vec<Worker> {
    assert_eq!(ranks.len(), config.world, "a rank for each of the tensor-parallel degree");
    let ranks = ranks.into_iter().enumerate();
    let workers: Vec<_> = ranks.map(|(rank, body)| InProcessWorker::new(rank, body, events.clone())).collect();
    workers.iter().for_each(|worker| worker.load(events));
    workers.into_iter().map(Worker::InProcess).collect()
}
