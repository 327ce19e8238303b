//! A server whose ranks say what they are told to, and its clients.

use coordinator::{Coordinator, CoordinatorConfig, InProcessRank, RestartLimits, Status, Workers};
use serde_json::Value;
use server::{Chat, ChatOverflow, Info, Listener, Listeners, Service, Settings, Telemetry, TokenizerPool};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;
use step::{
    Choice, Command, NewSequence, Sample, ScoredToken, SeqId, SeqOutput, SeqRun, StepPlan, StepResult, TokenScore,
};
use text::{ChatTemplate, Tokenizer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use wire::generation as pb;
use wire::generation::generation_client::GenerationClient;

/// Nothing takes so long unless it hangs.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Positions of a sequence.
pub const POSITIONS: usize = 64;
/// The end of a text.
pub const EOS: u32 = 11;
/// Sequences that may run or wait.
pub const PERMITS: usize = 8;

/// What the ranks say, and how.
pub struct Script {
    /// Continuations: of greedy requests the first, and of the draws of one request one after the other.
    pub texts: Vec<Vec<u32>>,
    /// The rank fails with its step of this number.
    pub fails_at: Option<u64>,
    /// How often it is started again. It is never ready then: what waits for it goes on waiting.
    pub restarts: RestartLimits,
    /// The rank waits before each step.
    pub pause: Duration,
    pub template: Option<&'static str>,
    pub overflow: ChatOverflow,
    pub settings: Settings,
    /// Whether the metrics have a listener of their own.
    pub has_metrics_port: bool,
    /// Whether other processes may listen at its addresses.
    pub shares_ports: bool,
}

impl Script {
    /// Each text ends with the end of a text.
    pub fn new(texts: &[&str]) -> Self {
        let tokenizer = tokenizer();
        let ids = |text: &&str| {
            let mut ids = tokenizer.encode(text).expect("a text");
            ids.push(EOS);
            ids
        };
        Self {
            texts: texts.iter().map(ids).collect(),
            fails_at: None,
            restarts: RestartLimits::NEVER,
            pause: Duration::ZERO,
            template: None,
            overflow: ChatOverflow::Error,
            settings: Settings::default(),
            has_metrics_port: false,
            shares_ports: false,
        }
    }

    /// Serves it.
    pub async fn serve(self) -> Server {
        Server::start(self, Telemetry::default()).await
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tokenizer")
}

/// Falcon's own, read once.
pub fn tokenizer() -> Tokenizer {
    static READ: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::open(&folder()).expect("a tokenizer"));
    READ.clone()
}

/// A server on loopback.
pub struct Server {
    pub address: SocketAddr,
    pub grpc: SocketAddr,
    pub metrics: Option<SocketAddr>,
    pub service: Service,
    /// It has ended when this has: after [`Service::end`].
    pub ended: JoinHandle<()>,
    /// What its ranks were asked for.
    asked: Arc<Mutex<Vec<NewSequence>>>,
}

/// What it answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    /// As text, if it is text.
    pub body: String,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find_map(|(key, value)| key.eq_ignore_ascii_case(name).then_some(value))
    }

    /// The body, where the time is 0.
    pub fn timeless(&self) -> String {
        let mut parts = self.body.split("\"created\":");
        let first = parts.next().expect("there is a first").to_owned();
        parts.fold(first, |text, part| text + "\"created\":0" + part.trim_start_matches(|c: char| c.is_ascii_digit()))
    }

    /// The events of a stream that ended well, without the last, which says so.
    pub fn events(&self) -> Vec<Value> {
        let blocks = self.body.strip_suffix("data: [DONE]\n\n").unwrap_or_else(|| panic!("{self:?} has no end"));
        let blocks = blocks.split_terminator("\n\n").map(|block| block.strip_prefix("data: ").expect("an event"));
        blocks.map(|data| serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}"))).collect()
    }
}

