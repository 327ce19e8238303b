//! Faults of ranks on GPUs, which are stood in for: streams go on to the bit, ranks that are sound keep their process and their
//! weights, and what is read again is the part of those that are not.
//!
//! `CUDA_FAULTS=50 CUDA_SEED=7 cargo test --release -p peregrine --test it cuda_recovery -- --nocapture` runs a long campaign.

use crate::cuda::serve_over;
use crate::support::{Client, Process, Server, demo_model, greedy, next_message, request};
use model::Partition;
use rustix::process::Signal;
use std::fmt;
use std::path::Path;
use tempfile::TempDir;
use weights::Checkpoint;
use wire::generation as pb;

const PROMPT: &str = "Once upon a time";
const TOKENS: u32 = 24;

/// How many faults a run has that nobody has asked to be longer: one of each kind.
const FAULTS: u64 = 6;

/// How often texts are generated at most until a fault has happened that counts launches.
const ATTEMPTS: usize = 20;

/// What happens to a rank.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Somebody kills it, in the middle of a text.
    Kill,
    /// It dies at this launch of a kernel.
    Die(u64),
    /// This launch of a kernel is an uncorrectable memory error.
    Ecc(u64),
    /// It never comes to this collective of NCCL.
    Hang(u64),
    /// Somebody kills it, and while it is started again, another one dies in this capture of a graph.
    DieInCapture(u64),
}

/// A fault, and the ranks beneath it.
struct Fault {
    kind: Kind,
    rank: usize,
    world: usize,
    all_reduce: &'static str,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, rank, world, all_reduce } = self;
        write!(f, "rank {rank} of {world}, --all-reduce {all_reduce}: {kind:?}")
    }
}

impl Fault {
    /// One of each kind in turn, and all else at random.
    fn draw(number: u64, random: &mut fastrand::Rng) -> Self {
        let (mut world, launch) = (random.usize(2..=3), random.u64(60..500));
        let any = ["one-shot", "two-shot", "nccl", "auto"];
        let (kind, all_reduce) = match number % FAULTS {
            0 => (Kind::Kill, any[random.usize(..any.len())]),
            1 => (Kind::Die(launch), "one-shot"),
            2 => (Kind::Die(launch), "nccl"),
            3 => (Kind::Ecc(launch), any[random.usize(..any.len())]),
            4 => (Kind::Hang(random.u64(20..80)), "nccl"),
            _ => {
                world = 3;
                // Seven graphs are captured at each start.
                (Kind::DieInCapture(random.u64(8..=14)), any[random.usize(..any.len())])
            }
        };
        Self { kind, rank: random.usize(..world), world, all_reduce }
    }

    /// The rank that dies in a capture.
    fn other(&self) -> usize {
        (self.rank + 1) % self.world
    }

    /// The stand-in's switch, if the fault is one of its.
    fn switch(&self) -> Option<(&'static str, String)> {
        match self.kind {
            Kind::Kill => None,
            Kind::Die(nth) => Some(("CUDA_STANDIN_DIE", format!("{}:{nth}", self.rank))),
            Kind::Ecc(nth) => Some(("CUDA_STANDIN_ECC", format!("{}:{nth}", self.rank))),
            Kind::Hang(nth) => Some(("CUDA_STANDIN_HANG", format!("{}:{nth}", self.rank))),
            Kind::DieInCapture(nth) => Some(("CUDA_STANDIN_DIE_CAPTURE", format!("{}:{nth}", self.other()))),
        }
    }

    /// The ranks that are started anew.
    fn struck(&self) -> Vec<usize> {
        match self.kind {
            Kind::Kill | Kind::Die(_) | Kind::Ecc(_) => vec![self.rank],
            Kind::Hang(_) => Vec::new(),
            Kind::DieInCapture(_) => vec![self.rank, self.other()],
        }
    }

    /// Bytes that may be read again: where the new process of a rank loads while another one dies, it may be started twice.
    fn read_bytes(&self) -> Vec<u64> {
        let part = |rank| part_bytes(rank, self.world);
        let all = self.struck().into_iter().map(part).sum();
        match self.kind {
            Kind::DieInCapture(_) => vec![all, all + part(self.rank)],
            _ => vec![all],
        }
    }
}

