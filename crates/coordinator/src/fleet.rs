//! What is known of every rank. Pure: it is told what happens and says what follows.

use crate::load_watch::Mark;
use std::fmt;
use std::time::SystemTime;

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
    /// The workers have failed, and others take their place. What was accepted goes on then, and what is submitted waits.
    Recovering {
        /// Since when.
        since: SystemTime,
        /// How often they have failed since they were ready last.
        failures: u32,
        /// What the ranks said last.
        reason: String,
    },
    /// What was accepted is finished, and nothing else is accepted.
    Draining,
    /// The workers have been told to end, as they were asked to.
    Stopped,
    /// The workers have failed, and are not started again.
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

/// What a rank says when it can run steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) memory: RankMemory,
    /// Bytes that it read of files, to become so.
    pub(crate) read_bytes: u64,
    /// It may be told to leave the others when one of them fails, and to rejoin.
    pub(crate) can_rejoin: bool,
}

/// Something that happened to one rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RankEvent {
    /// Bytes read of its shard.
    Progress { done: u64, total: u64 },
    /// It can run steps.
    Ready(Ready),
    /// It says why it cannot go on.
    Error(String),
    /// It says that it misses another rank.
    Misses(String),
    /// It has left the other ranks, as it was asked to; or why it could not.
    Left(Result<(), String>),
    /// Its connection ended without a word.
    Lost(String),
    /// Its process ended; `killed`: by what was done to it, as by a signal that somebody sent.
    Exited { status: String, killed: bool, last_words: String },
}

#[derive(Clone, Debug)]
enum Phase {
    Loading { done: u64, total: u64 },
    Ready(Ready),
    Ended,
}

/// What went wrong with a rank.
#[derive(Debug)]
enum Report {
    /// In its own words.
    Error(String),
    /// Its connection ended. If its process ends, too, that says better why.
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

/// Bytes of a report in the reason of a failure.
const REPORT_BYTES_MAX: usize = 1024;

/// The text, cut to at most `bytes_max` bytes and an ellipsis.
pub(crate) fn shortened(text: &str, bytes_max: usize) -> String {
    match text.floor_char_boundary(bytes_max) {
        end if end < text.len() => format!("{} …", &text[..end]),
        _ => text.to_owned(),
    }
}

/// All ranks of one epoch.
#[derive(Debug)]
pub(crate) struct Fleet {
    phases: Vec<Phase>,
    /// Which rank reported what, in the order in which it was heard.
    reports: Vec<(usize, Report)>,
    /// Whether each can leave the others and rejoin them, as far as is known.
    sound: Vec<bool>,
    /// Whether each rejoins: what it says of its load was read long ago.
    rejoins: Vec<bool>,
    /// Bytes that each has read of files.
    read_bytes: Vec<u64>,
    failed: bool,
    killed: bool,
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
    /// `kept` are those that rejoin; the others load.
    pub(crate) fn new(world: usize, kept: &[usize]) -> Self {
        Self {
            sound: (0..world).map(|rank| kept.contains(&rank)).collect(),
            rejoins: (0..world).map(|rank| kept.contains(&rank)).collect(),
            read_bytes: vec![0; world],
            phases: vec![Phase::Loading { done: 0, total: 0 }; world],
            reports: Vec::new(),
            failed: false,
            killed: false,
        }
    }

    pub(crate) fn on(&mut self, rank: usize, event: RankEvent) -> Change {
        let report = match event {
            // What it had said before it ended comes late.
            RankEvent::Progress { .. } | RankEvent::Ready(_) if matches!(self.phases[rank], Phase::Ended) => {
                return Change::None;
            }
            RankEvent::Progress { done, total } => {
                self.phases[rank] = Phase::Loading { done, total };
                if !self.rejoins[rank] {
                    self.read_bytes[rank] = done;
                }
                return Change::None;
            }
            RankEvent::Ready(ready) => {
                self.phases[rank] = Phase::Ready(ready);
                self.sound[rank] = ready.can_rejoin;
                self.read_bytes[rank] = ready.read_bytes;
                return if self.memory().is_some() && !self.failed { Change::AllReady } else { Change::None };
            }
            // Nobody is asked to leave before the epoch has ended.
            RankEvent::Left(_) => return Change::None,
            RankEvent::Misses(error) => Some(Report::Error(error)),
            RankEvent::Error(error) => {
                self.sound[rank] = false;
                Some(Report::Error(error))
            }
            RankEvent::Lost(_) if matches!(self.phases[rank], Phase::Ended) => None,
            RankEvent::Lost(error) => {
                self.sound[rank] = false;
                Some(Report::Lost(error))
            }
            RankEvent::Exited { status, killed, last_words } => {
                self.killed |= killed;
                self.sound[rank] = false;
                self.phases[rank] = Phase::Ended;
                self.reports.retain(|(of, report)| *of != rank || !matches!(report, Report::Lost(_)));
                Some(Report::Exited { status, last_words })
            }
        };
        self.reports.extend(report.map(|report| (rank, report)));
        if std::mem::replace(&mut self.failed, true) { Change::None } else { Change::Failed }
    }

