//! The faults.

use crate::callers::{Order, Shared};
use crate::lives::{RANKS, Reader, Supervisor};
use crate::model::Model;
use crate::support::{Process, memory};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use std::sync::Arc;
use std::time::Duration;

/// What is done to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A worker is killed.
    KillRank,
    /// Several are.
    KillRanks,
    /// A worker is killed, and soon one more: of the same, of those that load, or of those that have begun to serve.
    KillAgain,
    /// Workers stand still for a while.
    PauseRanks,
    /// A worker stands still for ever.
    StopRank,
    /// The coordinator stands still for a while.
    PauseCoordinator,
    /// All processes do.
    PauseAll,
    /// The coordinator is killed. Its workers must end by themselves.
    KillCoordinator,
    /// All processes are killed.
    KillAll,
    /// Nobody reads the log for some time.
    LogStandsStill,
    /// Workers that start get too little memory.
    RefuseMemoryToStart,
    /// A worker that runs gets no more memory.
    RefuseMemory,
    /// A byte of the weights is changed under the mapping.
    ChangeByte,
    /// The weights are cut short under the mapping.
    CutFile,
    /// Callers close their connections.
    CloseSockets,
    /// Callers read no more.
    Vanish,
    /// Callers read slowly.
    SlowDown,
}

/// How often each comes among [`DECK_SIZE`].
const DECK: [(Fault, usize); 17] = [
    (Fault::KillRank, 4),
    (Fault::KillRanks, 2),
    (Fault::KillAgain, 2),
    (Fault::PauseRanks, 2),
    (Fault::StopRank, 1),
    (Fault::PauseCoordinator, 1),
    (Fault::PauseAll, 1),
    (Fault::KillCoordinator, 1),
    (Fault::KillAll, 1),
    (Fault::LogStandsStill, 2),
    (Fault::RefuseMemoryToStart, 1),
    (Fault::RefuseMemory, 1),
    (Fault::ChangeByte, 1),
    (Fault::CutFile, 1),
    (Fault::CloseSockets, 2),
    (Fault::Vanish, 1),
    (Fault::SlowDown, 1),
];

const DECK_SIZE: usize = 25;

/// Faults in a random order, of which each that there is comes among the first 25. In a longer run the first half is one life of the
/// coordinator, where all that grows shows.
pub fn faults(count: usize, random: &mut fastrand::Rng) -> Vec<Fault> {
    let mut faults = Vec::new();
    while faults.len() < count {
        let deck = DECK.iter().flat_map(|&(fault, times)| vec![fault; times]);
        let is_long_life = faults.len() + DECK_SIZE <= count / 2;
        let mut deck: Vec<_> = deck
            .map(|fault| match fault {
                Fault::KillCoordinator | Fault::KillAll if is_long_life => Fault::KillRanks,
                fault => fault,
            })
            .collect();
        random.shuffle(&mut deck);
        faults.append(&mut deck);
    }
    faults.truncate(count);
    faults
}

/// What a fault has done for sure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The ranks have failed, or will.
    Ranks,
    /// There is another coordinator.
    Coordinator,
    /// Nothing that anybody must recover from.
    Nothing,
}

/// Does things to a server.
pub struct Saboteur {
    /// The server.
    pub supervisor: Supervisor,
    /// Its weights.
    pub model: Model,
    /// Its callers.
    pub callers: Arc<Shared>,
    /// What happens next.
    pub random: fastrand::Rng,
    /// In how many further faults nobody reads the log.
    pub log_stands: usize,
}

impl Saboteur {
    /// Does it.
    pub async fn strike(&mut self, fault: Fault) -> Done {
        self.log_stands = self.log_stands.saturating_sub(1);
        self.supervisor.log.stand_still(self.log_stands > 0);
        match fault {
            Fault::KillRank => self.kill(1).await,
            Fault::KillRanks => self.kill(2).await,
            Fault::KillAgain => {
                self.kill(1).await;
                self.rest(700).await;
                self.kill(1).await
            }
            Fault::PauseRanks => self.pause(Some(false)).await,
            Fault::PauseCoordinator => self.pause(None).await,
            Fault::PauseAll => self.pause(Some(true)).await,
            Fault::StopRank => {
                let workers = self.supervisor.server().ranks(RANKS).await;
                let stopped = &workers[self.random.usize(..RANKS)];
                stopped.signal(Signal::STOP);
                stopped.ended().await;
                Done::Ranks
            }
            Fault::KillCoordinator => self.kill_coordinator(false).await,
            Fault::KillAll => self.kill_coordinator(true).await,
            Fault::LogStandsStill => {
                self.log_stands = self.random.usize(2..5);
                self.supervisor.log.stand_still(true);
                Done::Nothing
            }
            Fault::RefuseMemoryToStart => self.refuse_memory_to_start().await,
            Fault::RefuseMemory => self.refuse_memory().await,
            Fault::ChangeByte => self.change_byte().await,
            Fault::CutFile => self.cut_file().await,
            Fault::CloseSockets => self.order(8, Order::Close),
            Fault::Vanish => self.order(2, Order::Vanish),
            Fault::SlowDown => self.order(8, Order::Slow),
        }
    }

