//! The goldens on the cuda backend over the stand-in libraries, through a coordinator and real worker processes: the kernels
//! that ship, on the CPU.
//!
//! Each token is chosen behind the golden tokens before it, so that logits are compared at every step. An ordinary run takes
//! two cases of each model at degrees 2 and 8, each by one way of sums over ranks. With `PEREGRINE_GOLDENS=all` it takes every case
//! at degrees 1, 2, 4 and 8, and by every way those with short prompts.

use crate::fleet::{Setup, observe_all, observe_while, stop};
use crate::goldens::{everything, full};
use coordinator::Coordinator;
use step::SamplingParams;
use testkit::goldens::{Case, Golden, MODELS, Observed};
use tokio::task::JoinSet;

/// The demo model's greedy tokens are the golden ones up to the first step whose margin is below this.
const DEMO_MARGIN: f32 = 0.1;

/// Greedy choices of `tokens` tokens, each behind golden ones: where a run parts from them, it goes on from them.
async fn taught(coordinator: &Coordinator, case: &Case, tokens: usize) -> Observed {
    let golden = &case.greedy.ids[..tokens.min(case.greedy.ids.len())];
    let mut taught = Observed::default();
    while taught.tokens.len() < golden.len() {
        let (known, rest) = golden.split_at(taught.tokens.len());
        let prompt = [&case.prompt_ids, known].concat();
        let submission = full(&prompt, rest.len(), SamplingParams::GREEDY);
        let run = observe_while(coordinator, submission, |tokens| rest.starts_with(tokens)).await;
        if known.is_empty() {
            taught.prompt_logprobs = run.prompt_logprobs;
        }
        taught.tokens.extend(run.tokens);
        taught.logits.extend(run.logits);
    }
    taught
}

/// Runs all cases at once, `tokens` tokens of each and once with all golden tokens as a prompt, and holds them against the
/// goldens.
async fn check(setup: Setup, cases: &[Case], tokens: usize) {
    let coordinator = setup.start().await;
    let mut tasks = JoinSet::new();
    for (index, case) in cases.iter().cloned().enumerate() {
        let coordinator = coordinator.clone();
        tasks.spawn(async move { (index, taught(&coordinator, &case, tokens).await) });
    }
    let runs = tasks.join_all().await;
    let forced = cases.iter().map(|case| full(&case.forced_ids(), 1, SamplingParams::GREEDY)).collect();
    let forced = observe_all(&coordinator, forced).await;
    stop(&coordinator).await;
    let (mut wrong, mut worst) = (Vec::new(), 0.0f32);
    for (index, run) in &runs {
        let (case, mut tolerance) = (&cases[*index], cases[*index].bf16_tolerance(setup.model));
        if setup.model == "falcon-demo" {
            tolerance.margin = DEMO_MARGIN;
        }
        let (found, off) = case.check_taught(run, tolerance);
        wrong.extend(found);
        wrong.extend(case.check_forced(&forced[*index], tolerance));
        worst = worst.max(off / case.bf16_compute.max_abs_logit_diff);
    }
    println!("{setup:?}: {} cases, off by at most {worst:.2} of what computing in bf16 costs", cases.len());
    assert!(wrong.is_empty(), "{setup:?}:\n{}", wrong.join("\n"));
}

/// Flags of workers: the ways of sums over ranks, the one order of all sums, and launches one by one.
const WAYS: [&[&str]; 8] = [
    &[],
    &["--all-reduce", "one-shot"],
    &["--all-reduce", "two-shot"],
    &["--all-reduce", "nccl"],
    &["--deterministic"],
    &["--cuda-graphs", "off"],
    &["--cuda-graphs", "off", "--all-reduce", "two-shot"],
    &["--cuda-graphs", "off", "--all-reduce", "nccl"],
];

/// The ways that differ where there is one rank.
const WAYS_ALONE: [&[&str]; 3] = [WAYS[0], WAYS[4], WAYS[5]];

async fn check_model(model: &'static str) {
    let golden = Golden::of(model);
    let with_logits = golden.cases[0].top20.len();
    if everything() {
        let short: Vec<Case> = golden.cases.iter().filter(|case| case.prompt_ids.len() < 100).cloned().collect();
        for world in [1, 2, 4, 8] {
            for &flags in if world == 1 { &WAYS_ALONE[..] } else { &WAYS } {
                let default = flags.is_empty();
                let tokens = if default && model == "falcon-demo" { usize::MAX } else { with_logits };
                let cases = if default { &golden.cases } else { &short };
                check(Setup { flags, ..Setup::new(model, "cuda", world) }, cases, tokens).await;
            }
        }
        return;
    }
    // Over the models, every way has its turn.
    let index = MODELS.iter().position(|name| *name == model).expect("it has goldens");
    for (world, turn) in [(2, index), (8, index + 2)] {
        let setup = Setup { flags: WAYS[turn % WAYS.len()], ..Setup::new(model, "cuda", world) };
        check(setup, &golden.cases[1..3], with_logits).await;
    }
}

macro_rules! models {
    ($($test:ident $model:literal),* $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $test() {
            check_model($model).await;
        }
    )*};
}

models! {
    demo "falcon-demo",
    tiny_7b "tiny-falcon-7b",
    tiny_40b "tiny-falcon-40b",
    tiny_180b "tiny-falcon-180b",
    tiny_rw "tiny-falcon-rw",
    tiny_11b "tiny-falcon2-11b",
}
