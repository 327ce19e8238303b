//! What is simulated for one node, and how it is told.

use super::figures::{Check, SHAPES, ShapeFigures, concern, published};
use super::{Outcome, Setup, Workload, run};
use model::FalconConfig;
use roofline::{Assumption, Batch, Kernels, Timing, assumptions};
use scheduler::{SchedulerConfig, SubmitError};
use serde::Serialize;
use sizing::Node;
use std::fmt::Write;
use step::BLOCK_TOKENS;

/// What is to be simulated.
#[derive(Clone)]
pub struct Plan {
    /// The model, as it was asked for.
    pub name: String,
    /// Its shape.
    pub config: FalconConfig,
    /// Where it runs.
    pub node: &'static Node,
    /// On how many of its GPUs.
    pub world: usize,
    /// Tokens for which each rank's KV cache has room.
    pub kv_tokens: usize,
    /// The most rows of a step.
    pub step_rows_max: usize,
    /// The most sequences that run at once.
    pub sequences_max: usize,
    /// Requests, all at once, by which throughput is measured.
    pub requests: usize,
}

/// Requests at once for which latencies are given.
const CONCURRENCIES: [usize; 4] = [1, 8, 64, 256];
/// As many requests one after the other in each place.
const ROUNDS: usize = 3;

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Simulation {
    model: String,
    node: &'static str,
    tensor_parallel: usize,
    kv_tokens: usize,
    max_batch_tokens: usize,
    max_running: usize,
    requests: usize,
    note: &'static str,
    throughput: Vec<ThroughputRow>,
    latency: Vec<LatencyRow>,
    /// Published figures, beside those of the same model of the node with stock kernels.
    checks: Vec<CheckRow>,
    assumptions: Vec<Assumption>,
}

const NOTE: &str = "a simulation: the real scheduler, and a clock that is computed; not measured on this node";

#[derive(Debug, Serialize)]
struct ThroughputRow {
    input: usize,
    output: usize,
    output_throughput: f64,
    stock_output_throughput: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    published: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    published_shape: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<f64>,
    steps: usize,
    rows_mean: f64,
    shares: Vec<(&'static str, f64)>,
}

#[derive(Debug, Serialize)]
struct LatencyRow {
    input: usize,
    output: usize,
    concurrency: usize,
    output_throughput: f64,
    median_ttft_ms: f64,
    p99_ttft_ms: f64,
    median_itl_ms: f64,
    p99_itl_ms: f64,
}

#[derive(Debug, Serialize)]
struct CheckRow {
    what: &'static str,
    unit: &'static str,
    published: f64,
    simulated: f64,
    error_percent: f64,
}

impl Plan {
    pub(super) fn setup(&self, kernels: Kernels) -> Setup {
        let timing = Timing::new(&self.config, self.node, self.world, kernels);
        let scheduler = SchedulerConfig {
            blocks: u32::try_from(self.kv_tokens / BLOCK_TOKENS).unwrap_or(u32::MAX),
            step_rows_max: self.step_rows_max,
            sequences_max: self.sequences_max,
            steps_in_flight_max: 2,
            // No two prompts begin alike.
            prefix_cache: false,
        };
        Setup { timing, scheduler }
    }

    fn all_at_once(&self, kernels: Kernels, input: usize, output: usize) -> Result<Outcome, SubmitError> {
        let workload = Workload { input, output, requests: self.requests, concurrency: self.requests };
        run(&self.setup(kernels), &workload)
    }
}

/// Simulates all shapes.
///
/// # Errors
///
/// [`SubmitError`]: the KV cache has no room for one request.
pub fn simulate(plan: &Plan) -> Result<Simulation, SubmitError> {
    let known = concern(&plan.config, plan.node, plan.world);
    let fits = |shape: &&ShapeFigures| shape.input + shape.output <= plan.config.max_positions;
    let shapes: Vec<&ShapeFigures> = SHAPES.iter().filter(fits).collect();
    let throughput = shapes.iter().map(|shape| throughput(plan, shape, known)).collect::<Result<_, _>>()?;
    let mut latency = Vec::new();
    for shape in shapes {
        for concurrency in CONCURRENCIES {
            latency.push(latency_row(plan, shape, concurrency)?);
        }
    }
    Ok(Simulation {
        model: plan.name.clone(),
        node: plan.node.name,
        tensor_parallel: plan.world,
        kv_tokens: plan.kv_tokens,
        max_batch_tokens: plan.step_rows_max,
        max_running: plan.sequences_max,
        requests: plan.requests,
        note: NOTE,
        throughput,
        latency,
        checks: if known { checks(plan)? } else { Vec::new() },
        assumptions: assumptions(plan.node.gpu),
    })
}

fn throughput(plan: &Plan, shape: &ShapeFigures, known: bool) -> Result<ThroughputRow, SubmitError> {
    let ShapeFigures { input, output, published, target } = *shape;
    let own = plan.all_at_once(Kernels::Own, input, output)?;
    let stock = plan.all_at_once(Kernels::Stock, input, output)?;
    let published = published.filter(|_| known);
    Ok(ThroughputRow {
        input,
        output,
        output_throughput: rounded(own.output_throughput),
        stock_output_throughput: rounded(stock.output_throughput),
        published: published.map(|(value, _)| value),
        published_shape: published.map(|(_, shape)| shape),
        target: known.then_some(target),
        steps: own.steps,
        rows_mean: rounded(own.rows_mean),
        shares: own.shares.into_iter().map(|(what, share)| (what, rounded(share))).collect(),
    })
}

fn latency_row(plan: &Plan, shape: &ShapeFigures, concurrency: usize) -> Result<LatencyRow, SubmitError> {
    let ShapeFigures { input, output, .. } = *shape;
    let workload = Workload { input, output, requests: ROUNDS * concurrency, concurrency };
    let outcome = run(&plan.setup(Kernels::Own), &workload)?;
    let (ttft, itl) = (&outcome.ttft_ms, &outcome.itl_ms);
    Ok(LatencyRow {
        input,
        output,
        concurrency,
        output_throughput: rounded(outcome.output_throughput),
        median_ttft_ms: rounded(ttft.median()),
        p99_ttft_ms: rounded(ttft.percentile(99.0)),
        median_itl_ms: rounded(itl.median()),
        p99_itl_ms: rounded(itl.percentile(99.0)),
    })
}

/// The node's model with stock kernels, held against what was published of programs with such.
fn checks(plan: &Plan) -> Result<Vec<CheckRow>, SubmitError> {
    let setup = plan.setup(Kernels::Stock);
    let one = |input, output| run(&setup, &Workload { input, output, requests: 1, concurrency: 1 });
    let row = |figure: super::figures::Published| {
        let simulated = match figure.check {
            Check::Throughput(input, output) => plan.all_at_once(Kernels::Stock, input, output)?.output_throughput,
            // In one step, as those programs do.
            Check::FirstToken(input) => setup.timing.step_seconds(&Batch::prompt(input as u64)) * 1e3,
            Check::Latency(input, output) => one(input, output)?.seconds,
            Check::PerToken(input, output) => one(input, output)?.itl_ms.mean(),
        };
        Ok(CheckRow {
            what: figure.what,
            unit: figure.unit,
            published: figure.value,
            simulated: rounded(simulated),
            error_percent: rounded((simulated / figure.value - 1.0) * 100.0),
        })
    };
    published().into_iter().map(row).collect()
}

/// To thousandths: more would be an appearance of knowledge.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

impl Simulation {
    /// As JSON.
    ///
    /// # Panics
    ///
    /// Never: all of it can be written as JSON.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data is JSON") + "\n"
    }

