//! What a campaign measures.

use crate::callers::Tally;
use crate::faults::{Done, Fault, Saboteur};
use crate::lives::Log;
use crate::support::{Server, memory, open_files, seen};
use std::collections::BTreeMap;
use std::time::Duration;

/// Descriptors that come and go with connections that are just closed.
const FILES_SLACK: usize = 8;

/// What caches and fragments may add to the coordinator's memory after its first faults.
const MEMORY_SLACK: u64 = 8 << 20;

/// So many faults a life of the server must have seen for its first figures to be compared with its last.
const SAMPLES_MIN: usize = 9;

/// What a coordinator holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    files: usize,
    bytes: u64,
}

fn held(server: &Server) -> Held {
    Held { files: open_files(server.pid()), bytes: memory(server.pid(), "RssAnon:") }
}

/// All figures.
pub struct Figures {
    idle_files: usize,
    /// Each with the times until the next token.
    faults: BTreeMap<Fault, Vec<f64>>,
    /// From a fault to the next token, if others took the place of the ranks.
    ranks: Vec<f64>,
    /// The same for the coordinator.
    coordinator: Vec<f64>,
    /// By lives of the server.
    held: BTreeMap<u32, Vec<Held>>,
}

impl Figures {
    /// Looks at a server that has nothing to do.
    pub fn idle(server: &Server) -> Self {
        let (ranks, coordinator, held) = (Vec::new(), Vec::new(), BTreeMap::new());
        Self { idle_files: open_files(server.pid()), faults: BTreeMap::new(), ranks, coordinator, held }
    }

    /// Notes a fault from which the server has recovered.
    pub fn struck(&mut self, fault: Fault, done: Done, until_token: Duration, saboteur: &Saboteur) {
        let seconds = until_token.as_secs_f64();
        self.faults.entry(fault).or_default().push(seconds);
        match done {
            Done::Ranks => self.ranks.push(seconds),
            Done::Coordinator => self.coordinator.push(seconds),
            Done::Nothing => {}
        }
        let life = saboteur.supervisor.life().borrow().number;
        self.held.entry(life).or_default().push(held(saboteur.supervisor.server()));
    }

    /// Looks whether the server has as many descriptors as one that has just begun, now that all callers are gone.
    pub async fn end(&self, server: &Server) {
        let most = self.idle_files + FILES_SLACK;
        seen("closed descriptors", || (open_files(server.pid()) <= most).then_some(())).await;
    }

    /// Says all, and that nothing grows with the faults.
    pub fn print(&self, log: &Log, tally: &Tally) {
        for (fault, times) in &self.faults {
            print_times(&format!("from {fault:?} to the next token"), times.clone());
        }
        println!("calls: {:?}; {} tokens of streams, all as alone", tally.ends, tally.tokens);
        print_times("from a fault of ranks to the next token", self.ranks.clone());
        print_times("from the coordinator's death to the next token", self.coordinator.clone());
        let recoveries = log.recoveries();
        for (phase, name) in ["ending", "waiting", "loading"].iter().enumerate() {
            print_times(
                &format!("  phase of recoveries: {name}"),
                recoveries.iter().map(|times| times[phase]).collect(),
            );
        }
        println!("every process of {} servers has ended", self.coordinator.len() + 1);
        for (life, samples) in &self.held {
            let third = samples.len() / 3;
            if samples.len() < SAMPLES_MIN {
                continue;
            }
            let (first, last) = (median(&samples[..third]), median(&samples[samples.len() - third..]));
            println!("server {life}, after {} faults: {first:?} became {last:?}", samples.len());
            assert!(last.files <= first.files + FILES_SLACK, "descriptors grow");
            assert!(last.bytes <= first.bytes + MEMORY_SLACK, "memory grows");
        }
    }
}

fn median(samples: &[Held]) -> Held {
    let middle = |mut values: Vec<u64>| {
        values.sort_unstable();
        values[values.len() / 2]
    };
    let files = middle(samples.iter().map(|held| held.files as u64).collect());
    Held { files: usize::try_from(files).expect("few"), bytes: middle(samples.iter().map(|held| held.bytes).collect()) }
}

fn print_times(what: &str, mut seconds: Vec<f64>) {
    seconds.sort_unstable_by(f64::total_cmp);
    let Some(longest) = seconds.last() else { return };
    let at = |part: f64| seconds[((seconds.len() - 1) as f64 * part).round() as usize];
    let (count, half, most) = (seconds.len(), at(0.5), at(0.99));
    println!("{what}, {count} times: median {half:.2} s, p99 {most:.2} s, longest {longest:.2} s");
}
