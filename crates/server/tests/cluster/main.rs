//! A whole cluster in one process, from a seed: the gRPC API, the service, the coordinator, and ranks with their engines, over
//! channels and a clock that only moves when nothing else can. Requests come, are cancelled, stop being read and pass
//! their deadlines; ranks are slow, die, are killed, hang, report errors and choose other tokens, while they load and while they run,
//! and are started again; a request may break every rank that runs it.
//!
//! Whatever happens, a stream brings the tokens that its request gets alone, and it ends.
//!
//! `CLUSTER_SEED=N` repeats one seed; `CLUSTER_SEEDS=N` runs so many instead of 4,000.

mod caller;
mod cluster;
mod ledger;

use std::sync::atomic::{AtomicU64, Ordering};

/// Seeds of an ordinary run.
const SEEDS: u64 = 4000;

/// A number from the environment.
fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}: expected a number, found {value:?}")))
}

#[test]
fn every_stream_is_what_its_request_gets_alone() {
    let repeated = variable("CLUSTER_SEED");
    let first = repeated.unwrap_or_else(|| fastrand::u64(..));
    let count = if repeated.is_some() { 1 } else { variable("CLUSTER_SEEDS").unwrap_or(SEEDS) };
    println!("{count} seeds from {first}");
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, mut all) = (AtomicU64::new(0), cluster::Tally::default());
    std::thread::scope(|scope| {
        let work = || {
            let mut tally = cluster::Tally::default();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return tally;
                }
                let seed = Seed(first.wrapping_add(index));
                tally.add(&cluster::run(seed.0));
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            all.add(&worker.join().expect("a seed failed; it is named above"));
        }
    });
    println!("{all:?}");
    if count == SEEDS {
        all.check_that_everything_happened();
    }
}

#[test]
fn a_seed_repeats_what_happened() {
    let first = fastrand::u64(..);
    for seed in (0..50).map(|index| first.wrapping_add(index)) {
        let _seed = Seed(seed);
        assert_eq!(cluster::run(seed), cluster::run(seed));
    }
}

/// Names itself if its case fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("this case failed: to repeat it, set CLUSTER_SEED={}", self.0);
        }
    }
}