    /// As Markdown.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "{} over {} GPUs of {}: SIMULATED ({})\n\n\
             {} requests at once; up to {} running, {} rows a step, {} tokens in the KV cache.\n\n",
            self.model,
            self.tensor_parallel,
            self.node,
            self.note,
            self.requests,
            self.max_running,
            self.max_batch_tokens,
            self.kv_tokens
        );
        text += "| in/out | output tok/s | with stock kernels | published | target | rows a step | where the time goes |\n\
                 |---|---|---|---|---|---|---|\n";
        self.throughput.iter().for_each(|row| row.line(&mut text));
        text += "\nLatencies, with so many requests under way at once:\n\n\
                 | in/out | at once | output tok/s | TTFT p50 ms | p99 | ITL p50 ms | p99 |\n|---|---|---|---|---|---|---|\n";
        self.latency.iter().for_each(|row| row.line(&mut text));
        if !self.checks.is_empty() {
            text += "\nThe same model of the node, with stock kernels, beside published figures of such:\n\n\
                     | figure | published | simulated | error |\n|---|---|---|---|\n";
            self.checks.iter().for_each(|row| row.line(&mut text));
        }
        text += "\nThis rests on\n\n";
        for Assumption { what, source } in &self.assumptions {
            push(&mut text, format_args!("* {what}: {source}\n"));
        }
        text
    }
}

impl ThroughputRow {
    fn line(&self, text: &mut String) {
        let Self { input, output, output_throughput, stock_output_throughput, rows_mean, .. } = self;
        let published = match (self.published, self.published_shape) {
            (Some(value), Some(shape)) => format!("{value:.0} ({shape})"),
            _ => "–".to_owned(),
        };
        let target = self.target.map_or_else(
            || "–".to_owned(),
            |target| format!("{target:.0}, {}", if *output_throughput >= target { "met" } else { "**missed**" }),
        );
        let share = |(what, share): &(&str, f64)| format!("{what} {:.0} %", share * 100.0);
        let shares: Vec<String> = self.shares.iter().filter(|(_, share)| *share >= 0.01).map(share).collect();
        push(
            text,
            format_args!(
                "| {input}/{output} | {output_throughput:.0} | {stock_output_throughput:.0} | {published} | {target} | \
                 {rows_mean:.0} | {} |\n",
                shares.join(", ")
            ),
        );
    }
}

impl LatencyRow {
    fn line(&self, text: &mut String) {
        let Self { input, output, concurrency, output_throughput, .. } = self;
        let Self { median_ttft_ms, p99_ttft_ms, median_itl_ms, p99_itl_ms, .. } = self;
        push(
            text,
            format_args!(
                "| {input}/{output} | {concurrency} | {output_throughput:.0} | {median_ttft_ms:.0} | {p99_ttft_ms:.0} | \
                 {median_itl_ms:.1} | {p99_itl_ms:.1} |\n"
            ),
        );
    }
}

impl CheckRow {
    fn line(&self, text: &mut String) {
        let Self { what, unit, published, simulated, error_percent } = self;
        push(text, format_args!("| {what} | {published} {unit} | {simulated:.1} | {error_percent:+.0} % |\n"));
    }
}

fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a string can always be written to");
}
