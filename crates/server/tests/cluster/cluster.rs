//! One cluster from one seed.

use crate::caller::{Behaviour, Caller, Counts, EOS, Outcome, STALL_LIMIT};
use crate::ledger::{VOCAB, engine};
use coordinator::{Coordinator, CoordinatorConfig, InProcessRank, RankFailure, RestartLimits, Status, Totals, Workers};
use server::{Chat, ChatOverflow, GrpcApi, Info, Service, Telemetry, TokenizerPool};
use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use step::{BLOCK_TOKENS, Command, SeqId, StepPlan};
use text::{ChatTemplate, Tokenizer};
use tokio::task::JoinSet;
use tonic::Code;
use wire::generation as pb;

/// In the cluster's time. Nothing takes so long unless it hangs.
const LIMIT: Duration = Duration::from_secs(100_000);

/// Positions of a sequence.
const POSITIONS: usize = 128;

/// Prompts are token ids, so it only decodes, and there are no conversations.
static TOKENIZER: LazyLock<(TokenizerPool, Chat)> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tokenizer");
    let pool = TokenizerPool::start(Tokenizer::open(&folder).expect("a tokenizer"), 1, 1).expect("a thread");
    let template = ChatTemplate::open(&folder).expect("Falcon's own");
    (pool, Chat { template, overflow: ChatOverflow::Error })
});

/// What goes wrong with a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It ends.
    Dies,
    /// Somebody kills it.
    IsKilled,
    /// It says that something is wrong.
    Reports,
    /// It never answers.
    Hangs,
    /// It answers with another token than the others.
    Lies,
}

/// Where in the life of a rank something goes wrong: before it is ready (0), or at its first step or a later one.
type When = u64;

/// A request that breaks every rank which runs it beyond a position.
#[derive(Clone, Debug)]
struct Poison {
    prompt: Vec<u32>,
    position: usize,
}

/// One cluster, and what happens to it.
#[derive(Debug)]
struct Plan {
    config: CoordinatorConfig,
    permits: usize,
    /// What a step takes on each rank, and what each of its rows adds.
    step_ms: Vec<u64>,
    row_us: u64,
    /// Of each epoch, until nothing goes wrong any more.
    faults: Vec<(usize, When, Fault)>,
    poison: Option<Poison>,
    /// Failures that have happened.
    failures: Arc<AtomicU32>,
    callers: Vec<Caller>,
}

/// What happened, over many clusters.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally {
    finished: usize,
    refused: usize,
    late: usize,
    stalled: usize,
    left: usize,
    failed: usize,
    /// Requests that broke the ranks, and were ended for it.
    guilty: usize,
    clusters_failed: usize,
    clusters_recovered: usize,
    totals: Totals,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.finished += other.finished;
        self.refused += other.refused;
        self.late += other.late;
        self.stalled += other.stalled;
        self.left += other.left;
        self.failed += other.failed;
        self.guilty += other.guilty;
        self.clusters_failed += other.clusters_failed;
        self.clusters_recovered += other.clusters_recovered;
        self.totals.steps += other.totals.steps;
        self.totals.rows += other.totals.rows;
        self.totals.started += other.totals.started;
        self.totals.prompt_tokens += other.totals.prompt_tokens;
        self.totals.cached_tokens += other.totals.cached_tokens;
        self.totals.generated_tokens += other.totals.generated_tokens;
    }

    fn count(&mut self, outcome: &Outcome, guilty: bool) {
        let counter = match outcome.status.as_ref().map(tonic::Status::code) {
            None if outcome.details.is_some() => &mut self.finished,
            None => &mut self.left,
            Some(Code::ResourceExhausted) => &mut self.refused,
            Some(Code::DeadlineExceeded) if outcome.caller.behaviour == Behaviour::Freezes => &mut self.stalled,
            Some(Code::DeadlineExceeded) => &mut self.late,
            Some(_) if outcome.is_refused_while_recovering() => &mut self.refused,
            Some(_) if guilty => &mut self.guilty,
            Some(_) => &mut self.failed,
        };
        *counter += 1;
    }

    /// A thousand clusters in which something never happens do not show that it is harmless.
    pub fn check_that_everything_happened(&self) {
        let Self { finished, refused, late, stalled, left, failed, guilty, totals, .. } = self;
        let counts = [finished, refused, late, stalled, left, failed, guilty];
        let counts = [&counts[..], &[&self.clusters_failed, &self.clusters_recovered]].concat();
        assert!(counts.iter().all(|&&count| count > 50) && totals.cached_tokens > 1000, "{self:?}");
    }
}

