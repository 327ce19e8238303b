//! Workers that outlive their epoch: those whose ranks are sound are asked to leave the others, and go on in the next one.

use crate::ranks::Worker;
use std::collections::BTreeMap;
use tracing::warn;

/// They, by their ranks.
#[derive(Default)]
pub(crate) struct Survivors {
    /// Asked, and not heard of yet.
    leaving: BTreeMap<usize, Worker>,
    left: BTreeMap<usize, Worker>,
}

impl Survivors {
    /// Asks a rank to leave the others.
    pub(crate) fn ask(&mut self, rank: usize, worker: Worker) {
        worker.leave();
        self.leaving.insert(rank, worker);
    }

    /// What a rank has answered.
    pub(crate) fn on_left(&mut self, rank: usize, left: Result<(), String>) {
        // One that has been given up may answer all the same.
        let Some(worker) = self.leaving.remove(&rank) else { return };
        match left {
            Ok(()) => drop(self.left.insert(rank, worker)),
            Err(error) => {
                warn!("rank {rank} cannot be kept: {error}");
                worker.kill();
            }
        }
    }

    /// The process of a rank has ended.
    pub(crate) fn on_exit(&mut self, rank: usize) {
        self.leaving.remove(&rank);
        self.left.remove(&rank);
    }

    /// How many have left, and wait for what follows.
    pub(crate) fn count(&self) -> usize {
        self.left.len()
    }

    /// Kills those who have not answered.
    pub(crate) fn give_up(&mut self) {
        for (rank, worker) in std::mem::take(&mut self.leaving) {
            warn!("rank {rank} does not leave the others {}", worker.seen());
            worker.kill();
        }
    }

    /// Kills all.
    pub(crate) fn kill(&mut self) {
        let all = std::mem::take(&mut self.leaving).into_values().chain(self.take().into_values());
        all.for_each(Worker::kill);
    }

    /// Those who have left.
    pub(crate) fn take(&mut self) -> BTreeMap<usize, Worker> {
        std::mem::take(&mut self.left)
    }
}