    /// What went wrong, as far as it is known. What several ranks say alike is said once, and no report is so long that it
    /// hides the others.
    pub(crate) fn reason(&self) -> String {
        let mut said: Vec<(String, Vec<String>)> = Vec::new();
        for (rank, report) in &self.reports {
            let report = report.to_string();
            match said.iter_mut().find(|(other, _)| *other == report) {
                Some((_, ranks)) => ranks.push(rank.to_string()),
                None => said.push((report, vec![rank.to_string()])),
            }
        }
        let told = said.iter().map(|(report, ranks)| {
            let who = if ranks.len() == 1 { "rank" } else { "ranks" };
            format!("{who} {}: {}", ranks.join(", "), shortened(report, REPORT_BYTES_MAX))
        });
        told.collect::<Vec<_>>().join("; ")
    }

    /// Somebody has killed a rank. What others say then is only that they miss it.
    pub(crate) fn killed(&self) -> bool {
        self.killed
    }

    /// Bytes read and to be read, over all ranks; the second is 0 until all have begun.
    pub(crate) fn progress(&self) -> (u64, u64) {
        let mut sum = (0, 0);
        let mut all_begun = true;
        for phase in &self.phases {
            let (done, total) = match phase {
                Phase::Loading { done, total } => (*done, *total),
                Phase::Ready(Ready { memory, .. }) => (memory.weight_bytes, memory.weight_bytes),
                Phase::Ended => (0, 0),
            };
            all_begun &= total > 0;
            sum = (sum.0 + done, sum.1 + total);
        }
        (sum.0, if all_begun { sum.1 } else { 0 })
    }

    /// Bytes that have been read of files, by all ranks.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.read_bytes.iter().sum()
    }

    /// Whether the rank can leave the others and rejoin them: it has said so, and nothing is known to be wrong with it.
    pub(crate) fn is_sound(&self, rank: usize) -> bool {
        self.sound[rank]
    }

    /// Something is wrong with some rank, and nobody knows with which.
    pub(crate) fn trust_nobody(&mut self) {
        self.sound.fill(false);
    }

    /// How far the load is.
    pub(crate) fn mark(&self) -> Mark {
        (self.progress().0, self.phases.iter().filter(|phase| matches!(phase, Phase::Ready(_))).count())
    }

    /// Whether a rank still loads.
    pub(crate) fn is_loading(&self, rank: usize) -> bool {
        matches!(self.phases[rank], Phase::Loading { .. })
    }