impl Plan {
    fn new(rng: &mut fastrand::Rng) -> Self {
        let world = rng.usize(1..=3);
        let step_rows_max = rng.usize(2..=64);
        let config = CoordinatorConfig {
            world,
            kv_blocks: rng.u32(POSITIONS as u32 / BLOCK_TOKENS as u32..=40),
            step_rows_max,
            sequences_max: rng.usize(1..=8).min(step_rows_max),
            steps_in_flight_max: rng.usize(1..=2),
            prefix_cache: rng.u8(..5) > 0,
            itl_bound: rng.bool().then(|| Duration::from_millis(rng.u64(1..200))),
            step_limit: Duration::from_secs(10),
            pause_limit: Duration::from_secs(600),
            load_limit: Duration::from_secs(10),
            restarts: RestartLimits {
                failures_max: Some(rng.u32(0..8)).filter(|_| rng.u8(..4) > 0),
                window: Duration::from_secs(rng.u64(1..1000)),
            },
            check_invariants: true,
        };
        // Now and then one rank is much slower than the others, and now and then none takes any time.
        let mut step_ms = vec![rng.u64(0..20); world];
        if rng.u8(..4) == 0 {
            step_ms[rng.usize(..world)] = 300;
        }
        // One rank alone cannot differ from others.
        let kinds = [Fault::Dies, Fault::IsKilled, Fault::Reports, Fault::Hangs, Fault::Lies];
        let kinds = if world > 1 { &kinds[..] } else { &kinds[..4] };
        let count = if rng.bool() { 0 } else { rng.usize(1..6) };
        let fault = |_| (rng.usize(..world), rng.u64(..60) * rng.u64(0..2), *rng.choice(kinds).expect("some"));
        let faults = (0..count).map(fault).collect();
        // The same few blocks behind different ones: alike, and yet not the same.
        let pieces = [(); 2].map(|()| tokens(rng, BLOCK_TOKENS));
        let beginning = |_| [(); 5].map(|()| rng.choice(&pieces).expect("there are some").clone()).concat();
        let beginnings: Vec<Vec<u32>> = (0..4).map(beginning).collect();
        let span_ms = rng.u64(1..2000);
        let callers: Vec<Caller> = (0..rng.usize(1..24)).map(|_| caller(rng, &beginnings, span_ms)).collect();
        let poison = (rng.u8(..4) == 0).then(|| {
            let Caller { prompt, max_new_tokens, .. } = rng.choice(&callers).expect("there are some");
            let position = rng.usize(..prompt.len() + *max_new_tokens as usize);
            Poison { prompt: prompt.clone(), position }
        });
        let (permits, row_us) = (rng.usize(1..=16), rng.u64(..500));
        Self { config, permits, step_ms, row_us, faults, poison, failures: Arc::default(), callers }
    }

