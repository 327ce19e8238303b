//! A request, as the log and the metrics tell of it.

use super::metrics::{Exemplar, reason_name};
use super::traces::{mark_failed, parent_of, trace_id};
use super::{Outcome, Telemetry};
use crate::access::CallerName;
use api::Timings;
use axum::http::HeaderMap;
use coordinator::StepRecord;
use opentelemetry::KeyValue;
use opentelemetry::trace::{Span as _, TraceId};
use opentelemetry_sdk::trace::Span;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use step::FinishReason;
use tokio::time::Instant;
use tracing::{debug, info};

/// The labels of an exemplar have at most 128 characters in all: ids that are longer are left out there.
const EXEMPLAR_ID_BYTES_MAX: usize = 64;

/// Bytes of a text in a line of the log.
const TEXT_BYTES_MAX: usize = 4096;

/// The most steps of a sequence that its trace shows.
const TRACED_STEPS_MAX: usize = 16;

tokio::task_local! {
    /// The request that a task answers.
    static CURRENT: Arc<RequestRecord>;
}

/// A request. When the last who works on it is done, the log has a line of it.
pub(crate) struct RequestRecord {
    telemetry: Telemetry,
    pub(super) head: Head,
    received: Instant,
    received_at: SystemTime,
    /// The trace that it is part of.
    trace: Option<TraceId>,
    told: Mutex<Told>,
}

/// What is known of a request when it comes.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// Its id.
    pub(super) id: String,
    /// The dialect of its route.
    pub(super) dialect: &'static str,
    /// Method and route, without what its caller put into the path.
    pub(super) route: String,
    /// Where its caller is.
    pub(super) address: String,
}

/// What becomes known of it.
#[derive(Default)]
struct Told {
    /// Its span, where it is sampled.
    span: Option<Span>,
    status: Option<String>,
    /// Whose key was shown.
    caller: Option<CallerName>,
    generation: Option<(Outcome, Generated)>,
}

/// What a request to generate has brought forth.
#[derive(Clone, Debug, Default)]
pub(crate) struct Generated {
    /// Sequences that were queued.
    pub(crate) sequences: usize,
    /// Tokens of the prompts.
    pub(crate) prompt_tokens: u32,
    /// Of these, those in the prefix cache.
    pub(crate) cached_tokens: u32,
    /// The most tokens that were asked for.
    pub(crate) max_tokens: u32,
    /// Generated tokens.
    pub(crate) tokens: u32,
    /// Why those sequences ended that did.
    pub(crate) finished: Vec<FinishReason>,
    /// How long it was where.
    pub(crate) timings: Timings,
    /// From its arrival until its first token.
    pub(crate) first_token: Option<Duration>,
    /// The texts of the first sequence, prompt and output, where the log is to have them.
    pub(crate) texts: Option<(String, String)>,
    /// When its first sequence arrived.
    pub(crate) arrived: Option<Instant>,
    /// The first steps that had rows of it, where it is traced.
    pub(crate) steps: Vec<Arc<StepRecord>>,
}

impl RequestRecord {
    /// One that came with these headers.
    pub(super) fn of(telemetry: &Telemetry, head: Head, headers: &HeaderMap) -> Arc<Self> {
        let parent = parent_of(headers);
        let span = telemetry.traces().and_then(|traces| traces.begin(&head, &parent));
        let trace = span.as_ref().map_or_else(|| trace_id(&parent), |span| Some(span.span_context().trace_id()));
        Self::new(telemetry, head, trace, span)
    }

    fn new(telemetry: &Telemetry, head: Head, trace: Option<TraceId>, span: Option<Span>) -> Arc<Self> {
        let (received, received_at) = (Instant::now(), SystemTime::now());
        let told = Mutex::new(Told { span, ..Told::default() });
        Arc::new(Self { telemetry: telemetry.clone(), head, received, received_at, trace, told })
    }

    /// That of the request which this task answers; a nameless one where there is none.
    fn current(telemetry: &Telemetry) -> Arc<Self> {
        CURRENT.try_with(Arc::clone).unwrap_or_else(|_| Self::new(telemetry, Head::default(), None, None))
    }

    /// Answers the request within `future`.
    pub(super) async fn scope<F: Future>(self: &Arc<Self>, future: F) -> F::Output {
        CURRENT.scope(self.clone(), future).await
    }