    /// What every rank holds, once all are ready.
    pub(crate) fn memory(&self) -> Option<Vec<RankMemory>> {
        let memory = |phase: &Phase| match phase {
            Phase::Ready(ready) => Some(ready.memory),
            _ => None,
        };
        self.phases.iter().map(memory).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: RankMemory = RankMemory { weight_bytes: 10, kv_bytes: 5 };
    const READY: Ready = Ready { memory: MEMORY, read_bytes: 10, can_rejoin: true };

    fn exited() -> RankEvent {
        RankEvent::Exited { status: "signal: 9 (SIGKILL)".to_owned(), killed: true, last_words: "line".to_owned() }
    }

    #[test]
    fn ready_when_the_last_rank_is() {
        let mut fleet = Fleet::new(2, &[]);
        assert_eq!(fleet.on(1, RankEvent::Progress { done: 3, total: 10 }), Change::None);
        assert_eq!(fleet.progress(), (3, 0));
        assert_eq!(fleet.on(0, RankEvent::Progress { done: 1, total: 10 }), Change::None);
        assert_eq!(fleet.progress(), (4, 20));
        assert_eq!(fleet.on(1, RankEvent::Ready(READY)), Change::None);
        assert_eq!(fleet.on(0, RankEvent::Ready(READY)), Change::AllReady);
        assert_eq!(fleet.memory(), Some(vec![MEMORY; 2]));
    }

    #[test]
    fn a_rank_that_has_ended_is_not_ready_any_more() {
        let mut fleet = Fleet::new(2, &[]);
        fleet.on(0, RankEvent::Ready(READY));
        assert_eq!(fleet.on(1, exited()), Change::Failed);
        assert_eq!(fleet.on(1, RankEvent::Progress { done: 3, total: 10 }), Change::None);
        assert_eq!(fleet.on(1, RankEvent::Ready(READY)), Change::None);
        assert_eq!((fleet.memory(), fleet.progress()), (None, (10, 0)));

        // Nor is a fleet of which one has failed, although it has not ended.
        let mut fleet = Fleet::new(2, &[]);
        assert_eq!(fleet.on(0, RankEvent::Error("no room".to_owned())), Change::Failed);
        fleet.on(0, RankEvent::Ready(READY));
        assert_eq!(fleet.on(1, RankEvent::Ready(READY)), Change::None);
    }

    #[test]
    fn what_a_rank_says_has_a_limit() {
        let mut fleet = Fleet::new(2, &[]);
        fleet.on(0, RankEvent::Error("é".repeat(10_000)));
        fleet.on(1, RankEvent::Error("no room".to_owned()));
        assert_eq!(fleet.reason(), format!("rank 0: {} …; rank 1: no room", "é".repeat(REPORT_BYTES_MAX / 2)));
        for (bytes_max, expected) in [(4, "aéb"), (3, "aé …"), (2, "a …"), (0, " …")] {
            assert_eq!(shortened("aéb", bytes_max), expected);
        }
    }

    #[test]
    fn what_ranks_say_alike_is_said_once() {
        let mut fleet = Fleet::new(4, &[]);
        for rank in [2, 0, 3] {
            fleet.on(rank, RankEvent::Error("no room".to_owned()));
        }
        fleet.on(1, RankEvent::Error("rank 2 left".to_owned()));
        assert_eq!(fleet.reason(), "ranks 2, 0, 3: no room; rank 1: rank 2 left");
    }

    #[test]
    fn a_lost_connection_is_explained_by_the_end_of_the_process() {
        let mut fleet = Fleet::new(2, &[]);
        assert_eq!(fleet.on(1, RankEvent::Lost("broken pipe".to_owned())), Change::Failed);
        assert_eq!(fleet.on(1, exited()), Change::None);
        assert_eq!(fleet.reason(), "rank 1: worker ended: signal: 9 (SIGKILL); it said: line");

        let mut fleet = Fleet::new(2, &[]);
        assert_eq!(fleet.on(1, exited()), Change::Failed);
        assert_eq!(fleet.on(1, RankEvent::Lost("broken pipe".to_owned())), Change::None);
        assert_eq!(fleet.on(0, RankEvent::Error("rank 1 left".to_owned())), Change::None);
        assert_eq!(fleet.reason(), "rank 1: worker ended: signal: 9 (SIGKILL); it said: line; rank 0: rank 1 left");
    }

    #[test]
    fn who_says_nothing_of_itself_and_lives_is_sound() {
        let mut fleet = Fleet::new(6, &[5]);
        for rank in 0..5 {
            fleet.on(rank, RankEvent::Ready(READY));
        }
        fleet.on(0, RankEvent::Misses("rank 1 left".to_owned()));
        fleet.on(1, RankEvent::Error("ECC".to_owned()));
        fleet.on(2, exited());
        fleet.on(3, RankEvent::Lost("broken pipe".to_owned()));
        assert_eq!(sound(&fleet, 6), [0, 4, 5]);
        fleet.trust_nobody();
        assert_eq!(sound(&fleet, 6), [0; 0]);

        // Of those that load, nothing is known but that they cannot go on; nor can those who have said so.
        let mut fleet = Fleet::new(2, &[]);
        fleet.on(1, RankEvent::Ready(Ready { can_rejoin: false, ..READY }));
        assert_eq!(sound(&fleet, 2), [0; 0]);
    }

    fn sound(fleet: &Fleet, world: usize) -> Vec<usize> {
        (0..world).filter(|&rank| fleet.is_sound(rank)).collect()
    }

    #[test]
    fn what_is_read_again_is_what_new_ranks_read() {
        let mut fleet = Fleet::new(3, &[1]);
        for rank in 0..3 {
            fleet.on(rank, RankEvent::Progress { done: 10, total: 10 });
        }
        assert_eq!(fleet.read_bytes(), 20);
        fleet.on(1, RankEvent::Ready(Ready { read_bytes: 0, ..READY }));
        fleet.on(2, RankEvent::Ready(READY));
        assert_eq!(fleet.read_bytes(), 20);
        fleet.on(2, exited());
        assert_eq!(fleet.read_bytes(), 20);
    }
}
