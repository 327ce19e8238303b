//! `peregrine bench`. What is measured decides no test; that it is measured does.

use crate::support::{Program, Server, within};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// Runs `peregrine bench` with these arguments, which must succeed.
async fn bench(arguments: &[&str]) -> String {
    Program::new(["bench"].iter().chain(arguments)).run().await.success()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_is_measured_over_both_apis() {
    let server = Server::ready(["--max-concurrent-requests", "8"]).await;
    let (grpc, http) = (server.grpc.to_string(), server.http.to_string());
    let file = tempfile::tempdir().expect("a temporary folder");
    let json = file.path().join("figures.json");
    let path = json.to_str().expect("UTF-8");
    let load =
        ["--num-prompts", "6", "--num-warmups", "1", "--goodput", "e2el:600000", "--json", path, "--save-detailed"];
    let sweep = ["serve", "--server", &grpc, "--dataset", "8+4-9/5,jumpstart", "--max-concurrency", "1,4"];
    let html = file.path().join("report.html");
    let report = ["--html", html.to_str().expect("UTF-8")];
    let table = bench(&[&sweep[..], &load, &report].concat()).await;
    assert!(table.contains("| 8+4-9/5 | 4 at once | 6 / 0 |"), "{table}");
    assert!(table.contains("| falcon-demo | this server, 1 at once |"), "{table}");

    let text = std::fs::read_to_string(&json).expect("written");
    let runs: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    assert_eq!(runs.len(), 4);
    let html = std::fs::read_to_string(&html).expect("written");
    assert!(html.contains("8+4-9/5, 4 at once") && html.matches("<svg class=\"plot\"").count() == 5, "{html}");
    let first = &runs[0];
    assert_eq!(
        (&first["completed"], &first["failed"], &first["total_output_tokens"]),
        (&6.into(), &0.into(), &30.into())
    );
    assert_eq!((&first["model_id"], &first["max_concurrency"]), (&"falcon-demo".into(), &1.into()));
    let prompts = first["input_lens"].as_array().expect("a list");
    assert!(prompts.iter().all(|tokens| (12..=17).contains(&tokens.as_u64().expect("a number"))), "{first}");
    assert!(first["date"].as_str().is_some_and(|date| date.ends_with('Z')), "{first}");
    assert!(first["command"].as_str().is_some_and(|command| command.contains("bench serve --server")), "{first}");
    assert!(first["machine"]["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{first}");
    assert!(first["request_goodput"].as_f64().expect("a number") > 0.0, "{first}");

    let whole = ["--dialect", "tgi", "--no-stream", "--dataset", "8/5", "--request-rate", "100"];
    let table = bench(&[&["serve", "--server", &http][..], &whole, &load[..4]].concat()).await;
    assert!(table.contains("| 8/5 | 100 req/s | 6 / 0 |"), "{table}");

    // Beyond the server's limit requests are refused; that is counted with its reason, and is no error of the benchmark.
    let many = ["--num-prompts", "40", "--max-concurrency", "40", "--dataset", "8/400"];
    let table = bench(&[&["serve", "--server", &grpc][..], &many].concat()).await;
    let done: Option<u32> = table.split(" at once | ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    let done = done.unwrap_or_else(|| panic!("{table}"));
    assert!((8..40).contains(&done), "{table}");
    assert!(table.contains(&format!("| 8/400, 40 at once | {} × RESOURCE_EXHAUSTED: ", 40 - done)), "{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_sweep_outlives_its_runs_and_its_end() {
    let server = Server::ready(["--max-concurrent-requests", "8"]).await;
    let (grpc, folder) = (server.grpc.to_string(), tempfile::tempdir().expect("a temporary folder"));
    let json = folder.path().join("figures.json");
    let common = ["bench", "serve", "--server", &grpc, "--num-warmups", "0", "--json", json.to_str().expect("UTF-8")];
    let runs = || -> Vec<Value> {
        let text = std::fs::read_to_string(&json).expect("written");
        text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
    };

    // The second prompt is longer than the model allows.
    let sweep = ["--dataset", "8/8,5000/8,16/8", "--num-prompts", "4"];
    let ended = Program::new(common.iter().chain(&sweep)).run().await;
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let expected = "error: no request was answered in 1 of 3 runs; in 5000/8, 8 at once: 4 × INVALID_ARGUMENT: ";
    assert!(ended.stderr.contains(expected), "{ended:?}");
    assert!(ended.stdout.contains("| 16/8 | 8 at once | 4 / 0 |"), "{ended:?}");
    let completed: Vec<_> = runs().iter().map(|run| run["completed"].as_u64()).collect();
    assert_eq!(completed, [Some(4), Some(0), Some(4)]);

    // Ctrl-c in the second run, which would take its time.
    let sweep = ["--dataset", "8/8,8/1900", "--num-prompts", "50", "--max-concurrency", "1"];
    let mut running = Program::new(common.iter().chain(&sweep)).start();
    running.prints_text("| 8/8 | 1 at once | 50 / 0 |").await;
    running.signal_group(Signal::INT);
    let ended = running.end().await;
    assert_eq!(ended.status.code(), Some(130), "{ended:?}");
    assert_eq!(ended.stderr, "interrupted: what had ended before is reported\n");
    let completed: Vec<_> = runs().iter().map(|run| run["completed"].as_u64()).collect();
    assert_eq!(completed, [Some(50)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_soak_that_is_interrupted_says_what_it_saw() {
    let server = Server::ready(["--max-concurrent-requests", "8"]).await;
    let address = server.grpc.to_string();
    let small = ["--seconds", "600", "--requests", "4", "--concurrency", "4", "--dataset", "8/8", "--json"];
    let running = Program::new(["bench", "soak", "--server", &address].iter().chain(&small)).start();
    // Once all requests have been sent alone, and more.
    within("some answers", async {
        let answered = |metrics: &str| -> Option<u32> {
            metrics.lines().find_map(|line| line.strip_prefix("tgi_request_success "))?.parse().ok()
        };
        while answered(&server.get("/metrics").await.body).is_none_or(|answered| answered < 20) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    running.signal(Signal::TERM);
    let ended = running.end().await;
    assert_eq!(ended.status.code(), Some(143), "{ended:?}");
    let seen: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{ended:?}: {error}"));
    assert!(seen["completed"].as_u64().is_some_and(|completed| completed > 0), "{seen}");
    assert_eq!((&seen["wrong"], &seen["resident_mib"]), (&0.into(), &Value::Null), "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_engine_alone_is_measured() {
    let small = ["--concurrency", "16", "--rounds", "1", "--seconds", "1", "--output-len", "20", "--requests", "200"];
    let output = bench(&[&["engine", "--json"][..], &small].concat()).await;
    let figures: Value = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{output}: {error}"));
    let rates = ["tokens_per_s", "ratio_to_grpc", "tokens_per_message"];
    let times = ["p50_delay_ms", "p99_delay_ms", "cpu_us_per_token"];
    for dialect in ["grpc", "openai-chat", "tgi"] {
        let of = &figures["streams"][dialect];
        for key in rates.into_iter().chain(times) {
            assert!(of[key].as_f64().is_some_and(|value| value > 0.0), "{dialect}, {key}: {figures}");
        }
        assert_eq!(of["client_ns_per_event"].is_f64(), dialect != "grpc", "{figures}");
    }
    // Over server-sent events, each token is a message.
    for dialect in ["openai-chat", "tgi"] {
        assert_eq!(figures["streams"][dialect]["tokens_per_message"], 1.0, "{figures}");
    }
    assert!(figures["bytes_per_request"].is_f64(), "{figures}");
    let running: Vec<u32> = (0..7).map(|power| 4u32.pow(power)).collect();
    let us = |running: &u32| figures["plan_commit_us"][running.to_string()].as_f64();
    assert!(running.iter().all(|running| us(running).is_some_and(|us| us > 0.0)), "{figures}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn batches_are_measured() {
    let small = ["--batch-sizes", "1,3", "--input-lens", "20", "--output-len", "5", "--repeats", "2"];
    let table = bench(&[&["latency"][..], &small].concat()).await;
    let row = |batch| table.lines().any(|line| line.starts_with(&format!("| 20 | {batch} | ")));
    assert!(table.lines().count() == 4 && row(1) && row(3), "{table}");
    let ended = Program::new(["bench", "latency", "--kv-tokens", "64"].iter().chain(&small)).run().await;
    assert!(ended.stderr.contains("3 sequences of 20 + 5 tokens need --kv-tokens 96, not 64"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn kills_are_measured() {
    let few = ["recovery", "--streams", "2", "--input-len", "20", "--tokens-before", "4", "--repeats", "2"];
    let table = bench(&few).await;
    let row = |name| table.lines().any(|line| line.starts_with(&format!("| {name} | 0.")));
    assert!(table.lines().count() == 5 && ["rank 0", "rank 1", "median"].into_iter().all(row), "{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_model_of_random_weights_is_made_and_runs() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let dir = folder.path().join("model");
    let dir = dir.to_str().expect("UTF-8");
    bench(&["make-model", dir, "--shape", "tiny"]).await;
    let arguments =
        ["generate", "--model", dir, "--input-ids", "5,6", "--max-new-tokens", "4", "--ignore-eos", "--json"];
    let output = Program::new(arguments.iter().chain(&["--details"])).run().await.success();
    let answer: Value = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{output}: {error}"));
    let tokens = answer["details"]["tokens"].as_array().expect("tokens");
    assert!(tokens.len() == 4 && tokens.iter().all(|token| token["logprob"].is_f64()), "{answer}");
    let ended = Program::new(["bench", "make-model", dir]).run().await;
    assert!(ended.stderr.contains("it exists already"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn answers_under_load_are_those_alone() {
    let server = Server::ready(["--tensor-parallel", "2"]).await;
    let (address, pid) = (server.grpc.to_string(), server.pid().to_string());
    let small = ["--seconds", "3", "--requests", "20", "--concurrency", "12", "--json"];
    let output = bench(&[&["soak", "--server", &address, "--watch", &pid][..], &small].concat()).await;
    let seen: Value = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{output}: {error}"));
    let count = |key: &str| seen[key].as_u64().expect("a number");
    assert!(count("completed") > 0 && count("cancelled") > 0 && count("wrong") == 0, "{seen}");
    assert!(seen["resident_mib"][1].is_u64(), "{seen}");
}

/// Runs `scripts/bench-compare` on two results, and returns its exit status and table.
fn compare(before: &Value, after: &Value) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = [("a.json", before), ("b.json", after)].map(|(name, result)| {
        let path = folder.path().join(name);
        std::fs::write(&path, result.to_string()).expect("a temporary file");
        path
    });
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/bench-compare");
    let output = std::process::Command::new(script).args(files).output().expect("python3 is there");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn regressions_are_flagged() {
    let run = |throughput: f64, ttft: f64| json!({"dataset": "1/1", "request_rate": "inf", "output_throughput": throughput, "p99_ttft_ms": ttft});
    let flags = |before: &Value, after: &Value| {
        let (status, table) = compare(before, after);
        (status, table.matches("WORSE").count())
    };
    assert_eq!(flags(&run(100.0, 5.0), &run(98.0, 5.1)), (Some(0), 0));
    assert_eq!(flags(&run(100.0, 5.0), &run(90.0, 4.0)), (Some(1), 1));
    assert_eq!(flags(&run(100.0, 5.0), &run(120.0, 6.0)), (Some(1), 1));
    let engine = |us: f64| json!({"tokens_per_s": 1e5, "plan_commit_us": {"256": us}, "bytes_per_request": 1.0});
    assert_eq!(flags(&engine(20.0), &engine(30.0)), (Some(1), 1));
    assert_eq!(flags(&engine(20.0), &engine(19.0)), (Some(0), 0));
    assert_eq!(flags(&run(1.0, 1.0), &engine(1.0)).0, Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_cannot_be_measured_is_an_error() {
    for (arguments, expected) in [
        (&["--server", "127.0.0.1:1"][..], "error: --server: 127.0.0.1:1: cannot connect: Connection refused"),
        (&["--server", "ftp://127.0.0.1:1"], "error: --server: ftp://127.0.0.1:1: not an address: ftp is not supp"),
        (&["--server", "127.0.0.1:1", "--json", "/nonexistent/x"], "error: /nonexistent/x: cannot write: No such file"),
        (&["--dataset", "sharegpt:/nonexistent/x"], "error: --dataset: /nonexistent/x: No such file"),
        (&["--dataset", "128"], "is no dataset: expected IN/OUT"),
        (&["--request-rate", "0"], "is no rate"),
        (&["--goodput", "itl:5"], "is no service level"),
        (&["--save-detailed"], "--json"),
    ] {
        let ended = Program::new(["bench", "serve"].iter().chain(arguments)).run().await;
        assert!(!ended.status.success() && ended.stderr.contains(expected), "{ended:?}");
    }
}
