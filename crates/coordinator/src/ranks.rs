//! The ranks of one epoch, wherever they run.

use crate::event::{RankSender, Sender};
use crate::in_process::InProcessWorker;
use crate::process::{WorkerProcess, load_request};
use crate::{CoordinatorConfig, ProcessConfig, Workers};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
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

    /// Its rank, if it can be asked to leave the others.
    pub(crate) fn rank(&self) -> Option<usize> {
        match self {
            Self::Process(process) => Some(process.rank()),
            Self::InProcess(_) => None,
        }
    }

    /// The id of its process, if it has one of its own.
    pub(crate) fn pid(&self) -> Option<u32> {
        match self {
            Self::Process(process) => process.pid(),
            Self::InProcess(_) => None,
        }
    }

    /// Asks it to leave the others; the answer will be an event.
    pub(crate) fn leave(&self) {
        if let Self::Process(process) = self {
            process.leave();
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
    /// In rank order; some have been kept. The end of each will be an event.
    pub(crate) workers: Vec<Worker>,
    /// Why not all are there, if so.
    pub(crate) failure: Option<String>,
}

/// Starts the ranks of an epoch and asks them to load, but for `kept`, by their ranks, which have left the epoch before and are asked
/// to rejoin.
pub(crate) async fn start(
    config: &CoordinatorConfig,
    workers: &Workers,
    events: &Sender,
    epoch: u64,
    kept: BTreeMap<usize, Worker>,
) -> Started {
    let sender = |rank| RankSender { events: events.clone(), epoch, rank };
    match workers {
        Workers::Processes(processes) => start_processes(config, processes, sender, kept).await,
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
    kept: BTreeMap<usize, Worker>,
) -> Started {
    let adopt = |(rank, worker)| match worker {
        Worker::Process(process) => Some((rank, Box::new(process.adopt(sender(rank))?))),
        Worker::InProcess(_) => None,
    };
    let mut started: BTreeMap<usize, Box<WorkerProcess>> = kept.into_iter().filter_map(adopt).collect();
    let rejoining: Vec<usize> = started.keys().copied().collect();
    let failure = start_missing(config, processes, sender, &mut started).await.err();
    for (rank, process) in started.iter().filter(|_| failure.is_none()) {
        if rejoining.contains(rank) {
            process.rejoin();
        } else {
            process.load(load_request(config, processes, *rank));
        }
    }
    Started { workers: started.into_values().map(Worker::Process).collect(), failure }
}

/// Starts a process for each rank that has none.
async fn start_missing(
    config: &CoordinatorConfig,
    processes: &ProcessConfig,
    sender: impl Fn(usize) -> RankSender,
    started: &mut BTreeMap<usize, Box<WorkerProcess>>,
) -> Result<(), String> {
    let rendezvous = processes.rendezvous.as_ref().map(|rendezvous| rendezvous.for_epoch()).transpose();
    let rendezvous = rendezvous.map_err(|error| format!("where ranks meet: {error}"))?;
    for rank in 0..config.world {
        if let Entry::Vacant(missing) = started.entry(rank) {
            let process = WorkerProcess::start(processes, rendezvous.as_ref(), config.world, sender(rank)).await;
            missing.insert(Box::new(process.map_err(|error| format!("rank {rank}: {error}"))?));
        }
    }
    Ok(())
}