    /// Its answer begins with this status. It was let in by the key of `caller`, if that is known.
    pub(super) fn answered(&self, status: String, caller: Option<CallerName>) {
        self.telemetry.metrics().answered(self.head.dialect, &status);
        let mut told = self.told();
        (told.status, told.caller) = (Some(status), caller);
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn exemplar(&self) -> Exemplar {
        let id = Some(&self.head.id).filter(|id| (1..=EXEMPLAR_ID_BYTES_MAX).contains(&id.len()));
        let trace = self.trace.map(|trace| ("trace_id", trace.to_string()));
        id.map(|id| ("request_id", id.clone())).into_iter().chain(trace).collect()
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        let Head { id, dialect, route, address } = &self.head;
        // Nobody called from outside.
        if route.is_empty() {
            return;
        }
        let Told { status, caller, generation, span } = std::mem::take(&mut *self.told());
        let caller = caller.map(|name| name.to_string());
        let status = status.as_deref().unwrap_or("cancelled");
        if let Some(span) = span {
            self.end_span(span, status, generation.as_ref());
        }
        let trace_id = self.trace.map(|trace| trace.to_string());
        let total_ms = millis(self.received.elapsed());
        let Some((outcome, generated)) = generation else {
            return debug!(id, dialect, route, address, caller, status, total_ms, trace_id, "request");
        };
        let Generated { prompt_tokens, cached_tokens, tokens, timings, texts, .. } = &generated;
        let mut finish: Vec<_> = generated.finished.iter().map(|&reason| reason_name(reason)).collect();
        finish.dedup();
        info!(
            id,
            dialect,
            route,
            address,
            caller,
            status,
            model = self.telemetry.model(),
            outcome = outcome.name(),
            sequences = generated.sequences,
            prompt_tokens,
            cached_tokens,
            tokens,
            finish = finish.join(","),
            validation_ms = millis(timings.validation),
            queue_ms = millis(timings.queue),
            first_token_ms = generated.first_token.map(millis),
            total_ms,
            trace_id,
            prompt = texts.as_ref().map(|(prompt, _)| beginning(prompt)),
            output = texts.as_ref().map(|(_, output)| beginning(output)),
            "request"
        );
    }
}

impl RequestRecord {
    fn end_span(&self, mut span: Span, status: &str, generation: Option<&(Outcome, Generated)>) {
        span.set_attribute(KeyValue::new("peregrine.status", status.to_owned()));
        let Some((outcome, generated)) = generation else { return span.end() };
        if *outcome != Outcome::Success {
            mark_failed(&mut span, outcome.name());
        }
        let arrived =
            generated.arrived.map_or(self.received_at, |arrived| self.received_at + (arrived - self.received));
        span.set_attribute(KeyValue::new("gen_ai.response.model", self.telemetry.model().to_owned()));
        if let Some(traces) = self.telemetry.traces() {
            traces.end(span, arrived, generated);
        }
    }
}

/// As much of a text as a line may have.
fn beginning(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

/// Milliseconds, to the microsecond.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// A request to generate that is under way. When it is dropped, it has ended.
pub(crate) struct GenerationGuard {
    record: Arc<RequestRecord>,
    pub(crate) outcome: Outcome,
    pub(crate) generated: Box<Generated>,
}

impl GenerationGuard {
    pub(crate) fn new(telemetry: &Telemetry) -> Self {
        telemetry.metrics().begun();
        let record = RequestRecord::current(telemetry);
        Self { record, outcome: Outcome::Dropped, generated: Box::default() }
    }

    /// Whether the log is to have the texts.
    pub(crate) fn wants_texts(&self) -> bool {
        self.record.telemetry.0.options.log_prompts
    }

    /// Of how many steps a sequence is to hear.
    pub(crate) fn steps_traced(&self) -> usize {
        if self.record.told().span.is_some() { TRACED_STEPS_MAX } else { 0 }
    }

    /// The first token has come, so long after the request.
    pub(crate) fn first_token(&mut self, after: Duration) {
        self.generated.first_token = Some(after);
        self.record.telemetry.metrics().first_token(after, self.record.exemplar());
    }

    /// A token has come, so long after the one before it.
    pub(crate) fn next_token(&self, after: Duration) {
        self.record.telemetry.metrics().next_token(after);
    }
}

impl Drop for GenerationGuard {
    fn drop(&mut self) {
        let generated = std::mem::take(&mut self.generated);
        self.record.telemetry.metrics().ended(self.outcome, &generated, self.record.exemplar());
        self.record.told().generation = Some((self.outcome, *generated));
    }
}
