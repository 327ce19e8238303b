//! A campaign of random faults, beneath streams of which each must be what it is when nobody disturbs it.
//!
//! Real processes, the demo model, four ranks, a supervisor that starts the server again when it was killed, and 32 callers at once
//! with every face and kind of parameter. An answer is either that of an undisturbed server, to the bit, or its caller knows
//! why there is none: its own deadline, its own leaving, or the coordinator's death. In each case what has come is the beginning of the
//! undisturbed answer.
//!
//! `CAMPAIGN_FAULTS=500 CAMPAIGN_SEED=7 cargo test --release -p peregrine --test campaign -- --nocapture` runs a long one.

mod callers;
mod calls;
mod cases;
mod faults;
mod figures;
mod heard;
mod lives;
mod model;
#[expect(dead_code, unused_imports, reason = "other test programs use more of it")]
#[path = "../it/support/mod.rs"]
mod support;

use crate::callers::Callers;
use crate::calls::{Caller, call};
use crate::cases::{Case, cases};
use crate::faults::{Done, Saboteur, faults};
use crate::figures::Figures;
use crate::heard::Heard;
use crate::lives::{Life, RANKS, Supervisor};
use crate::model::Model;
use crate::support::{LIMIT, within};
use std::time::{Duration, Instant};

/// How many callers there are.
const STREAMS: usize = 32;

/// How many sequences run when all goes well, at least: callers that are slow, or between two calls, have none.
const RUNNING_MIN: f64 = 10.0;

/// How many faults a run has that nobody has asked to be longer: one of each kind at least.
const FAULTS: u64 = 25;

/// The longest time between a recovery and the next fault.
const REST_MOST_MS: u64 = 1000;

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}={value}: no number")))
}

/// Reads to the end.
struct Patient;

impl Caller for Patient {
    async fn hears(&mut self, _heard: &Heard) -> bool {
        true
    }
}

/// The answers of a server that nobody disturbs, one after the other.
async fn alone(cases: &[Case], life: Life) -> Vec<Heard> {
    let mut answers = Vec::new();
    for case in cases {
        let mut heard = Heard::default();
        let end = within("an answer", call(case, life, None, &mut heard, &mut Patient)).await;
        end.unwrap_or_else(|failure| panic!("{failure}: {case:?}"));
        assert!(heard.is_whole(), "{heard:?}");
        answers.push(heard);
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn answers_are_those_of_an_undisturbed_run_or_their_callers_know_why_not() {
    let (count, seed) = (variable("CAMPAIGN_FAULTS", FAULTS), variable("CAMPAIGN_SEED", 1));
    println!("CAMPAIGN_FAULTS={count} CAMPAIGN_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let model = Model::copy();
    let supervisor = Supervisor::start(model.path()).await;
    let life = supervisor.life();
    let cases = cases(STREAMS, &mut random);
    let solo = alone(&cases, *life.borrow()).await;
    let mut figures = Figures::idle(supervisor.server());
    let callers = Callers::start(cases, solo, life, &mut random);
    let faults = faults(usize::try_from(count).expect("few"), &mut random);
    let mut saboteur = Saboteur { supervisor, model, callers: callers.shared.clone(), random, log_stands: 0 };
    calm(&saboteur).await;
    for (number, fault) in faults.into_iter().enumerate() {
        // It strikes anywhere within a step, a prompt or an answer.
        let rest = saboteur.random.u64(..REST_MOST_MS);
        tokio::time::sleep(Duration::from_millis(rest)).await;
        let before = recoveries(&saboteur).await;
        let since = Instant::now();
        let done = saboteur.strike(fault).await;
        served(&saboteur, if done == Done::Ranks { before + 1.0 } else { 0.0 }).await;
        let token = bounded(&saboteur, "a token", saboteur.callers.next_token(Instant::now())).await;
        println!("{number}: {fault:?}, tokens go on after {:.2} s", (token - since).as_secs_f32());
        figures.struck(fault, done, token - since, &saboteur);
        calm(&saboteur).await;
    }
    saboteur.supervisor.log.stand_still(false);
    let shared = callers.stop().await;
    check(&saboteur);
    figures.end(saboteur.supervisor.server()).await;
    figures.print(&saboteur.supervisor.log, &shared.tally.lock().expect("no panic"));
    saboteur.supervisor.stop().await;
}

/// A figure of the server, whose coordinator must run.
async fn metric(saboteur: &Saboteur, name: &str) -> f64 {
    let text = saboteur.supervisor.server().get("/metrics").await.body;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name}: {text}"))
}

async fn recoveries(saboteur: &Saboteur) -> f64 {
    metric(saboteur, "peregrine_recoveries_total").await
}

/// Waits until the ranks serve, and have recovered so often.
async fn served(saboteur: &Saboteur, times: f64) {
    let serves = async || metric(saboteur, "peregrine_up").await == 1.0 && recoveries(saboteur).await >= times;
    until(saboteur, "the ranks serve", serves).await;
}

/// Waits until the answers go on, all of them, over as many workers as there are to be.
async fn calm(saboteur: &Saboteur) {
    let goes_on = async || {
        metric(saboteur, "peregrine_up").await == 1.0
            && metric(saboteur, "tgi_queue_size").await == 0.0
            && metric(saboteur, "tgi_batch_current_size").await >= RUNNING_MIN
    };
    until(saboteur, "streams run, and none waits", goes_on).await;
    saboteur.supervisor.server().ranks(RANKS).await;
    check(saboteur);
}

async fn until(saboteur: &Saboteur, what: &str, holds: impl AsyncFn() -> bool) {
    bounded(saboteur, what, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Waits for something that happens unless there is a hang.
async fn bounded<T>(saboteur: &Saboteur, what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {} s; the log: {}", LIMIT.as_secs(), saboteur.supervisor.log.tail()),
    }
}

/// Fails if a call has ended as it must not.
fn check(saboteur: &Saboteur) {
    let tally = saboteur.callers.tally.lock().expect("no panic");
    assert!(tally.violations.is_empty(), "{:#?}; the log: {}", tally.violations, saboteur.supervisor.log.tail());
}
