//! Spans of requests, and the way on which they leave: OTLP.

use super::Generated;
use super::record::Head;
use axum::http::{HeaderMap, Request, Response};
use coordinator::StepRecord;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Span, SpanContext, SpanKind, Status, TraceContextExt, TraceId, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HeaderExtractor, HttpClient, HttpError};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span as SdkSpan,
};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::runtime::Handle;

/// How long the collector may take for an export.
const EXPORT_LIMIT: Duration = Duration::from_secs(10);
/// How long the end of the server waits for what is left.
const FLUSH_LIMIT: Duration = Duration::from_secs(5);
/// Spans that wait for the collector, at most. Those that find no room are lost, and counted in the log.
const QUEUED_SPANS_MAX: usize = 32_768;
/// Bytes of the collector's answer.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// How a collector is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// gRPC; usually on port 4317.
    #[default]
    Grpc,
    /// Protocol buffers over HTTP; usually on port 4318.
    HttpProtobuf,
}

/// Why no traces can be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message names the fields of its variant")]
pub enum TracesError {
    /// It is no address.
    #[error("{endpoint}: expected http://HOST:PORT, as of a collector beside the server")]
    Endpoint { endpoint: String },
    /// The exporter refuses it.
    #[error("{endpoint}: {error}")]
    Exporter { endpoint: String, error: ExporterBuildError },
}

/// Which requests are traced, where their callers do not say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// The part of them, from 0 to 1.
    pub ratio: f64,
    /// The most a second: a trace costs about as much as a hundred tokens.
    pub per_second: u32,
}

/// Makes spans, and exports them.
#[derive(Clone, Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    limit: Arc<Mutex<RateLimit>>,
}

/// So many in each second.
#[derive(Debug)]
struct RateLimit {
    per_second: u32,
    second: Instant,
    taken: u32,
}

impl RateLimit {
    fn take(&mut self, now: Instant) -> bool {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            (self.second, self.taken) = (now, 0);
        }
        let is_free = self.taken < self.per_second;
        self.taken += u32::from(is_free);
        is_free
    }
}

