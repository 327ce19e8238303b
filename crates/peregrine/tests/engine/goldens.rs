//! The goldens of an independent implementation, through a coordinator and real worker processes.
//!
//! An ordinary run takes the demo model and three others at degrees 1, 2 and 8 on the cpu backend, one of them on the matrix
//! unit, too, and the shorter cases of one model on the reference. With `PEREGRINE_GOLDENS=all` it takes every model and
//! case, at degrees 1, 2, 4 and 8, on both backends and on every instruction set: `cargo xtask goldens` does that. A
//! CPU without a matrix unit has a stand-in.

use crate::amx;
use crate::fleet::{Setup, observe, observe_all, stop, submission};
use backend_cpu::Isa;
use coordinator::Submission;
use step::{SamplingParams, SamplingSettings};
use testkit::goldens::{Case, Golden, MODELS, Observed, PenaltyCase, Tolerance};

/// A sequence of which everything is wanted.
pub fn full(prompt: &[u32], max_new_tokens: usize, sampling: SamplingParams) -> Submission {
    Submission { prompt_logprobs: true, return_logits: true, ..submission(prompt, max_new_tokens, sampling) }
}

fn greedy(case: &Case) -> Submission {
    full(&case.prompt_ids, case.greedy.ids.len(), SamplingParams::GREEDY)
}

/// Holds all cases against the goldens: greedy, teacher-forced, and with penalties. Returns the greedy runs.
async fn check(setup: Setup, cases: &[Case]) -> Vec<Observed> {
    let coordinator = setup.start().await;
    let runs = observe_all(&coordinator, cases.iter().map(greedy).collect()).await;
    let forced = cases.iter().map(|case| full(&case.forced_ids(), 1, SamplingParams::GREEDY)).collect();
    let forced = observe_all(&coordinator, forced).await;
    let penalties = PenaltyCase::of(setup.model);
    let penalized = penalties.iter().map(|case| full(&case.prompt_ids, case.ids.len(), with_penalties(case)));
    let penalized = observe_all(&coordinator, penalized.collect()).await;
    stop(&coordinator).await;
    let mut wrong: Vec<String> = Vec::new();
    for ((case, run), forced) in cases.iter().zip(&runs).zip(&forced) {
        wrong.extend(case.check_greedy(run, Tolerance::F32));
        wrong.extend(case.check_forced(forced, Tolerance::F32));
    }
    wrong.extend(penalties.iter().zip(&penalized).flat_map(|(case, run)| case.check(run, Tolerance::F32)));
    assert!(wrong.is_empty(), "{setup:?}:\n{}", wrong.join("\n"));
    runs
}

fn with_penalties(case: &PenaltyCase) -> SamplingParams {
    let penalty = |name, off| case.params.get(name).copied().unwrap_or(off);
    let settings = SamplingSettings {
        repetition_penalty: penalty("repetition_penalty", 1.0),
        relative_frequency_penalty: penalty("frequency_penalty", 0.0),
        ..SamplingSettings::default()
    };
    SamplingParams::try_new(settings).expect("golden penalties are within limits")
}

/// Two degrees compute the same logits, as long as they have chosen the same tokens.
fn assert_near(setup: Setup, runs: &[Observed], single: &[Observed]) {
    for (run, single) in runs.iter().zip(single) {
        let same = run.tokens.iter().zip(&single.tokens).take_while(|(a, b)| a == b).count();
        for (ours, theirs) in run.logits.iter().zip(&single.logits).take(same + 1) {
            let near = ours.iter().zip(theirs).all(|(a, b)| (a - b).abs() <= Tolerance::F32.value);
            assert!(near, "{setup:?}: logits are not those of one rank");
        }
    }
}

async fn check_degrees(model: &'static str, backend: &'static str, isa: Option<Isa>, worlds: &[usize], cases: &[Case]) {
    let mut single = None;
    for &world in worlds {
        let setup = Setup { isa, ..Setup::new(model, backend, world) };
        let runs = check(setup, cases).await;
        println!("{setup:?}: {} cases hold", cases.len());
        match &single {
            None => single = Some(runs),
            Some(single) => assert_near(setup, &runs, single),
        }
    }
}

/// The full extent is asked for.
pub fn everything() -> bool {
    std::env::var("PEREGRINE_GOLDENS").is_ok_and(|value| value == "all")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cpu_backend_equals_the_goldens() {
    // Where the CPU has no matrix unit, it counts as having one from here on.
    amx::is_native();
    let isas: Vec<_> = Isa::ALL.into_iter().filter(|isa| isa.supported()).map(Some).collect();
    let matrix_unit: Vec<_> = isas.iter().copied().filter(|&isa| isa == Some(Isa::Amx)).collect();
    let (setups, worlds) = if everything() {
        (MODELS.map(|model| (model, isas.clone())).to_vec(), &[1, 2, 4, 8][..])
    } else {
        let best = ["falcon-demo", "tiny-falcon-7b", "tiny-falcon-180b", "tiny-falcon-rw"];
        let best = best.map(|model| (model, vec![None]));
        (best.into_iter().chain([("falcon-demo", matrix_unit)]).collect(), &[1, 2, 8][..])
    };
    for (model, isas) in setups {
        for isa in isas {
            check_degrees(model, "cpu", isa, worlds, &Golden::of(model).cases).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_backend_equals_the_goldens() {
    if everything() {
        for model in MODELS {
            check_degrees(model, "reference", None, &[1, 2, 4, 8], &Golden::of(model).cases).await;
        }
    } else {
        let mut cases = Golden::of("tiny-falcon-40b").cases;
        cases.retain(|case| case.prompt_ids.len() < 100);
        check_degrees("tiny-falcon-40b", "reference", None, &[1, 2], &cases).await;
    }
}

/// The same prompts one by one and all at once, with one thread and several: the same bits.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_many_equals_one_alone_to_the_bit() {
    for model in ["falcon-demo", "tiny-falcon-40b"] {
        let setup = Setup::new(model, "cpu", 2);
        let coordinator = setup.start().await;
        let golden = Golden::of(model);
        let together = observe_all(&coordinator, golden.cases.iter().map(greedy).collect()).await;
        for (case, together) in golden.cases.iter().zip(together) {
            let alone = observe(&coordinator, greedy(case)).await;
            assert!(alone == together, "{model}, {}: the batch changed the result", case.name);
        }
        stop(&coordinator).await;
    }
}
