//! Which request breaks the ranks, if one does. Pure.
//!
//! The first time that the ranks fail by themselves, all that ran is replayed. If they fail again while one of those requests runs,
//! the requests that ran both times are replayed apart from all others: in halves, then alone. A request is cleared when it has come
//! further than where the ranks failed; a group, when all of its requests have. One that fails alone twice is guilty.

use scheduler::Lost;
use std::collections::{HashMap, VecDeque};
use step::SeqId;

/// How often a request may run alone when the ranks fail.
const ALONE_MAX: u32 = 2;

/// The requests that ran when the ranks failed.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    records: HashMap<SeqId, Record>,
    /// Groups that are replayed one after the other. The first is on trial.
    groups: VecDeque<Vec<SeqId>>,
    /// Failures that counted against the service and that one of them may have caused.
    counted: usize,
}

#[derive(Debug, Default)]
struct Record {
    /// Failures when it ran alone.
    alone: u32,
    /// Where it was, or would have been after the steps in flight.
    reached: usize,
}

/// What follows from a failure.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// This request breaks the ranks.
    pub(crate) guilty: Option<SeqId>,
    /// The failure counts against the service. One that only tells which request it was does not.
    pub(crate) counts: bool,
    /// So many of the last failures that counted were the guilty one's.
    pub(crate) forgiven: usize,
}

impl Suspects {
    /// The ranks have failed by themselves (not by a signal from outside) while these requests ran.
    pub(crate) fn failed(&mut self, lost: &[Lost]) -> Verdict {
        let again: Vec<SeqId> = lost.iter().map(|lost| lost.seq).filter(|seq| self.records.contains_key(seq)).collect();
        for &Lost { seq, reached } in lost {
            let record = self.records.entry(seq).or_default();
            record.reached = record.reached.max(reached);
            record.alone += u32::from(lost.len() == 1);
        }
        if let [Lost { seq, .. }] = lost
            && self.records[seq].alone >= ALONE_MAX
        {
            let forgiven = self.counted;
            *self = Self::default();
            return Verdict { guilty: Some(*seq), counts: false, forgiven };
        }
        let on_trial = !self.groups.is_empty();
        match self.groups.pop_front() {
            // It ran, and failed again.
            Some(group) if group.iter().any(|seq| again.contains(seq)) => self.split(group),
            // Those that had been cleared ran without it.
            Some(group) => {
                self.groups.push_front(group);
                self.split(again);
            }
            None => self.split(again),
        }
        // Of what happens while nothing runs, no request is the cause.
        let counts = !on_trial || lost.is_empty();
        self.counted += usize::from(counts && !lost.is_empty());
        Verdict { guilty: None, counts, forgiven: 0 }
    }

    /// Puts the halves of a group before the others.
    fn split(&mut self, mut group: Vec<SeqId>) {
        let second = group.split_off(group.len().div_ceil(2));
        for half in [second, group] {
            if !half.is_empty() {
                self.groups.push_front(half);
            }
        }
    }

    /// The requests that are to run apart from those that wait; `None`: there is no such order.
    pub(crate) fn on_trial(&self) -> Option<&[SeqId]> {
        self.groups.front().map(Vec::as_slice)
    }

    /// A request has ended. Says whether others are on trial now, or none.
    pub(crate) fn ended(&mut self, seq: SeqId) -> bool {
        if self.records.remove(&seq).is_none() {
            return false;
        }
        self.groups.iter_mut().for_each(|group| group.retain(|&other| other != seq));
        if self.records.is_empty() {
            self.counted = 0;
        }
        self.next_trial(|_| None)
    }