    async fn rest(&mut self, most_ms: u64) {
        tokio::time::sleep(Duration::from_millis(self.random.u64(..most_ms))).await;
    }

    fn order(&mut self, most: usize, order: Order) -> Done {
        let count = self.random.usize(1..=most);
        self.callers.order(count, order, &mut self.random);
        Done::Nothing
    }

    /// At least so many.
    async fn kill(&mut self, least: usize) -> Done {
        let mut workers = self.supervisor.server().ranks(RANKS).await;
        self.random.shuffle(&mut workers);
        let most = if least == 1 { 1 } else { RANKS };
        workers.truncate(self.random.usize(least..=most));
        workers.iter().for_each(|worker| worker.signal(Signal::KILL));
        for worker in workers {
            worker.ended().await;
        }
        Done::Ranks
    }

    /// Stops some workers, or none, or all, and with these or those the coordinator, for less than anybody's limit.
    async fn pause(&mut self, workers: Option<bool>) -> Done {
        let server = self.supervisor.server();
        let mut stopped = match workers {
            None => Vec::new(),
            Some(_) => server.ranks(RANKS).await,
        };
        self.random.shuffle(&mut stopped);
        let coordinator = workers != Some(false);
        if !coordinator {
            stopped.truncate(self.random.usize(1..=RANKS));
        }
        let signal = |signal| {
            stopped.iter().for_each(|worker: &Process| worker.signal(signal));
            if coordinator {
                server.signal(signal);
            }
        };
        signal(Signal::STOP);
        tokio::time::sleep(Duration::from_millis(self.random.u64(50..1500))).await;
        signal(Signal::CONT);
        Done::Nothing
    }

    async fn kill_coordinator(&mut self, workers_too: bool) -> Done {
        let reader = match self.random.u8(0..4) {
            0 => Reader::DiskFull,
            1 => Reader::StandsStill,
            _ => Reader::There,
        };
        self.supervisor.kill(workers_too, reader).await;
        Done::Coordinator
    }

    async fn refuse_memory_to_start(&mut self) -> Done {
        let server = self.supervisor.server();
        let coordinator = server.pid();
        // Children have their parent's limits. It has room for itself, and none of them for its share of the KV cache.
        limit(coordinator, Some(memory(coordinator, "VmData:") + (24 << 20)));
        let workers = server.ranks(RANKS).await;
        workers[self.random.usize(..RANKS)].signal(Signal::KILL);
        self.failed_by(&["memory"]).await;
        limit(coordinator, None);
        Done::Ranks
    }

    async fn refuse_memory(&mut self) -> Done {
        let workers = self.supervisor.server().ranks(RANKS).await;
        let worker = &workers[self.random.usize(..RANKS)];
        limit(worker.pid(), Some(0));
        // It may need none.
        match tokio::time::timeout(Duration::from_secs(1), worker.ended()).await {
            Ok(()) => Done::Ranks,
            Err(_) => {
                limit(worker.pid(), None);
                Done::Nothing
            }
        }
    }

    async fn change_byte(&mut self) -> Done {
        let workers = self.supervisor.server().ranks(RANKS).await;
        // What ranks compute with other weights is nobody's answer: they stand still until they load again.
        workers.iter().for_each(|worker| worker.signal(Signal::STOP));
        let tensor = format!("tensor `{}` is changed", self.model.change_a_byte(&mut self.random));
        workers[self.random.usize(..RANKS)].signal(Signal::KILL);
        self.failed_by(&[&tensor, Model::FILE]).await;
        self.model.put_right();
        Done::Ranks
    }

    async fn cut_file(&mut self) -> Done {
        self.model.cut(&mut self.random);
        self.failed_by(&[Model::FILE]).await;
        self.model.put_right();
        Done::Ranks
    }

    /// Waits until the server says that it does not serve, and why.
    async fn failed_by(&self, words: &[&str]) {
        let server = self.supervisor.server();
        let mut last = String::new();
        let waiting = async {
            while !words.iter().all(|word| last.contains(word)) {
                let answer = server.get("/health").await;
                if answer.status != 200 {
                    last = answer.body;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(30), waiting).await.is_err() {
            panic!("no failure by {words:?}, but {last:?}");
        }
    }
}

/// Limits the private memory of a process, or does so no more.
fn limit(pid: i32, bytes: Option<u64>) {
    // It may have ended.
    let _ = prlimit(Pid::from_raw(pid), Resource::Data, Rlimit { current: bytes, maximum: None });
}