    /// What a rank does.
    fn rank(&self, rank: usize) -> InProcessRank {
        let CoordinatorConfig { world, kv_blocks, step_rows_max, .. } = self.config;
        let (step_ms, row_us) = (self.step_ms[rank], self.row_us);
        let (faults, poison, failures) = (self.faults.clone(), self.poison.clone(), self.failures.clone());
        let epochs = AtomicUsize::new(0);
        Arc::new(move |mut commands, answers| {
            let fault = faults.get(epochs.fetch_add(1, Ordering::Relaxed)).filter(|&&(at, ..)| at == rank).copied();
            let (mut poison, failures) = (Watched::new(poison.clone()), failures.clone());
            Box::pin(async move {
                let mut engine = engine(rank, world, kv_blocks as usize, step_rows_max);
                tokio::time::sleep(Duration::from_millis(step_ms)).await;
                let fault_at = |now: When| fault.filter(|&(_, when, _)| now >= when).map(|(.., fault)| fault);
                happen(fault_at(0), &failures).await?;
                answers.ready();
                while let Some(command) = commands.next().await {
                    let Command::Plan(plan) = command else { return Err("nobody asked for masks".to_owned().into()) };
                    let row_us = if step_ms == 0 { 0 } else { row_us };
                    let time = Duration::from_millis(step_ms) + Duration::from_micros(row_us * plan.rows() as u64);
                    tokio::time::sleep(time).await;
                    let fault = fault_at(plan.step.0 + 1);
                    happen(fault, &failures).await?;
                    if poison.runs_in(&plan) {
                        failures.fetch_add(1, Ordering::Relaxed);
                        return Err("the device is on fire".to_owned().into());
                    }
                    engine.begin(plan, &[]).map_err(|error| error.to_string())?;
                    let result = engine.poll().map_err(|error| error.to_string())?;
                    let mut result = result.expect("it is done at once");
                    if fault == Some(Fault::Lies) {
                        failures.fetch_add(1, Ordering::Relaxed);
                        result.outputs.iter_mut().flat_map(|output| &mut output.samples).for_each(|s| s.token.id ^= 1);
                    }
                    answers.send(result);
                }
                Ok(())
            })
        })
    }

    /// How long a request may take: as if each token of all requests were a step of its own, and all were computed again after each
    /// failure, which is noticed when the first step of an epoch is late, or later.
    fn patience(&self, failures: u32) -> Duration {
        let tokens = self.callers.iter().map(|caller| caller.prompt.len() + caller.max_new_tokens as usize);
        let step_ms = self.step_ms.iter().max().expect("a rank") + 1 + self.row_us * 64 / 1000;
        let (seconds, tokens) = (Duration::from_secs(330) * failures, tokens.sum::<usize>() as u64);
        seconds + Duration::from_millis(1000 + step_ms * tokens * u64::from(failures + 1))
    }
}

/// Lets a fault happen that is none of the answers.
async fn happen(fault: Option<Fault>, failures: &AtomicU32) -> Result<(), RankFailure> {
    let Some(fault) = fault.filter(|&fault| fault != Fault::Lies) else { return Ok(()) };
    failures.fetch_add(1, Ordering::Relaxed);
    match fault {
        Fault::Dies => Err(RankFailure::Error("it is gone".to_owned())),
        Fault::IsKilled => Err(RankFailure::Killed),
        Fault::Reports => Err(RankFailure::Error("the device is on fire".to_owned())),
        Fault::Hangs | Fault::Lies => std::future::pending().await,
    }
}

/// Watches for a request that breaks the ranks.
struct Watched {
    poison: Option<Poison>,
    seqs: HashSet<SeqId>,
}

impl Watched {
    fn new(poison: Option<Poison>) -> Self {
        Self { poison, seqs: HashSet::new() }
    }

    fn runs_in(&mut self, plan: &StepPlan) -> bool {
        let Some(Poison { prompt, position }) = &self.poison else { return false };
        let poisonous = plan.new.iter().filter(|new| new.tokens[..new.prompt_len] == prompt[..]);
        self.seqs.extend(poisonous.map(|new| new.seq));
        plan.runs.iter().any(|run| self.seqs.contains(&run.seq) && run.start + run.len > *position)
    }
}

fn tokens(rng: &mut fastrand::Rng, count: usize) -> Vec<u32> {
    (0..count).map(|_| rng.u32(..VOCAB)).collect()
}