    /// Asks how far requests are. Says whether others are on trial now, or none.
    pub(crate) fn next_trial(&mut self, computed: impl Fn(SeqId) -> Option<usize>) -> bool {
        let before = self.groups.len();
        if before == 0 {
            self.records.retain(|&seq, record| computed(seq).is_none_or(|computed| computed < record.reached));
            self.counted *= usize::from(!self.records.is_empty());
            return false;
        }
        let (records, groups) = (&self.records, &mut self.groups);
        let is_cleared = |seq: &SeqId| computed(*seq).is_some_and(|computed| computed >= records[seq].reached);
        while groups.pop_front_if(|group| group.iter().all(is_cleared)).is_some() {}
        let changed = groups.len() < before;
        if changed && groups.is_empty() {
            *self = Self::default();
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests that run together, all or those on trial; those that are cleared go on beside the next.
    struct World {
        suspects: Suspects,
        /// Requests, where each of them is, and where it breaks the ranks, if it does.
        requests: Vec<(SeqId, usize, Option<usize>)>,
        running: Vec<SeqId>,
        failures: u32,
        counted: usize,
        ended: Vec<SeqId>,
    }

    impl World {
        fn new(seed: u64) -> Self {
            let mut rng = fastrand::Rng::with_seed(seed);
            let poisonous = rng.usize(0..3);
            let mut requests: Vec<_> = (0..rng.u64(1..20)).map(|seq| (SeqId(seq), 0, None)).collect();
            for _ in 0..poisonous {
                let index = rng.usize(..requests.len());
                requests[index].2 = Some(rng.usize(1..30));
            }
            Self {
                suspects: Suspects::default(),
                running: requests.iter().map(|(seq, ..)| *seq).collect(),
                requests,
                failures: 0,
                counted: 0,
                ended: Vec::new(),
            }
        }

        /// Runs a step of all that run, or loses them by it.
        fn step(&mut self) {
            let runs = |seq: &SeqId, running: &[SeqId]| running.contains(seq);
            let running = self.running.clone();
            let breaks = self.requests.iter().any(|(seq, at, broken)| runs(seq, &running) && *broken == Some(at + 1));
            if !breaks {
                self.requests.iter_mut().filter(|(seq, ..)| runs(seq, &running)).for_each(|(_, at, _)| *at += 1);
                let requests = &self.requests;
                let computed = |seq| requests.iter().find(|(other, ..)| *other == seq).map(|(_, at, _)| *at);
                if self.suspects.next_trial(computed) {
                    self.admit();
                }
                return;
            }
            self.failures += 1;
            let lost = self.requests.iter().filter(|(seq, ..)| runs(seq, &running));
            let lost: Vec<_> = lost.map(|&(seq, at, _)| Lost { seq, reached: at + 1 }).collect();
            let Verdict { guilty, counts, forgiven } = self.suspects.failed(&lost);
            self.counted = self.counted + usize::from(counts) - forgiven;
            self.requests.iter_mut().for_each(|(_, at, _)| *at = 0);
            if let Some(guilty) = guilty {
                let index = self.requests.iter().position(|(seq, ..)| *seq == guilty).expect("it ran");
                let (seq, _, broken) = self.requests.remove(index);
                assert!(broken.is_some(), "{seq} is innocent");
                self.ended.push(seq);
            }
            self.running.clear();
            self.admit();
        }

        fn admit(&mut self) {
            match self.suspects.on_trial() {
                Some(group) => self.running.extend(group),
                None => self.running = self.requests.iter().map(|(seq, ..)| *seq).collect(),
            }
        }
    }

    #[test]
    fn whoever_breaks_the_ranks_is_found_and_nobody_else() {
        for seed in 0..2000 {
            let mut world = World::new(seed);
            let poisonous = world.requests.iter().filter(|(.., broken)| broken.is_some()).count();
            let bound = poisonous as u32 * (2 + 2 * world.requests.len().next_power_of_two().ilog2() + 4);
            for _ in 0..5000 {
                world.step();
            }
            assert_eq!(world.ended.len(), poisonous, "seed {seed}");
            assert!(world.failures <= bound, "seed {seed}: {} failures, at most {bound}", world.failures);
            assert_eq!((world.counted, world.suspects.on_trial()), (0, None), "seed {seed}");
        }
    }

    fn lost(seqs: &[u64]) -> Vec<Lost> {
        seqs.iter().map(|&seq| Lost { seq: SeqId(seq), reached: 10 }).collect()
    }

    #[test]
    fn a_request_that_fails_alone_twice_is_guilty() {
        let mut suspects = Suspects::default();
        assert_eq!(suspects.failed(&lost(&[7])), Verdict { guilty: None, counts: true, forgiven: 0 });
        assert_eq!(suspects.on_trial(), None);
        assert_eq!(suspects.failed(&lost(&[7])), Verdict { guilty: Some(SeqId(7)), counts: false, forgiven: 1 });
    }

    #[test]
    fn only_what_ran_both_times_is_tried() {
        let mut suspects = Suspects::default();
        suspects.failed(&lost(&[1, 2, 3]));
        assert!(suspects.failed(&lost(&[4, 5])).counts, "these were not there before");
        assert_eq!(suspects.on_trial(), None);
        assert!(suspects.failed(&lost(&[2, 3, 4, 9])).counts);
        assert_eq!(suspects.on_trial(), Some(&[SeqId(2), SeqId(3)][..]));
        // One of them leaves, the other passes.
        assert!(!suspects.ended(SeqId(2)));
        assert!(!suspects.next_trial(|_| Some(9)));
        assert!(suspects.next_trial(|seq| Some(if seq == SeqId(3) { 10 } else { 0 })));
        assert_eq!(suspects.on_trial(), Some(&[SeqId(4)][..]));
        assert!(suspects.ended(SeqId(4)));
        assert_eq!(suspects.on_trial(), None);
    }

    #[test]
    fn ranks_that_fail_while_nothing_runs_accuse_nobody() {
        let mut suspects = Suspects::default();
        for _ in 0..3 {
            assert_eq!(suspects.failed(&[]), Verdict { guilty: None, counts: true, forgiven: 0 });
            assert_eq!(suspects.on_trial(), None);
        }
    }

    /// As a device does that is about to break.
    #[test]
    fn failures_here_and_there_are_no_requests_fault() {
        for requests in [1, 3] {
            let mut suspects = Suspects::default();
            for reached in [100, 200, 300, 400] {
                let lost: Vec<Lost> = (0..requests).map(|seq| Lost { seq: SeqId(seq), reached }).collect();
                assert_eq!(suspects.failed(&lost), Verdict { guilty: None, counts: true, forgiven: 0 });
                assert!(!suspects.next_trial(|_| Some(reached)), "nobody is on trial");
            }
        }
    }
}