impl Traces {
    /// Exports to the collector at `endpoint`.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`TracesError`], if the endpoint is none. Whether it answers is seen later.
    pub fn export(endpoint: &str, protocol: OtlpProtocol, sampling: Sampling) -> Result<Self, TracesError> {
        if !endpoint.starts_with("http://") || endpoint.parse::<axum::http::Uri>().is_err() {
            return Err(TracesError::Endpoint { endpoint: endpoint.to_owned() });
        }
        let exporter = match protocol {
            OtlpProtocol::Grpc => {
                SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(EXPORT_LIMIT).build()
            }
            OtlpProtocol::HttpProtobuf => SpanExporter::builder()
                .with_http()
                .with_http_client(RuntimeClient::new())
                .with_protocol(Protocol::HttpBinary)
                .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
                .with_timeout(EXPORT_LIMIT)
                .build(),
        };
        let exporter = exporter.map_err(|error| TracesError::Exporter { endpoint: endpoint.to_owned(), error })?;
        let config = BatchConfigBuilder::default().with_max_queue_size(QUEUED_SPANS_MAX).build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(config).build())
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(sampling.ratio))))
            .with_resource(opentelemetry_sdk::Resource::builder().with_service_name("peregrine").build())
            .build();
        let limit = RateLimit { per_second: sampling.per_second, second: Instant::now(), taken: 0 };
        Ok(Self { tracer: provider.tracer("peregrine"), provider, limit: Arc::new(Mutex::new(limit)) })
    }

    /// Waits for what is left to be exported, for a while.
    pub(super) fn flush(&self) {
        // The log has what the exporter says.
        let _ = self.provider.shutdown_with_timeout(FLUSH_LIMIT);
    }

    /// Begins the span of a request, if it is traced. It goes on with its caller's trace if there is one.
    pub(super) fn begin(&self, head: &Head, parent: &Context) -> Option<SdkSpan> {
        let is_free = || self.limit.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now());
        if trace_id(parent).is_none() && !is_free() {
            return None;
        }
        let attributes = [
            KeyValue::new("gen_ai.request.id", head.id.clone()),
            KeyValue::new("peregrine.dialect", head.dialect),
            KeyValue::new("client.address", head.address.clone()),
        ];
        let span = self.tracer.span_builder(head.route.clone()).with_kind(SpanKind::Server);
        let span = span.with_attributes(attributes).start_with_context(&self.tracer, parent);
        span.is_recording().then_some(span)
    }

    /// Ends the span of a request to generate, which came to the service at `arrived`, and tells what it was made of.
    pub(super) fn end(&self, mut span: SdkSpan, arrived: SystemTime, generated: &Generated) {
        let timings = &generated.timings;
        let queued = arrived + timings.validation;
        let started = queued + timings.queue;
        let first = generated.first_token.map(|after| arrived + after);
        let ended = started + timings.inference;
        let root = within(span.span_context());
        self.child("tokenize", arrived, queued, &[], &root);
        if generated.sequences > 0 {
            self.child("queue", queued, started, &[], &root);
        }
        let prefill = self.child("prefill", started, first.unwrap_or(ended), &[], &root);
        let decode = first.map(|first| self.child("decode", first, ended, &[], &root));
        for step in &generated.steps {
            let of_decode = first.filter(|&first| step.begun + step.taken > first).and(decode.as_ref());
            self.step(step, of_decode.unwrap_or(&prefill));
        }
        span.set_attributes([
            KeyValue::new("gen_ai.usage.input_tokens", i64::from(generated.prompt_tokens)),
            KeyValue::new("gen_ai.usage.output_tokens", i64::from(generated.tokens)),
            KeyValue::new("peregrine.cached_tokens", i64::from(generated.cached_tokens)),
        ]);
        span.end();
    }

    /// A step, and what each rank did of it.
    fn step(&self, step: &StepRecord, parent: &Context) {
        let attributes = [
            KeyValue::new("step", step.step.0 as i64),
            KeyValue::new("rows", step.rows as i64),
            KeyValue::new("sequences", step.sequences as i64),
        ];
        let context = self.child("step", step.begun, step.begun + step.taken, &attributes, parent);
        for (rank, times) in (0..).zip(step.ranks.iter()) {
            let mut attributes = vec![KeyValue::new("rank", rank)];
            attributes.extend(times.all_reduce.map(|time| KeyValue::new("all_reduce_us", time.as_micros() as i64)));
            self.child("rank", step.begun, step.begun + times.device, &attributes, &context);
        }
    }

    /// A span that is over; returns the context of what is within it.
    fn child(
        &self,
        name: &'static str,
        begun: SystemTime,
        ended: SystemTime,
        attributes: &[KeyValue],
        parent: &Context,
    ) -> Context {
        let span = self.tracer.span_builder(name).with_start_time(begun).with_attributes(attributes.to_vec());
        let mut span = span.start_with_context(&self.tracer, parent);
        let context = within(span.span_context());
        span.end_with_timestamp(ended);
        context
    }
}

/// The context of what is within a span.
fn within(span: &SpanContext) -> Context {
    Context::new().with_remote_span_context(span.clone())
}

/// The trace that a caller's headers name.
pub(super) fn parent_of(headers: &HeaderMap) -> Context {
    let none = Context::new();
    if headers.contains_key("traceparent") {
        return TraceContextPropagator::new().extract_with_context(&none, &HeaderExtractor(headers));
    }
    none
}

/// The trace of a context, if it has one.
pub(super) fn trace_id(context: &Context) -> Option<TraceId> {
    let span = context.span();
    let context = span.span_context();
    context.is_valid().then(|| context.trace_id())
}

/// Marks a span as that of a request that failed.
pub(super) fn mark_failed(span: &mut SdkSpan, why: &'static str) {
    span.set_status(Status::error(why));
}

/// hyper's client on the server's runtime, for the exporter's own thread.
#[derive(Debug)]
struct RuntimeClient {
    client: Client<HttpConnector, Full<Bytes>>,
    runtime: Handle,
}

impl RuntimeClient {
    fn new() -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http(), runtime: Handle::current() }
    }
}

#[tonic::async_trait]
impl HttpClient for RuntimeClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let exchange = async move {
            let (head, body) = client.request(request.map(Full::new)).await?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
            Ok(Response::from_parts(head, body))
        };
        // The limit needs the runtime's clock.
        self.runtime.spawn(async { tokio::time::timeout(EXPORT_LIMIT, exchange).await? }).await?
    }
}
