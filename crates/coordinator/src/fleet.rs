//! What is known of every rank. Pure: it is told what happens and says what follows.

use std::fmt;

/// How the model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// The workers read their shards; bytes over all ranks, `total` 0 until all have begun.
    Loading {
        /// Bytes read.
        done: u64,
        /// Bytes to read.
        total: u64,
    },
    /// Requests are served.
    Ready {
        /// What each rank holds, in rank order.
        memory: Vec<RankMemory>,
    },
    /// What was accepted is finished, and nothing else is accepted.
    Draining,
    /// The workers have been told to end, as they were asked to.
    Stopped,
    /// A worker failed, and the others have been ended.
    Failed {
        /// What the ranks said.
        reason: String,
    },
}

/// What a rank holds on its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RankMemory {
    /// Bytes of weights.
    pub weight_bytes: u64,
    /// Bytes of KV cache.
    pub kv_bytes: u64,
}

/// Something that happened to one rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RankEvent {
    /// Bytes read of its shard.
    Progress { done: u64, total: u64 },
    /// It can run steps.
    Ready(RankMemory),
    /// It says why it cannot go on.
    Error(String),
    /// Its connection ended without a word.
    Lost(String),
    /// Its process ended.
    Exited { status: String, last_words: String },
}

#[derive(Clone, Debug)]
enum Phase {
    Loading { done: u64, total: u64 },
    Ready(RankMemory),
    Ended,
}

/// What went wrong with a rank.
#[derive(Debug)]
enum Report {
    /// In its own words.
    Error(String),
    /// Its connection ended. Why is better told by the end of its process, if that follows.
    Lost(String),
    Exited {
        status: String,
        last_words: String,
    },
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(error) => f.write_str(error),
            Self::Lost(error) => write!(f, "connection lost: {error}"),
            Self::Exited { status, last_words } if last_words.is_empty() => write!(f, "worker ended: {status}"),
            Self::Exited { status, last_words } => write!(f, "worker ended: {status}; it said: {last_words}"),
        }
    }
}

/// All ranks of one epoch.
#[derive(Debug)]
pub(crate) struct Fleet {
    phases: Vec<Phase>,
    /// Which rank reported what, in the order in which it was heard.
    reports: Vec<(usize, Report)>,
    failed: bool,
}

/// What an event changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing but the progress of the load.
    None,
    /// All ranks are ready now.
    AllReady,
    /// The epoch has failed, just now. Other ranks may have more to say about why.
    Failed,
}

impl Fleet {
    pub(crate) fn new(world: usize) -> Self {
        Self { phases: vec![Phase::Loading { done: 0, total: 0 }; world], reports: Vec::new(), failed: false }
    }

    pub(crate) fn on(&mut self, rank: usize, event: RankEvent) -> Change {
        let report = match event {
            RankEvent::Progress { done, total } => {
                self.phases[rank] = Phase::Loading { done, total };
                return Change::None;
            }
            RankEvent::Ready(memory) => {
                self.phases[rank] = Phase::Ready(memory);
                return if self.memory().is_some() { Change::AllReady } else { Change::None };
            }
            RankEvent::Error(error) => Some(Report::Error(error)),
            RankEvent::Lost(_) if matches!(self.phases[rank], Phase::Ended) => None,
            RankEvent::Lost(error) => Some(Report::Lost(error)),
            RankEvent::Exited { status, last_words } => {
                self.phases[rank] = Phase::Ended;
                self.reports.retain(|(of, report)| *of != rank || !matches!(report, Report::Lost(_)));
                Some(Report::Exited { status, last_words })
            }
        };
        self.reports.extend(report.map(|report| (rank, report)));
        if std::mem::replace(&mut self.failed, true) { Change::None } else { Change::Failed }
    }

    /// What went wrong, as far as it is known.
    pub(crate) fn reason(&self) -> String {
        let reports: Vec<_> = self.reports.iter().map(|(rank, report)| format!("rank {rank}: {report}")).collect();
        reports.join("; ")
    }

    /// Bytes read and to be read, over all ranks; the second is 0 until all have begun.
    pub(crate) fn progress(&self) -> (u64, u64) {
        let mut sum = (0, 0);
        let mut all_begun = true;
        for phase in &self.phases {
            let (done, total) = match phase {
                Phase::Loading { done, total } => (*done, *total),
                Phase::Ready(memory) => (memory.weight_bytes, memory.weight_bytes),
                Phase::Ended => (0, 0),
            };
            all_begun &= total > 0;
            sum = (sum.0 + done, sum.1 + total);
        }
        (sum.0, if all_begun { sum.1 } else { 0 })
    }

    /// What every rank holds, once all are ready.
    pub(crate) fn memory(&self) -> Option<Vec<RankMemory>> {
        let memory = |phase: &Phase| match phase {
            Phase::Ready(memory) => Some(*memory),
            _ => None,
        };
        self.phases.iter().map(memory).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: RankMemory = RankMemory { weight_bytes: 10, kv_bytes: 5 };

    fn exited() -> RankEvent {
        RankEvent::Exited { status: "signal: 9 (SIGKILL)".to_owned(), last_words: "line".to_owned() }
    }

    #[test]
    fn ready_when_the_last_rank_is() {
        let mut fleet = Fleet::new(2);
        assert_eq!(fleet.on(1, RankEvent::Progress { done: 3, total: 10 }), Change::None);
        assert_eq!(fleet.progress(), (3, 0));
        assert_eq!(fleet.on(0, RankEvent::Progress { done: 1, total: 10 }), Change::None);
        assert_eq!(fleet.progress(), (4, 20));
        assert_eq!(fleet.on(1, RankEvent::Ready(MEMORY)), Change::None);
        assert_eq!(fleet.on(0, RankEvent::Ready(MEMORY)), Change::AllReady);
        assert_eq!(fleet.memory(), Some(vec![MEMORY; 2]));
    }

    #[test]
    fn a_lost_connection_is_explained_by_the_end_of_the_process() {
        let mut fleet = Fleet::new(2);
        assert_eq!(fleet.on(1, RankEvent::Lost("broken pipe".to_owned())), Change::Failed);
        assert_eq!(fleet.on(1, exited()), Change::None);
        assert_eq!(fleet.reason(), "rank 1: worker ended: signal: 9 (SIGKILL); it said: line");

        let mut fleet = Fleet::new(2);
        assert_eq!(fleet.on(1, exited()), Change::Failed);
        assert_eq!(fleet.on(1, RankEvent::Lost("broken pipe".to_owned())), Change::None);
        assert_eq!(fleet.on(0, RankEvent::Error("rank 1 left".to_owned())), Change::None);
        assert_eq!(fleet.reason(), "rank 1: worker ended: signal: 9 (SIGKILL); it said: line; rank 0: rank 1 left");
    }
}