impl Server {
    /// Serves a script, and tells of it there.
    pub async fn start(script: Script, telemetry: Telemetry) -> Self {
        let asked = Arc::default();
        let config = CoordinatorConfig {
            world: 1,
            kv_blocks: 64,
            step_rows_max: 256,
            sequences_max: PERMITS,
            steps_in_flight_max: 1,
            prefix_cache: true,
            itl_bound: None,
            step_limit: LIMIT,
            pause_limit: LIMIT,
            load_limit: LIMIT,
            restarts: script.restarts,
            check_invariants: true,
        };
        let template = match script.template {
            None => ChatTemplate::open(&folder()).expect("Falcon's own"),
            Some(text) => {
                let file = tempfile::NamedTempFile::new().expect("a file");
                std::fs::write(file.path(), text).expect("it can be written");
                ChatTemplate::from_file(file.path(), &folder()).expect("a template")
            }
        };
        let chat = Chat { template, overflow: script.overflow };
        let Script { has_metrics_port, shares_ports, .. } = script;
        let settings = script.settings.clone();
        let coordinator = Coordinator::start(
            config,
            Workers::InProcess(vec![rank(script, Arc::clone(&asked))]),
            Arc::new(telemetry.clone()),
        );
        let ready = |status: &Status| matches!(status, Status::Ready { .. });
        timeout(LIMIT, coordinator.status().wait_for(ready)).await.expect("it hangs").expect("it runs");
        let tokenizer = tokenizer();
        let info = Info {
            model_id: "scripted".to_owned(),
            model_dir: folder(),
            backend: "script".to_owned(),
            tensor_parallel: 1,
            limits: api::Limits::of_model(POSITIONS, tokenizer.vocab_size(), tokenizer.token_bytes_max()),
            tgi: server::dialects::tgi::Limits::default(),
            max_concurrent_requests: PERMITS,
        };
        let pool = TokenizerPool::start(tokenizer, 1, PERMITS).expect("a thread");
        let mut status = coordinator.status();
        let service = Service::new(coordinator, pool, chat, vec![EOS], info, telemetry);
        let port = [SocketAddr::from(([127, 0, 0, 1], 0))];
        let bind = async || if shares_ports { Listener::bind_shared(&port) } else { Listener::bind(&port).await };
        let [grpc, http, metrics] = [bind().await, bind().await, bind().await].map(|port| port.expect("a port"));
        let metrics = has_metrics_port.then_some(metrics);
        let listeners = Listeners { grpc, http, metrics };
        let address = listeners.http.local_addr().expect("an address");
        let grpc = listeners.grpc.local_addr().expect("an address");
        let metrics = listeners.metrics.as_ref().map(|metrics| metrics.local_addr().expect("an address"));
        let end = async move {
            // If it fails, the server stays.
            if status.wait_for(|status| *status == Status::Stopped).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let serving = server::serve(service.clone(), listeners, settings, end);
        let ended = tokio::spawn(async { serving.await.expect("its ports are free") });
        Self { address, grpc, metrics, service, ended, asked }
    }

    /// What the ranks were asked for since the last time.
    pub fn asked(&self) -> Vec<NewSequence> {
        std::mem::take(&mut self.asked.lock().expect("no panic"))
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n")).await
    }

    /// Posts JSON under a type that is not its own, as the request `test`.
    pub async fn post(&self, path: &str, body: &str) -> Answer {
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nHost: server\r\nConnection: close\r\nContent-Type: text/plain\r\n");
        self.send(&format!("{head}X-Request-Id: test\r\nContent-Length: {length}\r\n\r\n{body}")).await
    }

    /// Posts JSON that says what it is, with these lines in its head.
    pub async fn post_json(&self, path: &str, lines: &[&str], body: &str) -> Answer {
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nHost: server\r\nConnection: close\r\nContent-Length: {length}");
        let lines: String = lines.iter().map(|line| format!("\r\n{line}")).collect();
        self.send(&format!("{head}\r\nContent-Type: application/json{lines}\r\n\r\n{body}")).await
    }

    /// A connection to gRPC.
    pub async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.grpc)).expect("an address");
        timeout(LIMIT, endpoint.connect()).await.expect("it hangs").expect("it listens")
    }

    /// What gRPC answers.
    pub async fn grpc(&self, request: pb::GenerateRequest) -> Result<pb::GenerateResponse, tonic::Status> {
        let channel = self.channel().await;
        let answer = timeout(LIMIT, GenerationClient::new(channel).generate(request)).await.expect("it hangs");
        answer.map(tonic::Response::into_inner)
    }

    pub async fn complete(&self, body: &Value) -> Answer {
        self.post("/v1/completions", &body.to_string()).await
    }

    pub async fn chat(&self, body: &Value) -> Answer {
        self.post("/v1/chat/completions", &body.to_string()).await
    }

    pub async fn send(&self, request: &str) -> Answer {
        Self::send_to(self.address, request).await
    }

    pub async fn send_to(address: SocketAddr, request: &str) -> Answer {
        let exchange = async {
            let mut stream = TcpStream::connect(address).await.expect("it listens");
            stream.write_all(request.as_bytes()).await.expect("it reads");
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.expect("it answers");
            answer
        };
        let answer = timeout(LIMIT, exchange).await.expect("it hangs");
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head");
        let (head, body) = (String::from_utf8(answer[..end].to_vec()).expect("UTF-8"), &answer[end + 4..]);
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        let bytes = if is_chunked { join_chunks(body) } else { body.to_vec() };
        Answer { status, head, body: String::from_utf8_lossy(&bytes).into_owned(), bytes }
    }
}

