//! Metrics, the log and traces of a server: a request is found in each by its id, and nowhere is a word of its prompt.

use crate::scripted::{Script, Server, tokenizer};
use axum::http::uri::PathAndQuery;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Attribute;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::{Value, json};
use server::{OtlpProtocol, Sampling, Telemetry, TelemetryOptions, Traces};
use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::client::Grpc;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

const ID: &str = "a-request-of-ours";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// Nothing is traced unless its caller says so.
const NONE: Sampling = Sampling { ratio: 0.0, per_second: 1000 };

/// A request to generate with its id and its trace.
async fn ask(server: &Server, id: &str) {
    let lines = [format!("X-Request-Id: {id}"), format!("traceparent: 00-{TRACE}-{PARENT}-01")];
    let body = json!({ "inputs": "Marker marker", "parameters": { "details": true } }).to_string();
    let answer = server.post_json("/generate", &[&lines[0], &lines[1]], &body).await;
    assert_eq!((answer.status, answer.header("x-request-id")), (200, Some(id)), "{answer:?}");
}

/// The lines of this process' log, as JSON. There is one for all tests, as a subscriber of a thread may miss what others have
/// seen before.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

static LINES: LazyLock<Lines> = LazyLock::new(|| {
    let lines = Lines::default();
    let to = lines.clone();
    let log = tracing_subscriber::fmt().json().flatten_event(true).with_max_level(tracing::Level::TRACE);
    log.with_writer(move || to.clone()).init();
    lines
});

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no panic").clone()).expect("UTF-8")
    }

    /// Those of requests with an id.
    fn requests(&self, id: &str) -> Vec<Value> {
        let lines: Vec<Value> =
            self.text().lines().map(|line| serde_json::from_str(line).expect("a JSON object")).collect();
        lines.into_iter().filter(|line| line["message"] == "request" && line["id"] == id).collect()
    }
}

#[tokio::test]
async fn a_request_has_a_line_of_the_log() {
    let lines = &*LINES;
    let server = Script::new(&["one two three"]).serve().await;
    ask(&server, "logged").await;
    let requests = lines.requests("logged");
    assert_eq!(requests.len(), 1, "{}", lines.text());
    let line = &requests[0];
    let tokens = tokenizer().encode("one two three").expect("a text").len() + 1;
    for (field, value) in [
        ("level", json!("INFO")),
        ("id", json!("logged")),
        ("dialect", json!("tgi")),
        ("route", json!("POST /generate")),
        ("address", json!("127.0.0.1")),
        ("status", json!("200")),
        ("model", json!("scripted")),
        ("outcome", json!("success")),
        ("sequences", json!(1)),
        ("cached_tokens", json!(0)),
        ("tokens", json!(tokens)),
        ("finish", json!("eos_token")),
        ("trace_id", json!(TRACE)),
    ] {
        assert_eq!(line[field], value, "{field} of {line}");
    }
    for field in ["prompt_tokens", "validation_ms", "queue_ms", "first_token_ms", "total_ms"] {
        assert!(line[field].as_f64().is_some_and(|value| value > 0.0), "{field} of {line}");
    }
}

#[tokio::test]
async fn texts_are_in_the_log_where_that_is_asked_for() {
    let lines = &*LINES;
    let telemetry = Telemetry::new(TelemetryOptions { traces: None, log_prompts: true });
    let server = Server::start(Script::new(&["one two three"]), telemetry).await;
    ask(&server, "shown").await;
    let line = &lines.requests("shown")[0];
    assert_eq!((&line["prompt"], &line["output"]), (&json!("Marker marker"), &json!("one two three")), "{line}");
}

