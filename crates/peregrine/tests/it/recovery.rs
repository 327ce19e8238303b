//! Workers that die, hang or fail, and what becomes of the requests.

use crate::lifecycle::{all_ended, begun, not_serving, rest, slow_server};
use crate::support::{Client, Ended, Process, Server, SlowModel, greedy, next_message, request};
use rustix::process::Signal;
use serde_json::json;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use wire::generation as pb;

const PROMPT: &str = "Once upon a time";

/// The exit code of a server whose workers have failed too often.
const WORKERS_FAILED: i32 = 69;

/// The most that a client is told of the workers' end: it names them.
fn names(text: &str, reasons: &[&str]) -> bool {
    reasons.iter().all(|reason| text.contains(reason))
}

/// After workers have failed: they are gone, others have taken their place, calls are answered, and the log says why.
pub async fn check_recovered(server: Server, workers: &[Process], reasons: &[&str]) {
    let ended = recovered(server, workers).await;
    assert!(names(&ended.stderr, reasons), "{ended:?} lacks {reasons:?}");
    assert!(ended.stderr.contains("the ranks serve again after"), "{ended:?}");
}

/// The same, whatever the log says.
pub async fn recovered(server: Server, workers: &[Process]) -> Ended {
    let client = server.client().await;
    all_ended(workers).await;
    client.generate(greedy(PROMPT, 1)).await;
    let others = server.ranks(workers.len()).await;
    assert!(others.iter().all(|other| workers.iter().all(|worker| worker.pid() != other.pid())), "others run");
    let overall = client.health().check(HealthCheckRequest::default()).await.expect("an answer").into_inner();
    assert_eq!((overall.status, server.get("/health").await.status), (1, 200), "serving");
    let metrics = server.get("/metrics").await.body;
    assert!(metrics.contains("\nperegrine_recoveries_total 1\n"), "{metrics}");
    server.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_that_dies_idle_is_replaced() {
    let server = Server::ready(["--tensor-parallel", "3"]).await;
    let workers = server.ranks(3).await;
    workers[1].signal(Signal::KILL);
    check_recovered(server, &workers, &["rank 1: worker ended: signal: 9 (SIGKILL)"]).await;
}

/// What a request of each kind brings.
async fn answers(server: &Server, client: &Client) -> (Vec<pb::GenerateResponse>, serde_json::Value) {
    let sampled = pb::Parameters {
        max_new_tokens: Some(200),
        do_sample: Some(true),
        temperature: Some(0.9),
        top_p: Some(0.9),
        repetition_penalty: Some(1.1),
        frequency_penalty: Some(0.2),
        watermark: Some(true),
        seed: Some(7),
        details: Some(true),
        decoder_input_details: Some(true),
        top_n_tokens: Some(2),
        ignore_eos: Some(true),
        ..Default::default()
    };
    let ask = |prompt: &str, parameters| client.generate(request(prompt, parameters));
    let plain = greedy(PROMPT, 200);
    let stopped = pb::Parameters { stop: vec![" the".into()], ..plain.parameters.clone().expect("they are there") };
    let two = json!({"prompt": PROMPT, "max_tokens": 200, "n": 2, "seed": 3, "temperature": 1.2, "logprobs": 2});
    let two = two.to_string();
    let (a, b, c, two) = tokio::join!(
        client.generate(plain),
        ask(PROMPT, sampled),
        ask("The fox said", stopped),
        server.post("/v1/completions", &two),
    );
    let mut two: serde_json::Value = serde_json::from_str(&two.body).expect("JSON");
    // What was cached differs each time.
    let cacheless = |details: pb::Details| pb::Details { cached_tokens: 0, ..details };
    let answers = [a, b, c].map(|a| pb::GenerateResponse { details: a.details.map(cacheless), ..a });
    (answers.into(), two["choices"].take())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn answers_are_those_of_an_undisturbed_run() {
    let server = Server::ready(["--tensor-parallel", "2", "--isa", "plain"]).await;
    let client = server.client().await;
    let undisturbed = answers(&server, &client).await;
    for rank in [0, 1] {
        let workers = server.ranks(2).await;
        let killing = async {
            while !server.get("/metrics").await.body.contains("\ntgi_batch_current_size 5\n") {
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
            workers[rank].signal(Signal::KILL);
        };
        let (disturbed, ()) = tokio::join!(answers(&server, &client), killing);
        assert_eq!(disturbed, undisturbed);
    }
    let ended = server.stop().await;
    assert!(ended.stderr.contains("5 requests wait for the ranks"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stream_goes_on_while_the_server_ends() {
    let model = SlowModel::new();
    let server = slow_server(&model, "2").await;
    let workers = server.ranks(2).await;
    let client = server.client().await;
    let whole = client.generate(greedy(PROMPT, 60)).await;
    let (stream, first) = begun(&client, 60).await;
    server.signal(Signal::TERM);
    not_serving(&server.client().await).await;
    workers[1].signal(Signal::KILL);
    let (text, end) = rest(stream).await;
    assert_eq!((first + &text, end.expect("no error")), (whole.generated_text.clone(), Some(whole.generated_text)));
    let ended = server.end().await;
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(ended.stderr.contains("rank 1: worker ended: signal: 9 (SIGKILL)"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn too_many_failures_end_the_server_with_a_code_of_its_own() {
    let model = SlowModel::new();
    let path = model.path().to_str().expect("UTF-8");
    let server = Server::ready(["--model", path, "--tensor-parallel", "2", "--restarts-max", "1"]).await;
    let client = server.client().await;
    let (mut stream, _) = begun(&client, 2000).await;
    server.ranks(2).await[0].signal(Signal::KILL);
    let message = next_message(&mut stream).await;
    assert!(!message.tokens.is_empty(), "it goes on");
    server.ranks(2).await[1].signal(Signal::KILL);
    let status = rest(stream).await.1.expect_err("the workers are not started again");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(names(status.message(), &["rank 1", "SIGKILL"]), "{status}");
    let ended = server.end().await;
    assert_eq!(ended.status.code(), Some(WORKERS_FAILED), "{ended:?}");
    assert!(ended.stderr.contains("the workers have failed too often (--restarts-max 1): rank 1: worker"), "{ended:?}");
}

/// The coordinator waits for it as long as it was told to, and so do the other ranks, whatever their own limits are.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_that_stays_stopped_is_replaced() {
    for (world, stopped) in [(1, 0), (3, 1)] {
        let degree = world.to_string();
        let limits = ["--step-timeout", "1", "--collective-timeout", "1", "--pause-timeout", "2"];
        let server = Server::ready(["--tensor-parallel", &degree].iter().chain(&limits)).await;
        let client = server.client().await;
        let workers = server.ranks(world).await;
        workers[stopped].signal(Signal::STOP);
        client.generate(greedy(PROMPT, 5)).await;
        let named = format!("rank {stopped} (process {}, state T", workers[stopped].pid());
        check_recovered(server, &workers, &["rows: no answer within", &named]).await;
    }
}
