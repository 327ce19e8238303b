//! Metrics for Prometheus. docs/operations.md says what each means. Names that begin with `tgi_` are those of Text Generation
//! Inference, whose dashboards read them; the others are the field's usual ones.

mod steps;

use self::steps::Steps;
use super::token_histogram::TokenHistogram;
use super::{Generated, Outcome};
use crate::{Info, StateName};
use coordinator::{Activity, Recovery, StepRecord};
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, prometheus_text, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use step::{BLOCK_TOKENS, FinishReason};

/// In which format metrics are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exposition {
    /// Prometheus' own, version 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0, which has exemplars.
    OpenMetrics,
}

impl Exposition {
    /// The content type of the format.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A label and its value.
type Label<V> = [(&'static str, V); 1];

/// By which a request is found in log and traces.
pub(crate) type Exemplar = Vec<(&'static str, String)>;

/// A counter by a name of TGI's, which does not end in `_total` as both formats want of counters.
#[derive(Clone, Debug, Default)]
struct TgiCounter(Arc<AtomicU64>);

impl TgiCounter {
    fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl TypedMetric for TgiCounter {
    const TYPE: MetricType = MetricType::Unknown;
}

impl EncodeMetric for TgiCounter {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_gauge(&self.0.load(Ordering::Relaxed))
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;
type Traced = HistogramWithExemplars<Exemplar>;

/// From half a millisecond to four minutes.
fn times() -> impl Iterator<Item = f64> {
    exponential_buckets(0.0005, 2.0, 20)
}

/// Times of the host's work for a step: from a microsecond to a second.
fn host_times() -> impl Iterator<Item = f64> {
    exponential_buckets(1e-6, 4.0, 11)
}

/// Tokens, rows or sequences.
fn counts() -> impl Iterator<Item = f64> {
    exponential_buckets(1.0, 2.0, 16)
}

fn time_family<L: Clone + Eq + std::hash::Hash>() -> Histograms<L> {
    Family::new_with_constructor(|| Histogram::new(times()))
}

fn host_time_family<L: Clone + Eq + std::hash::Hash>() -> Histograms<L> {
    Family::new_with_constructor(|| Histogram::new(host_times()))
}

/// All metrics of a server.
pub(super) struct Metrics {
    registry: Registry,
    now: Now,
    requests: Requests,
    steps: Steps,
}

/// What is read from the coordinator when it is asked for.
struct Now {
    up: Gauge,
    state: Family<Label<&'static str>, Gauge>,
    build: Family<[(&'static str, String); 4], Gauge>,
    queue_size: Gauge,
    batch_size: Gauge,
    batch_max_tokens: Gauge,
    max_total_tokens: Gauge,
    kv_blocks: Gauge,
    kv_blocks_available: Gauge,
    kv_usage: Gauge<f64, AtomicU64>,
    steps: Counter,
    rows: Counter,
    prompt_tokens: Counter,
    cached_tokens: Counter,
    generated_tokens: Counter,
}

/// What is counted of requests.
struct Requests {
    responses: Family<[(&'static str, String); 2], Counter>,
    count: TgiCounter,
    success: TgiCounter,
    failure: Family<Label<&'static str>, TgiCounter>,
    finished: Family<Label<&'static str>, Counter>,
    duration: Histogram,
    validation: Histogram,
    queue: Histogram,
    inference: Histogram,
    mean_time_per_token: Histogram,
    input_length: Histogram,
    max_new_tokens: Histogram,
    generated_tokens: Histogram,
    skipped_tokens: Histogram,
    time_to_first_token: Traced,
    inter_token_latency: TokenHistogram,
    end_to_end: Traced,
    queue_time: Traced,
}

/// Registers metrics as they are made.
struct Register<'registry>(&'registry mut Registry);

impl Register<'_> {
    fn add<M>(&mut self, name: &str, help: &str, metric: M) -> M
    where
        M: Clone + EncodeMetric + fmt::Debug + Send + Sync + 'static,
    {
        self.0.register(name, help, metric.clone());
        metric
    }

    /// Times, in seconds, as the end of their name says.
    fn seconds<M>(&mut self, name: &str, help: &str, metric: M) -> M
    where
        M: Clone + EncodeMetric + fmt::Debug + Send + Sync + 'static,
    {
        self.0.register_with_unit(name, help, Unit::Seconds, metric.clone());
        metric
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let mut register = Register(&mut registry);
        let (now, requests) = (Now::new(&mut register), Requests::new(&mut register));
        let steps = Steps::new(&mut register);
        Self { registry, now, requests, steps }
    }
}

impl Now {
    fn new(register: &mut Register<'_>) -> Self {
        Self {
            up: register.add("peregrine_up", "Whether the model takes requests", Gauge::default()),
            state: register.add("peregrine_state", "1 for what the server is doing, else 0", Family::default()),
            build: register.add("peregrine_build_info", "What runs; always 1", Family::default()),
            queue_size: register.add("tgi_queue_size", "Sequences that wait for room", Gauge::default()),
            batch_size: register.add("tgi_batch_current_size", "Sequences that run", Gauge::default()),
            batch_max_tokens: register.add(
                "tgi_batch_current_max_tokens",
                "Tokens of the KV cache that are used by sequences that run or promised to them",
                Gauge::default(),
            ),
            max_total_tokens: register.add(
                "tgi_batch_max_total_tokens",
                "Tokens for which the KV cache has room",
                Gauge::default(),
            ),
            kv_blocks: register.add("peregrine_kv_blocks", "Blocks of the KV cache", Gauge::default()),
            kv_blocks_available: register.add(
                "peregrine_kv_blocks_available",
                "KV blocks that are neither used nor promised",
                Gauge::default(),
            ),
            kv_usage: register.add(
                "peregrine_kv_cache_usage_ratio",
                "The part of the KV cache that is used or promised, from 0 to 1",
                Gauge::default(),
            ),
            steps: register.add("peregrine_steps", "Steps", Counter::default()),
            rows: register.add("peregrine_step_rows", "Tokens that steps have computed", Counter::default()),
            prompt_tokens: register.add(
                "peregrine_prompt_tokens",
                "Tokens of prompts whose sequences have started",
                Counter::default(),
            ),
            cached_tokens: register.add(
                "peregrine_cached_tokens",
                "Tokens of prompts that were in the prefix cache, and were not computed again",
                Counter::default(),
            ),
            generated_tokens: register.add("peregrine_generated_tokens", "Generated tokens", Counter::default()),
        }
    }

    fn set(&self, activity: &Activity, kv_blocks: usize, state: StateName) {
        for name in StateName::ALL {
            self.state.get_or_create(&[("state", name.as_str())]).set(i64::from(name == state));
        }
        let Activity { load, totals } = activity;
        let tokens = |blocks: usize| (blocks * BLOCK_TOKENS) as i64;
        let used = kv_blocks.saturating_sub(load.blocks_available);
        for (gauge, value) in [
            (&self.up, i64::from(state == StateName::Ready)),
            (&self.queue_size, load.waiting as i64),
            (&self.batch_size, load.running as i64),
            (&self.batch_max_tokens, tokens(used)),
            (&self.max_total_tokens, tokens(kv_blocks)),
            (&self.kv_blocks, kv_blocks as i64),
            (&self.kv_blocks_available, load.blocks_available as i64),
        ] {
            gauge.set(value);
        }
        // Before the model is loaded there are no blocks.
        self.kv_usage.set(used as f64 / kv_blocks.max(1) as f64);
        for (counter, value) in [
            (&self.steps, totals.steps),
            (&self.rows, totals.rows),
            (&self.prompt_tokens, totals.prompt_tokens),
            (&self.cached_tokens, totals.cached_tokens),
            (&self.generated_tokens, totals.generated_tokens),
        ] {
            counter.inner().store(value, Ordering::Relaxed);
        }
    }
}

impl Requests {
    fn new(register: &mut Register<'_>) -> Self {
        let (time, count) = (|| Histogram::new(times()), || Histogram::new(counts()));
        let traced = || Traced::new(times());
        let requests = Self {
            responses: register.add("peregrine_requests", "Requests that were answered", Family::default()),
            count: register.add("tgi_request_count", "Requests to generate", TgiCounter::default()),
            success: register.add("tgi_request_success", "Of these, those answered in full", TgiCounter::default()),
            failure: register.add("tgi_request_failure", "Of these, those that were not", Family::default()),
            finished: register.add("peregrine_finished_sequences", "Sequences that were finished", Family::default()),
            duration: register.add("tgi_request_duration", "Seconds of a whole request", time()),
            validation: register.add("tgi_request_validation_duration", "Of these, until it was queued", time()),
            queue: register.add("tgi_request_queue_duration", "Of these, until a step had it", time()),
            inference: register.add("tgi_request_inference_duration", "Of these, until its last token", time()),
            mean_time_per_token: register.add(
                "tgi_request_mean_time_per_token_duration",
                "Seconds of inference for each generated token of a request",
                time(),
            ),
            input_length: register.add("tgi_request_input_length", "Tokens of a prompt", count()),
            max_new_tokens: register.add("tgi_request_max_new_tokens", "The most tokens that were asked for", count()),
            generated_tokens: register.add("tgi_request_generated_tokens", "Generated tokens of a request", count()),
            skipped_tokens: register.add(
                "tgi_request_skipped_tokens",
                "Tokens of a request that came of no step of their own; none, as nothing is drafted",
                count(),
            ),
            time_to_first_token: register.seconds(
                "peregrine_time_to_first_token",
                "From the arrival of a request until its first token",
                traced(),
            ),
            inter_token_latency: register.seconds(
                "peregrine_inter_token_latency",
                "From a token of a sequence until its next",
                TokenHistogram::default(),
            ),
            end_to_end: register.seconds(
                "peregrine_e2e_request_latency",
                "From the arrival of a request until its last token",
                traced(),
            ),
            queue_time: register.seconds(
                "peregrine_request_queue_time",
                "From the queueing of a request until a step had it",
                traced(),
            ),
        };
        // What is 0 is there, too.
        for outcome in &Outcome::ALL[1..] {
            let _ = requests.failure.get_or_create(&[("err", outcome.name())]);
        }
        requests
    }
}

impl Metrics {
    /// All of them.
    pub(super) fn text(&self, format: Exposition, activity: &Activity, kv_blocks: usize, state: StateName) -> String {
        self.now.set(activity, kv_blocks, state);
        let mut text = String::new();
        // Writing into memory does not fail.
        let _ = match format {
            Exposition::Prometheus => prometheus_text::encode(&mut text, &self.registry),
            Exposition::OpenMetrics => text::encode(&mut text, &self.registry),
        };
        text
    }

    /// What runs.
    pub(super) fn describe(&self, info: &Info) {
        let labels = [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("model", info.model_id.clone()),
            ("backend", info.backend.clone()),
            ("tensor_parallel", info.tensor_parallel.to_string()),
        ];
        self.now.build.get_or_create(&labels).set(1);
    }

    /// A request of any kind was answered.
    pub(super) fn answered(&self, dialect: &'static str, status: &str) {
        self.requests.responses.get_or_create(&[("dialect", dialect.to_owned()), ("status", status.to_owned())]).inc();
    }

    /// The ranks have failed.
    pub(super) fn failed(&self) {
        self.steps.failed();
    }

    /// The ranks serve again.
    pub(super) fn recovered(&self, recovery: &Recovery) {
        self.steps.recovered(recovery);
    }

    /// A step is done.
    pub(super) fn step(&self, step: &StepRecord, delivering: Duration) {
        self.steps.observe(step, delivering);
    }

    /// A request to generate has come.
    pub(super) fn begun(&self) {
        self.requests.count.inc();
    }

    /// The first token of a request has come.
    pub(super) fn first_token(&self, after: Duration, exemplar: Exemplar) {
        self.requests.time_to_first_token.observe(after.as_secs_f64(), Some(exemplar), None);
    }

    /// A token has come, so long after the one before it.
    pub(super) fn next_token(&self, after: Duration) {
        self.requests.inter_token_latency.observe(after);
    }

    /// A request to generate has ended.
    pub(super) fn ended(&self, outcome: Outcome, generated: &Generated, exemplar: Exemplar) {
        let Self { requests, .. } = self;
        match outcome {
            Outcome::Success => requests.success.inc(),
            _ => requests.failure.get_or_create(&[("err", outcome.name())]).inc(),
        }
        for &reason in &generated.finished {
            requests.finished.get_or_create(&[("reason", reason_name(reason))]).inc();
        }
        if generated.sequences > 0 {
            requests.input_length.observe(f64::from(generated.prompt_tokens));
            requests.max_new_tokens.observe(f64::from(generated.max_tokens));
            let queue = generated.timings.queue.as_secs_f64();
            requests.queue_time.observe(queue, Some(exemplar.clone()), None);
        }
        if outcome == Outcome::Success {
            let timings = &generated.timings;
            let tokens = f64::from(generated.tokens);
            requests.duration.observe(timings.total().as_secs_f64());
            requests.validation.observe(timings.validation.as_secs_f64());
            requests.queue.observe(timings.queue.as_secs_f64());
            requests.inference.observe(timings.inference.as_secs_f64());
            requests.mean_time_per_token.observe(timings.inference.as_secs_f64() / tokens.max(1.0));
            requests.generated_tokens.observe(tokens);
            requests.skipped_tokens.observe(0.0);
            requests.end_to_end.observe(timings.total().as_secs_f64(), Some(exemplar), None);
        }
    }
}

/// The name of a reason in metrics and in the log.
pub(super) fn reason_name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Length => "length",
        FinishReason::EosToken => "eos_token",
        FinishReason::StopSequence => "stop_sequence",
    }
}