/// Bytes of a rank's part of the demo model.
fn part_bytes(rank: usize, world: usize) -> u64 {
    let checkpoint = Checkpoint::open(&demo_model()).expect("the demo model");
    let partition = Partition::new(checkpoint.config(), rank, world);
    checkpoint.shard(&partition).expect("not cut").progress().total()
}

/// Two texts at once: a greedy one, and one that is drawn, each with the scores of its tokens.
async fn texts(client: &Client) -> [pb::GenerateResponse; 2] {
    let mut plain = greedy(PROMPT, TOKENS);
    plain.parameters.get_or_insert_default().details = Some(true);
    let drawn = pb::Parameters {
        max_new_tokens: Some(TOKENS),
        do_sample: Some(true),
        seed: Some(7),
        repetition_penalty: Some(1.1),
        top_p: Some(0.9),
        details: Some(true),
        ignore_eos: Some(true),
        ..Default::default()
    };
    let (plain, drawn) = tokio::join!(client.generate(plain), client.generate(request("The fox said", drawn)));
    // What was cached differs each time.
    let cacheless = |details: pb::Details| pb::Details { cached_tokens: 0, ..details };
    [plain, drawn].map(|answer| pb::GenerateResponse { details: answer.details.map(cacheless), ..answer })
}

/// Generates texts until the fault has happened beneath them.
async fn disturbed(fault: &Fault, client: &Client, workers: &[Process], once: &Path) -> [pb::GenerateResponse; 2] {
    if matches!(fault.kind, Kind::Kill | Kind::DieInCapture(_)) {
        let mut stream = client.stream(greedy(PROMPT, 1000)).await;
        next_message(&mut stream).await;
        let killing = async {
            next_message(&mut stream).await;
            workers[fault.rank].signal(Signal::KILL);
            // It goes on, too.
            next_message(&mut stream).await;
        };
        return tokio::join!(texts(client), killing).0;
    }
    for _ in 0..ATTEMPTS {
        let texts = texts(client).await;
        if once.exists() {
            return texts;
        }
    }
    panic!("{fault}: nothing has happened");
}

/// The value of a counter.
async fn counter(server: &Server, name: &str) -> u64 {
    let metrics = server.get("/metrics").await.body;
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {metrics}"))
}

/// The server goes on behind the fault, to the bit, and nobody loads who need not.
async fn check(fault: &Fault) {
    let temp = TempDir::new().expect("a temporary folder");
    let once = temp.path().join("once");
    let path = once.to_str().expect("UTF-8");
    let switch = fault.switch();
    let switches: Vec<_> = switch.iter().map(|(name, value)| (*name, &**value)).collect();
    let switches: Vec<_> = switches.into_iter().chain([("CUDA_STANDIN_ONCE", path)]).collect();
    let mut flags = vec!["--deterministic", "--all-reduce", fault.all_reduce];
    if matches!(fault.kind, Kind::Hang(_)) {
        flags.extend(["--step-timeout", "4", "--collective-timeout", "4"]);
    }
    let server = serve_over(&fault.world.to_string(), &switches, &flags).await;
    let client = server.client().await;
    let before = server.ranks(fault.world).await;
    let texts_disturbed = disturbed(fault, &client, &before, &once).await;
    assert_eq!(texts_disturbed, texts(&client).await, "{fault}");
    let after = server.ranks(fault.world).await;
    let renewed: Vec<usize> = (0..fault.world).filter(|&rank| before[rank].pid() != after[rank].pid()).collect();
    let (mut struck, read) = (fault.struck(), counter(&server, "peregrine_recovery_read_bytes_total").await);
    struck.sort_unstable();
    let recoveries = counter(&server, "peregrine_recoveries_total").await;
    let ended = server.stop().await;
    assert!(recoveries > 0, "{fault}: {ended:?}");
    assert_eq!(renewed, struck, "{fault}: {ended:?}");
    assert!(fault.read_bytes().contains(&read), "{fault}: {read} bytes, of {:?}: {ended:?}", fault.read_bytes());
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}={value}: no number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn ranks_that_are_sound_keep_their_weights_and_streams_go_on_to_the_bit() {
    let (count, seed) = (variable("CUDA_FAULTS", FAULTS), variable("CUDA_SEED", 1));
    println!("CUDA_FAULTS={count} CUDA_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for number in 0..count {
        let fault = Fault::draw(number, &mut random);
        println!("{number}: {fault}");
        check(&fault).await;
    }
}