#[tokio::test]
async fn no_line_of_the_log_has_a_prompt() {
    let lines = &*LINES;
    let server = Script::new(&["one two three"]).serve().await;
    let secret = "xyzzymarkerxyzzy";
    let messages = json!([{ "role": "user", "content": secret }]);
    let bodies = [
        json!({ "inputs": secret }),
        json!({ "inputs": secret, "parameters": { "temperature": -1.0, "stop": [secret] } }),
        json!({ "inputs": secret, "stream": true, secret: secret }),
        json!({ "prompt": secret, "echo": true, "model": secret, "user": secret }),
        json!({ "prompt": secret, "max_tokens": 1000, "stream": true }),
        json!({ "prompt": [secret, 1] }),
        json!({ "messages": messages }),
        json!({ "messages": messages, "stream": true, "stop": secret, "response_format": { "type": secret } }),
        json!({ "messages": secret }),
        json!(secret),
    ];
    let paths = [
        "/",
        "/generate",
        "/generate_stream",
        "/tokenize",
        "/chat_tokenize",
        "/invocations",
        "/v1/completions",
        "/v1/chat/completions",
        "/endpoints/e/invocations",
        "/endpoints/e/invocations-response-stream",
        "/nowhere",
    ];
    for path in paths {
        for body in &bodies {
            let header = format!("authorization: Bearer {secret}");
            let lines = [header.as_str(), "x-request-id: secretive"];
            server.post_json(&format!("{path}?{secret}"), &lines, &body.to_string()).await;
        }
        server.post_json(path, &[], &format!("{{\"{secret}")).await;
    }
    server.get(&format!("/v1/models/{secret}")).await;
    server.get(&format!("/{secret}")).await;
    let request = |inputs: &str| wire::generation::GenerateRequest { inputs: inputs.to_owned(), ..Default::default() };
    server.grpc(request(secret)).await.expect("an answer");
    server.grpc(request(&secret.repeat(10_000))).await.expect_err("it is too long");
    let mut raw = Grpc::new(server.channel().await);
    let path = PathAndQuery::try_from(format!("/peregrine.v1.Generation/{secret}")).expect("a path");
    raw.ready().await.expect("it listens");
    let codec = ProstCodec::<wire::generation::GenerateRequest, wire::generation::GenerateResponse>::default();
    let unknown = raw.unary(tonic::Request::new(request("a")), path, codec).await.expect_err("there is no such method");
    assert_eq!(unknown.code(), tonic::Code::Unimplemented, "{unknown}");
    assert_eq!(lines.requests("secretive").len(), paths.len() * bodies.len(), "every request has a line");
    let found: Vec<_> = lines.text().lines().filter(|line| line.contains(secret)).map(str::to_owned).collect();
    // hyper and h2 show, at their lowest level, what they read and write.
    let ours: Vec<_> = found.iter().filter(|line| !line.contains("\"level\":\"TRACE\"")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
}

/// The series of an exposition, without `_bucket`, `_sum` and `_count` of histograms.
fn families(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.map(|line| line.split(' ').next().expect("a name").to_owned()).collect()
}

#[tokio::test]
async fn every_series_is_documented() {
    let server = Script::new(&["one two three"]).serve().await;
    ask(&server, ID).await;
    let text = server.get("/metrics").await.body;
    let documented = include_str!("../../../../docs/operations.md");
    let documented: BTreeSet<_> = documented.lines().filter(|line| line.starts_with("| `")).collect();
    let documented: BTreeSet<String> = documented
        .into_iter()
        .flat_map(|line| line.split(" | ").next().expect("a column").split('`').skip(1).step_by(2).map(str::to_owned))
        .filter(|name| name.starts_with("tgi_") || name.starts_with("peregrine_"))
        .collect();
    assert_eq!(families(&text), documented);
    for line in text.lines().filter(|line| line.starts_with("# HELP ")) {
        assert!(line.split(' ').count() > 3, "{line} says something");
    }
}

#[tokio::test]
async fn open_metrics_have_the_ids_of_requests() {
    let server = Script::new(&["one two three"]).serve().await;
    ask(&server, ID).await;
    let accept = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5";
    let head = format!("GET /metrics HTTP/1.1\r\nHost: server\r\nConnection: close\r\nAccept: {accept}\r\n\r\n");
    let answer = server.send(&head).await;
    let content_type = answer.header("content-type");
    assert_eq!(content_type, Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(answer.body.ends_with("# EOF\n"));
    for family in [
        "peregrine_time_to_first_token_seconds",
        "peregrine_e2e_request_latency_seconds",
        "peregrine_request_queue_time_seconds",
    ] {
        let exemplar = format!("# {{request_id=\"{ID}\",trace_id=\"{TRACE}\"}}");
        let mut buckets = answer.body.lines().filter(|line| line.starts_with(&format!("{family}_bucket")));
        assert!(buckets.any(|line| line.contains(&exemplar)), "{family}: {}", answer.body);
    }
    let plain = server.get("/metrics").await;
    assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(!plain.body.contains(ID), "{}", plain.body);
}

/// What a collector was sent.
#[derive(Clone, Default)]
struct Collected(Arc<Mutex<Vec<Span>>>);

impl Collected {
    fn take_in(&self, request: ExportTraceServiceRequest) {
        let scopes = request.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        self.0.lock().expect("no panic").extend(scopes.flat_map(|scope| scope.spans));
    }

    fn spans(&self) -> Vec<Span> {
        self.0.lock().expect("no panic").clone()
    }
}

#[tonic::async_trait]
impl TraceService for Collected {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.take_in(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A collector that decodes the protocol's own messages, and its address.
async fn collector(protocol: OtlpProtocol) -> (Collected, String) {
    let collected = Collected::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let to = collected.clone();
    match protocol {
        OtlpProtocol::Grpc => {
            let routes = tonic::service::Routes::new(TraceServiceServer::new(to)).into_axum_router();
            tokio::spawn(axum::serve(listener, routes).into_future());
        }
        OtlpProtocol::HttpProtobuf => {
            let export = move |body: axum::body::Bytes| async move {
                to.take_in(ExportTraceServiceRequest::decode(body).expect("the protocol's message"));
                ExportTraceServiceResponse::default().encode_to_vec()
            };
            let routes = axum::Router::new().route("/v1/traces", axum::routing::post(export));
            tokio::spawn(axum::serve(listener, routes).into_future());
        }
    }
    (collected, address)
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(span: &Span, key: &str) -> Option<Attribute> {
    span.attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value
}

async fn is_traced(protocol: OtlpProtocol) {
    let (collected, address) = collector(protocol).await;
    let telemetry = Telemetry::new(TelemetryOptions {
        traces: Some(Traces::export(&address, protocol, NONE).expect("an exporter")),
        log_prompts: false,
    });
    let script = Script { pause: Duration::from_millis(5), ..Script::new(&["one two three"]) };
    let server = Server::start(script, telemetry.clone()).await;
    ask(&server, ID).await;
    // By the ratio it is not sampled.
    server.post_json("/generate", &[], &json!({ "inputs": "a" }).to_string()).await;
    tokio::task::spawn_blocking(move || telemetry.flush()).await.expect("no panic");
    let spans = collected.spans();
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE), "one trace: {spans:?}");
    let named = |name: &str| spans.iter().filter(|span| span.name == name).collect::<Vec<_>>();
    let [root] = named("POST /generate")[..] else { panic!("one request: {spans:?}") };
    assert_eq!(hex(&root.parent_span_id), PARENT, "it goes on with its caller's trace");
    assert_eq!(attribute(root, "gen_ai.request.id"), Some(Attribute::StringValue(ID.to_owned())));
    let mut end = root.start_time_unix_nano;
    for name in ["tokenize", "queue", "prefill", "decode"] {
        let [span] = named(name)[..] else { panic!("one {name}: {spans:?}") };
        assert_eq!(span.parent_span_id, root.span_id, "{name} is within the request");
        assert!(span.start_time_unix_nano >= end && span.end_time_unix_nano >= span.start_time_unix_nano, "{name}");
        end = span.end_time_unix_nano;
    }
    assert!(root.end_time_unix_nano >= end, "the request ends last");
    let tokens = tokenizer().encode("one two three").expect("a text").len() + 1;
    assert_eq!(attribute(root, "gen_ai.usage.output_tokens"), Some(Attribute::IntValue(tokens as i64)));
    let (steps, ranks) = (named("step"), named("rank"));
    assert_eq!((steps.len(), ranks.len()), (tokens, tokens), "a step for each token, and one rank");
    let of = |name: &str| steps.iter().filter(|step| step.parent_span_id == named(name)[0].span_id).count();
    assert_eq!((of("prefill"), of("decode")), (1, tokens - 1), "{spans:?}");
    for (step, rank) in steps.iter().zip(&ranks) {
        assert_eq!(rank.parent_span_id, step.span_id);
        assert_eq!(attribute(rank, "rank"), Some(Attribute::IntValue(0)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_are_exported_over_grpc() {
    is_traced(OtlpProtocol::Grpc).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_are_exported_over_http() {
    is_traced(OtlpProtocol::HttpProtobuf).await;
}

#[tokio::test]
async fn what_is_no_endpoint_is_refused() {
    for endpoint in ["", "localhost:4317", "https://localhost:4317", "http://a b"] {
        let error = Traces::export(endpoint, OtlpProtocol::Grpc, NONE).expect_err("it is none").to_string();
        assert!(error.contains("http://HOST:PORT"), "{error}");
    }
}