/// The data of chunks.
fn join_chunks(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|bytes| bytes == b"\r\n").expect("a chunk");
        let size = std::str::from_utf8(&rest[..end]).expect("a size");
        let size = usize::from_str_radix(size, 16).expect("a size");
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = rest[end + 2 + size..].strip_prefix(b"\r\n").expect("the end of a chunk");
    }
}

fn rank(script: Script, asked: Arc<Mutex<Vec<NewSequence>>>) -> InProcessRank {
    let (script, is_first) = (Arc::new(script), AtomicBool::new(true));
    Arc::new(move |mut commands, answers| {
        let (script, asked, is_first) =
            (Arc::clone(&script), Arc::clone(&asked), is_first.swap(false, Ordering::Relaxed));
        Box::pin(async move {
            let mut known = HashMap::new();
            if is_first {
                answers.ready();
            }
            while let Some(command) = commands.next().await {
                let Command::Plan(plan) = command else { return Err("nobody asked for masks".to_owned().into()) };
                tokio::time::sleep(script.pause).await;
                if script.fails_at.is_some_and(|step| plan.step.0 >= step) {
                    return Err("the device is on fire".to_owned().into());
                }
                asked.lock().expect("no panic").extend(plan.new.iter().cloned());
                answers.send(script.answer(plan, &mut known));
            }
            Ok(())
        })
    })
}

impl Script {
    fn answer(&self, plan: StepPlan, known: &mut HashMap<SeqId, NewSequence>) -> StepResult {
        known.extend(plan.new.into_iter().map(|new| (new.seq, new)));
        let outputs = plan.runs.iter().filter_map(|run| {
            let sequence = &known[&run.seq];
            let samples = if run.sample { vec![self.sample(sequence, run)] } else { Vec::new() };
            let scored = if sequence.prompt_logprobs { run.start + 1..run.start + run.len + 1 } else { 0..0 };
            let prompt_logprobs: Vec<f32> =
                scored.filter(|&at| at < sequence.prompt_len).map(|at| -(at as f32)).collect();
            (run.sample || !prompt_logprobs.is_empty()).then_some(SeqOutput { seq: run.seq, samples, prompt_logprobs })
        });
        StepResult { step: plan.step, outputs: outputs.collect(), device_time_us: 2, all_reduce_time_us: Some(1) }
    }

    /// The token that the script has there. It is the more improbable the later it comes, and less so by the model alone. The
    /// most probable tokens are itself, then its numbers' successors.
    fn sample(&self, sequence: &NewSequence, run: &SeqRun) -> Sample {
        let index = run.start + run.len - sequence.prompt_len;
        let text = match sequence.sampling.settings().choice {
            Choice::Greedy => 0,
            Choice::Draw { index, .. } => index as usize,
        };
        let text = &self.texts[text % self.texts.len()];
        let id = text[index % text.len()];
        let scored = |id: u32, rank: usize| {
            let model_logprob = -0.25 * (index + 1) as f32 - rank as f32;
            ScoredToken { id, score: TokenScore { logprob: 2.0 * model_logprob, model_logprob } }
        };
        let top = (0..sequence.top_n).map(|rank| scored(id + rank as u32, rank)).collect();
        Sample { token: scored(id, 0), top, logits: Vec::new() }
    }
}
