//! A collective between threads of one process, for tests: plain, and strict about what the ranks do.

use crate::{Collective, CollectiveError};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One rank of several in the same process.
#[derive(Debug)]
pub struct Threads {
    rank: usize,
    world: usize,
    time_limit: Duration,
    sequence: u64,
    hub: Arc<Hub>,
}

impl Threads {
    /// The ends of a connection between `world` ranks, in rank order. They wait up to 30 seconds for each other.
    #[must_use]
    pub fn connect(world: usize) -> Vec<Self> {
        Self::connect_within(world, Duration::from_secs(30))
    }

    /// As [`Threads::connect`], with the time for which a rank waits for the others in each operation.
    #[must_use]
    pub fn connect_within(world: usize, time_limit: Duration) -> Vec<Self> {
        let ranks = (0..world).map(|_| RankState::default()).collect();
        let hub = Arc::new(Hub { state: Mutex::new(State { ranks, left: None }), changed: Condvar::new() });
        (0..world).map(|rank| Self { rank, world, time_limit, sequence: 0, hub: Arc::clone(&hub) }).collect()
    }

    /// Shows `mine` to all ranks and lets `take` see what each of them shows.
    fn exchange(
        &mut self,
        operation: &'static str,
        length: usize,
        mine: &[f32],
        take: impl FnOnce(&[RankState]),
    ) -> Result<(), CollectiveError> {
        self.sequence += 1;
        let deadline = Instant::now() + self.time_limit;
        let result = self.try_exchange(operation, length, mine, deadline, take);
        if result.is_err() {
            self.hub.leave(self.rank);
        }
        result
    }

    fn try_exchange(
        &self,
        operation: &'static str,
        length: usize,
        mine: &[f32],
        deadline: Instant,
        take: impl FnOnce(&[RankState]),
    ) -> Result<(), CollectiveError> {
        // What this rank showed before must have been seen by everybody.
        let turn = self.sequence - 1;
        let mut state = self.wait(operation, deadline, |rank| rank.taken >= turn)?;
        let post = &mut state.ranks[self.rank];
        post.values.clear();
        post.values.extend_from_slice(mine);
        (post.operation, post.length, post.shown) = (operation, length, self.sequence);
        drop(state);
        self.hub.changed.notify_all();

        let mut state = self.wait(operation, deadline, |rank| rank.shown >= self.sequence)?;
        if let Some(other) = state.ranks.iter().position(|post| (post.operation, post.length) != (operation, length)) {
            return Err(CollectiveError::Mismatch {
                rank: self.rank,
                operation,
                sequence: self.sequence,
                length,
                other,
                other_operation: state.ranks[other].operation,
                other_length: state.ranks[other].length,
            });
        }
        take(&state.ranks);
        state.ranks[self.rank].taken = self.sequence;
        drop(state);
        self.hub.changed.notify_all();
        Ok(())
    }

    /// Waits until every rank is `ready`.
    fn wait(
        &self,
        operation: &'static str,
        deadline: Instant,
        ready: impl Fn(&RankState) -> bool,
    ) -> Result<MutexGuard<'_, State>, CollectiveError> {
        let (rank, sequence) = (self.rank, self.sequence);
        let mut state = self.hub.lock();
        // A rank may leave after its last operation: what it has shown still counts.
        while let Some(missing) = state.ranks.iter().position(|rank| !ready(rank)) {
            if let Some(by) = state.left {
                return Err(CollectiveError::Aborted { rank, operation, sequence, by });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let limit_ms = u64::try_from(self.time_limit.as_millis()).unwrap_or(u64::MAX);
                return Err(CollectiveError::Timeout { rank, operation, sequence, missing, limit_ms });
            }
            state = self.hub.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(state)
    }
}

impl Collective for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn all_reduce(&mut self, x: &mut [f32]) -> Result<(), CollectiveError> {
        let mine = x.to_vec();
        self.exchange("all_reduce", mine.len(), &mine, |ranks| {
            x.copy_from_slice(&ranks[0].values);
            for rank in &ranks[1..] {
                for (sum, value) in x.iter_mut().zip(&rank.values) {
                    *sum += value;
                }
            }
        })
    }

    fn all_gather(&mut self, mine: &[f32], counts: &[usize], all: &mut [f32]) -> Result<(), CollectiveError> {
        assert_eq!(counts.len(), self.world, "one count for each rank");
        assert_eq!(counts[self.rank], mine.len(), "a rank gives what it announced");
        self.exchange("all_gather", all.len(), mine, |ranks| {
            let mut rest = all;
            for (rank, &count) in ranks.iter().zip(counts) {
                let (part, behind) = rest.split_at_mut(count);
                part.copy_from_slice(&rank.values);
                rest = behind;
            }
            assert!(rest.is_empty(), "the counts make up the whole");
        })
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.hub.leave(self.rank);
    }
}

#[derive(Debug)]
struct Hub {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    ranks: Vec<RankState>,
    /// The first rank that left.
    left: Option<usize>,
}

/// What one rank shows to the others.
#[derive(Debug, Default)]
struct RankState {
    operation: &'static str,
    /// Elements of the whole result.
    length: usize,
    values: Vec<f32>,
    /// The last operation in which it has shown its values.
    shown: u64,
    /// The last operation in which it has taken everybody's values.
    taken: u64,
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A rank that panics while it holds the lock has changed nothing that the others read.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, rank: usize) {
        self.lock().left.get_or_insert(rank);
        self.changed.notify_all();
    }
}
