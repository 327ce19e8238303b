//! `peregrine bench simulate`: the real scheduler against the timed model of a node. Pure: the clock is the model's.

mod figures;
mod report;

use crate::metrics::Distribution;
use roofline::{Batch, Limit, Timing};
use scheduler::{Event, Scheduler, SchedulerConfig, Submission, SubmitError};
use std::collections::{HashMap, VecDeque};
use step::{Priority, Sample, SamplingParams, ScoredToken, SeqId, SeqOutput, StepPlan, StepResult, TokenScore};

pub use report::{Plan, simulate};

/// What is simulated: a node with its model, and how the scheduler is set.
#[derive(Clone)]
pub struct Setup {
    /// How long steps take.
    pub timing: Timing,
    /// How the scheduler is set.
    pub scheduler: SchedulerConfig,
}

/// Requests of one shape, so many of them at once: when one ends, the next comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Tokens of a prompt.
    pub input: usize,
    /// Tokens of an answer.
    pub output: usize,
    /// How many requests there are in all.
    pub requests: usize,
    /// How many are under way at once.
    pub concurrency: usize,
}

/// How a workload went.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// From the first request to the last token.
    pub seconds: f64,
    /// Output tokens per second.
    pub output_throughput: f64,
    /// Milliseconds to the first token, waiting included.
    pub ttft_ms: Distribution,
    /// Milliseconds between tokens.
    pub itl_ms: Distribution,
    /// Steps that ran.
    pub steps: usize,
    /// Rows of a step, on average.
    pub rows_mean: f64,
    /// What the time went into, with its share of all, largest first.
    pub shares: Vec<(&'static str, f64)>,
}

/// Runs a workload to its end.
///
/// # Errors
///
/// [`SubmitError`]: a request could never run.
///
/// # Panics
///
/// If the scheduler breaks its own contract.
pub fn run(setup: &Setup, workload: &Workload) -> Result<Outcome, SubmitError> {
    let mut run = Run::new(setup, *workload);
    for _ in 0..workload.concurrency.min(workload.requests) {
        run.submit()?;
    }
    while run.step()? {}
    Ok(run.outcome())
}

/// A run under way.
struct Run<'a> {
    setup: &'a Setup,
    workload: Workload,
    scheduler: Scheduler,
    /// Steps that the device has been given, each with when it ends.
    queue: VecDeque<(StepPlan, f64)>,
    now: f64,
    submitted: usize,
    /// When each request that is under way came, or gained its last token.
    last: HashMap<SeqId, (f64, bool)>,
    tokens: usize,
    rows: u64,
    steps: usize,
    ttft_ms: Vec<f64>,
    itl_ms: Vec<f64>,
    spent: HashMap<&'static str, f64>,
}

impl<'a> Run<'a> {
    fn new(setup: &'a Setup, workload: Workload) -> Self {
        Self {
            setup,
            workload,
            scheduler: Scheduler::new(setup.scheduler),
            queue: VecDeque::new(),
            now: 0.0,
            submitted: 0,
            last: HashMap::new(),
            tokens: 0,
            rows: 0,
            steps: 0,
            ttft_ms: Vec::new(),
            itl_ms: Vec::new(),
            spent: HashMap::new(),
        }
    }

    fn submit(&mut self) -> Result<(), SubmitError> {
        let seq = SeqId(self.submitted as u64);
        self.submitted += 1;
        self.last.insert(seq, (self.now, false));
        let submission = Submission {
            // No prompt begins like another: nothing of them is shared.
            prompt: (0..self.workload.input).map(|_| seq.0 as u32).collect(),
            max_new_tokens: self.workload.output,
            eos: Vec::new(),
            stop_token_ids: Vec::new(),
            min_tokens: 0,
            sampling: SamplingParams::GREEDY,
            priority: Priority::Normal,
            prompt_logprobs: false,
            top_n: 0,
            return_logits: false,
        };
        self.scheduler.submit(seq, submission)
    }

    /// Gives the device what the scheduler plans, and lets it end one step. False when nothing is left.
    fn step(&mut self) -> Result<bool, SubmitError> {
        while let Some(plan) = self.scheduler.plan() {
            let begins = self.queue.back().map_or(self.now, |(_, ends)| *ends).max(self.now);
            let seconds = self.seconds(&plan);
            self.queue.push_back((plan, begins + seconds));
        }
        let Some((plan, ends)) = self.queue.pop_front() else { return Ok(false) };
        self.now = ends;
        let events = self.scheduler.commit(result(&plan)).expect("a result of the plan fits the plan");
        for event in events {
            if let Event::Token { seq, finish, .. } = event {
                self.token(seq, finish.is_some())?;
            }
        }
        Ok(true)
    }

    fn token(&mut self, seq: SeqId, last: bool) -> Result<(), SubmitError> {
        let (since, begun) = self.last.get_mut(&seq).expect("tokens are of requests under way");
        let ms = (self.now - *since) * 1e3;
        if *begun { &mut self.itl_ms } else { &mut self.ttft_ms }.push(ms);
        (*since, *begun) = (self.now, true);
        self.tokens += 1;
        if last {
            self.last.remove(&seq);
            if self.submitted < self.workload.requests {
                self.submit()?;
            }
        }
        Ok(())
    }

    /// How long a step takes; what it spends the time on is noted.
    fn seconds(&mut self, plan: &StepPlan) -> f64 {
        let mut batch = Batch::default();
        for run in &plan.runs {
            batch.add_run(run.start as u64, run.len as u64, run.sample);
        }
        self.steps += 1;
        self.rows += batch.rows;
        let timing = &self.setup.timing;
        let mut all = 0.0;
        for launch in timing.launches(&batch) {
            let seconds = launch.times as f64 * timing.launch_seconds(&launch);
            *self.spent.entry(subject(launch.limit)).or_default() += seconds;
            all += seconds;
        }
        all
    }

    fn outcome(self) -> Outcome {
        let all: f64 = self.spent.values().sum();
        let mut shares: Vec<_> = self.spent.into_iter().map(|(what, seconds)| (what, seconds / all)).collect();
        shares.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
        Outcome {
            seconds: self.now,
            output_throughput: self.tokens as f64 / self.now,
            ttft_ms: Distribution::of(self.ttft_ms),
            itl_ms: Distribution::of(self.itl_ms),
            steps: self.steps,
            rows_mean: self.rows as f64 / self.steps as f64,
            shares,
        }
    }
}

/// What a launch is, for a reader.
fn subject(limit: Limit) -> &'static str {
    match limit {
        Limit::Product => "products",
        Limit::Attention | Limit::PrefillAttention => "attention",
        Limit::Memory => "elementwise",
        Limit::AllReduce | Limit::Gather => "between GPUs",
        Limit::Fixed => "other",
    }
}

/// What ranks would answer: some token wherever one is sampled.
fn result(plan: &StepPlan) -> StepResult {
    let score = TokenScore { logprob: 0.0, model_logprob: 0.0 };
    let sample = Sample { token: ScoredToken { id: 1, score }, top: Vec::new(), logits: Vec::new() };
    let sampled = plan.runs.iter().filter(|run| run.sample);
    let output = |seq| SeqOutput { seq, samples: vec![sample.clone()], prompt_logprobs: Vec::new() };
    StepResult {
        step: plan.step,
        outputs: sampled.map(|run| output(run.seq)).collect(),
        device_time_us: 0,
        all_reduce_time_us: None,
    }
}

#[cfg(test)]
mod tests;