fn caller(rng: &mut fastrand::Rng, beginnings: &[Vec<u32>], span_ms: u64) -> Caller {
    let mut prompt = rng.choice(beginnings).expect("there are some")[..rng.usize(0..70)].to_vec();
    let count = rng.usize(1..20);
    prompt.extend(tokens(rng, count));
    let max_new_tokens = rng.u32(1..=(POSITIONS - prompt.len()).min(40) as u32);
    let priorities = [pb::Priority::Unspecified, pb::Priority::Low, pb::Priority::Normal, pb::Priority::High];
    let deadline = Duration::from_millis(rng.u64(10..1500));
    let behaviour = match rng.u8(..10) {
        0 => Behaviour::Leaves(rng.usize(..max_new_tokens as usize)),
        1 => Behaviour::HasDeadline(deadline),
        2 => Behaviour::Stalls(deadline),
        3 => Behaviour::Freezes,
        _ => Behaviour::Reads,
    };
    Caller {
        arrival: Duration::from_millis(rng.u64(..span_ms)),
        prompt,
        max_new_tokens,
        ignore_eos: rng.bool(),
        priority: *rng.choice(&priorities).expect("there are some"),
        behaviour,
    }
}

/// Runs the cluster of a seed, and checks all that must hold.
pub fn run(seed: u64) -> Tally {
    let plan = Plan::new(&mut fastrand::Rng::with_seed(seed));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime
        .expect("a runtime")
        .block_on(async { tokio::time::timeout(LIMIT, serve(plan)).await.expect("the cluster hangs") })
}

async fn serve(plan: Plan) -> Tally {
    let workers = (0..plan.config.world).map(|rank| plan.rank(rank)).collect();
    let telemetry = Telemetry::default();
    let coordinator = Coordinator::start(plan.config.clone(), Workers::InProcess(workers), Arc::new(telemetry.clone()));
    coordinator.status().wait_for(|status| *status != Status::Loading { done: 0, total: 0 }).await.expect("it runs");
    let info = Info {
        model_id: "ledger".to_owned(),
        model_dir: "ledger".into(),
        backend: "ledger".to_owned(),
        tensor_parallel: plan.config.world,
        limits: api::Limits::of_model(POSITIONS, VOCAB as usize, 1),
        tgi: server::dialects::tgi::Limits::default(),
        max_concurrent_requests: plan.permits,
    };
    let service =
        Service::new(coordinator.clone(), TOKENIZER.0.clone(), TOKENIZER.1.clone(), EOS.to_vec(), info, telemetry);
    let (api, counts) = (Arc::new(GrpcApi::new(service, Some(STALL_LIMIT))), Arc::new(Counts::default()));
    let mut callers = JoinSet::new();
    for caller in &plan.callers {
        callers.spawn(caller.clone().run(api.clone(), counts.clone(), plan.permits));
    }
    let outcomes = callers.join_all().await;
    coordinator.drain();
    let ended = coordinator.ended().await;
    let failed = matches!(ended, Status::Failed { .. });
    let failures = plan.failures.load(Ordering::Relaxed);
    let recovered = !failed && failures > 0;
    let mut tally = Tally { clusters_failed: failed.into(), clusters_recovered: recovered.into(), ..Tally::default() };
    tally.totals = coordinator.activity().totals;
    for outcome in outcomes {
        let guilty = plan.poison.as_ref().is_some_and(|poison| poison.prompt == outcome.caller.prompt);
        // One that happens to run alone when a rank fails twice cannot be told from one that is guilty.
        let unlucky = plan.faults.iter().filter(|(.., fault)| *fault != Fault::IsKilled).count() > 1;
        outcome.check(failed || guilty || unlucky, plan.patience(failures));
        tally.count(&outcome, guilty);
    }
    match ended {
        Status::Failed { reason } => {
            let never_ready = plan.faults.first().is_some_and(|&(_, when, _)| when == 0);
            let too_many = plan.config.restarts.failures_max.is_some_and(|max| failures > max);
            assert!((never_ready || too_many) && !reason.contains("bug"), "{failures} failures: {reason}");
        }
        _ => {
            let load = coordinator.activity().load;
            let blocks = plan.config.kv_blocks as usize;
            assert_eq!((load.waiting, load.running, load.blocks_available), (0, 0, blocks), "all is given back");
        }
    }
    tally
}
