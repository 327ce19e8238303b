//! The hand-made synchronisers in all orders in which their threads can run, and with every value that C11's memory model
//! lets a load see: loom runs the very source of the thread pool and of the protocol over shared memory, with its own atomics,
//! threads and sleep in place of the system's (`sync`). Orders with more than a few preemptions are left out: each model
//! has its bound, and LOOM_MAX_PREEMPTIONS sets another.
//!
//! That the models can fail is a test, too: they must once acquires, releases, fences or wake-ups are weakened.

mod exchange;
mod pool_jobs;
#[allow(dead_code, reason = "each model uses a part")]
mod sync;

#[allow(dead_code, reason = "each model uses a part")]
#[path = "../../src/kernels/pool.rs"]
mod pool;
#[allow(dead_code, reason = "each model uses a part")]
#[path = "../../src/shm_exchange.rs"]
mod shm_exchange;

use std::process::{Command, Stdio};

/// Runs `run` in all orders with so many preemptions at most.
fn explore(preemptions_max: usize, run: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(Some(preemptions_max));
    model.max_branches = 100_000;
    model.check(run);
}

/// What is weakened, in which model, and what that shows as.
const WEAKENED: [(&str, &str, &str); 11] = [
    ("pool_jobs::two_jobs_of_three_threads", "acquire", "Causality violation"),
    ("pool_jobs::two_jobs_of_three_threads", "release", "Causality violation"),
    ("pool_jobs::two_jobs_of_two_threads", "wake", "deadlock"),
    ("pool_jobs::a_panic_waits_for_the_other_threads", "wake", "deadlock"),
    ("exchange::pieces_of_two_ranks", "acquire", "Causality violation"),
    ("exchange::pieces_of_two_ranks", "release", "Causality violation"),
    ("exchange::pieces_of_two_ranks", "fence", "deadlock"),
    ("exchange::a_gather_between_sums_of_two_ranks", "wake", "deadlock"),
    ("exchange::a_sum_shared_out_over_three_ranks", "acquire", "Causality violation"),
    ("exchange::a_sum_shared_out_over_three_ranks", "release", "Causality violation"),
    ("exchange::a_sum_shared_out_over_three_ranks", "fence", "deadlock"),
];

#[test]
fn every_weakened_order_is_caught() {
    for (model, weakened, expected) in WEAKENED {
        let program = std::env::current_exe().expect("this program has a path");
        let mut command = Command::new(program);
        command.args(["--exact", model, "--nocapture"]).env(sync::WEAKENED, weakened);
        let ended = command.stdin(Stdio::null()).output().expect("this program can be run again");
        let text = [ended.stdout, ended.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert!(!ended.status.success() && text.contains(expected), "{model} without {weakened}: {text}");
    }
}
