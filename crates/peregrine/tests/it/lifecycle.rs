//! Signals, and processes that die.

use crate::support::{
    Client, Process, Program, Running, Server, SlowModel, demo_model, greedy, next_message, text_of, within,
};
use rustix::process::Signal;
use tonic::{Code, Status, Streaming};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use wire::generation as pb;

const PROMPT: &str = "Once upon a time";

type Stream = Streaming<pb::GenerateStreamResponse>;

/// Reads a stream to its end: the text of its tokens, and how it ended.
pub async fn rest(mut stream: Stream) -> (String, Result<Option<String>, Status>) {
    let (mut text, mut whole) = (String::new(), None);
    loop {
        match within("a message", stream.message()).await {
            Ok(Some(message)) => {
                text += &text_of(&message.tokens);
                whole = message.generated_text.or(whole);
            }
            Ok(None) => return (text, Ok(whole)),
            Err(status) => return (text, Err(status)),
        }
    }
}

/// A stream that has just begun, and its first text.
pub async fn begun(client: &Client, tokens: u32) -> (Stream, String) {
    let mut stream = client.stream(greedy(PROMPT, tokens)).await;
    let first = next_message(&mut stream).await;
    (stream, text_of(&first.tokens))
}

/// A server of the slow model over `world` workers, which keep the CPUs busy.
pub async fn slow_server(model: &SlowModel, world: &str) -> Server {
    let path = model.path().to_str().expect("UTF-8");
    Server::ready(["--model", path, "--tensor-parallel", world, "--threads-per-rank", "1"]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_idle_server_ends_at_a_signal() {
    for signal in [Signal::TERM, Signal::INT] {
        let server = Server::ready(["--tensor-parallel", "2"]).await;
        server.signal(signal);
        let ended = server.end().await;
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        assert!(ended.stdout.is_empty() && !ended.stderr.contains("ERROR"), "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_that_loads_ends_at_a_signal() {
    let model = SlowModel::to_load();
    let path = model.path().to_str().expect("UTF-8");
    let server = Server::start(["--model", path, "--tensor-parallel", "8"]).await;
    let status = server.client().await.try_generate(greedy("a", 1)).await.expect_err("not yet");
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "the model is loading"));
    server.signal(Signal::TERM);
    let ended = server.end().await;
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_was_accepted_is_finished_after_a_signal() {
    for (signal, to_all) in [(Signal::TERM, false), (Signal::TERM, true), (Signal::INT, true), (Signal::HUP, true)] {
        let mut server = Server::ready(["--tensor-parallel", "2", "--isa", "plain"]).await;
        let client = server.client().await;
        let (stream, first) = begun(&client, 1000).await;
        match to_all {
            // As a supervisor does with a whole service. The workers must not take it as meant for them.
            true => {
                server.ranks(2).await.iter().for_each(|worker| worker.signal(signal));
                server.signal_group(signal);
            }
            false => server.signal(signal),
        }
        server.says("finishing 1 requests").await;
        let other = server.client().await;
        not_serving(&other).await;
        let status = other.try_generate(greedy(PROMPT, 1)).await.expect_err("the server is about to end");
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        let (text, end) = rest(stream).await;
        assert_eq!(end.expect("no error"), Some(first + &text), "the whole text");
        let ended = server.end().await;
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_second_signal_ends_at_once() {
    let model = SlowModel::new();
    let mut server = slow_server(&model, "2").await;
    let (stream, _) = begun(&server.client().await, 2000).await;
    server.signal(Signal::TERM);
    server.says("finishing 1 requests").await;
    not_serving(&server.client().await).await;
    let health = server.get("/health").await;
    assert_eq!(health.status, 503, "{health:?}");
    server.signal(Signal::INT);
    let (_, end) = rest(stream).await;
    assert_eq!(end.expect_err("it was cut off").code(), Code::Unavailable);
    let ended = server.end().await;
    assert!(ended.stderr.contains("stopping at once") && ended.status.code() == Some(0), "{ended:?}");
}

/// Who is left when a drain has lasted long enough gets a status.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_drain_has_a_limit() {
    let model = SlowModel::new();
    let path = model.path().to_str().expect("UTF-8");
    let server = Server::ready(["--model", path, "--threads-per-rank", "1", "--drain-timeout", "1"]).await;
    let (stream, _) = begun(&server.client().await, 2000).await;
    server.signal(Signal::HUP);
    let (_, end) = rest(stream).await;
    assert_eq!(end.expect_err("it was cut off").code(), Code::Unavailable);
    let ended = server.end().await;
    assert!(ended.stderr.contains("1 requests were not finished within --drain-timeout 1"), "{ended:?}");
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
}

/// As `nohup` starts it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_hangup_that_is_ignored_stays_so() {
    let mut server = Server::start_after("trap '' HUP", [""; 0]).await;
    server.says("loaded ").await;
    server.signal(Signal::HUP);
    server.client().await.generate(greedy(PROMPT, 2)).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_load_without_progress_has_a_limit() {
    let model = SlowModel::to_load();
    let path = model.path().to_str().expect("UTF-8");
    let flags = ["--tensor-parallel", "8", "--threads-per-rank", "1", "--load-timeout", "5"];
    let server = Server::start(["--model", path].iter().chain(&flags)).await;
    let workers = server.ranks(8).await;
    workers[5].signal(Signal::STOP);
    let ended = server.end().await;
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let reason = "the load has made no progress for 5 s (--load-timeout); not ready: ";
    assert!(ended.stderr.contains(reason), "{ended:?}");
    let named = format!("rank 5 (process {}, state T: stopped; ", workers[5].pid());
    assert!(ended.stderr.contains(&named), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn workers_do_not_outlive_a_coordinator_that_loads() {
    let model = SlowModel::to_load();
    let path = model.path().to_str().expect("UTF-8");
    let server = Server::start(["--model", path, "--tensor-parallel", "8", "--threads-per-rank", "1"]).await;
    let workers = server.ranks(8).await;
    let health = server.get("/health").await;
    assert!(health.status == 503 && health.body.contains("unhealthy: loading"), "{health:?}");
    server.signal(Signal::KILL);
    all_ended(&workers).await;
    assert_eq!(server.end().await.status.code(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn workers_do_not_outlive_a_coordinator_that_generates() {
    let model = SlowModel::new();
    let server = slow_server(&model, "8").await;
    let workers = server.ranks(8).await;
    let (stream, _) = begun(&server.client().await, 2000).await;
    server.signal(Signal::KILL);
    all_ended(&workers).await;
    assert_eq!(rest(stream).await.1.map_err(|_| ()), Err(()), "the stream is cut off");
    assert_eq!(server.end().await.status.code(), None);
}

pub async fn all_ended(workers: &[Process]) {
    for worker in workers {
        worker.ended().await;
    }
}

/// Waits until the generation service is not served. The process lives all the same.
pub async fn not_serving(client: &Client) {
    let watch = client.health().watch(HealthCheckRequest { service: "peregrine.v1.Generation".to_owned() }).await;
    let mut watch = watch.expect("a stream").into_inner();
    let turns = async {
        while watch.message().await.expect("no error").expect("no end").status() != ServingStatus::NotServing {}
    };
    within("NOT_SERVING", turns).await;
    let ask = || async { client.health().check(HealthCheckRequest { service: "liveness".to_owned() }).await };
    let alive = match ask().await {
        // The drain has sent the connection away just then; the next call makes another.
        Err(status) if status.code() == Code::Cancelled => ask().await,
        answer => answer,
    };
    assert_eq!(alive.expect("an answer").into_inner().status(), ServingStatus::Serving);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_that_dies_while_it_loads_ends_the_server() {
    let model = SlowModel::to_load();
    let path = model.path().to_str().expect("UTF-8");
    let server = Server::start(["--model", path, "--tensor-parallel", "8", "--threads-per-rank", "1"]).await;
    server.ranks(8).await[5].signal(Signal::KILL);
    let ended = server.end().await;
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(ended.stderr.contains("error: rank 5: worker ended: signal: 9 (SIGKILL)"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_signal_ends_generate() {
    let slow = SlowModel::new();
    let loading = Program::new(generate_arguments(slow.path(), "8")).start();
    loading.ranks(8).await;
    interrupted(loading).await;

    let mut generating = Program::new(generate_arguments(&demo_model(), "2")).start();
    generating.prints().await;
    interrupted(generating).await;

    let mut generating = Program::new(generate_arguments(&demo_model(), "2")).start();
    generating.prints().await;
    generating.signal(Signal::TERM);
    assert_eq!(generating.end().await.status.code(), Some(143));

    let mut generating = Program::new(generate_arguments(&demo_model(), "2")).start();
    generating.prints().await;
    generating.signal(Signal::HUP);
    assert_eq!(generating.end().await.status.code(), Some(129));

    let failing = Program::new(generate_arguments(slow.path(), "2")).start();
    failing.ranks(2).await[0].signal(Signal::KILL);
    let stderr = failing.end().await.failure();
    assert!(stderr.contains("rank 0: worker ended: signal: 9 (SIGKILL)"), "{stderr}");
}

fn generate_arguments(model: &std::path::Path, world: &str) -> Vec<String> {
    let model = model.to_str().expect("UTF-8");
    let fixed = ["generate", PROMPT, "--model", model, "--max-new-tokens", "2000", "--ignore-eos", "--isa", "plain"];
    fixed.into_iter().chain(["--tensor-parallel", world]).map(str::to_owned).collect()
}

/// Ctrl-c, and what must follow.
async fn interrupted(program: Running) {
    program.signal_group(Signal::INT);
    let ended = program.end().await;
    assert_eq!(ended.status.code(), Some(130), "{ended:?}");
}
