//! What cannot fit is refused before a weight is read; where a model runs, and why there; what `doctor` says.

use crate::support::{Program, demo_model, model_dir};
use serde_json::Value;

/// A KV cache that no machine has memory for: 2^30 tokens.
const TOO_MANY: [&str; 2] = ["--kv-tokens", "1073741824"];

fn model() -> String {
    model_dir("tiny-falcon-40b").to_str().expect("UTF-8").to_owned()
}

/// What `doctor` says stands in the way. What it found is on standard output.
async fn problems<'a>(arguments: impl IntoIterator<Item = &'a &'a str>) -> String {
    let ended = Program::new(arguments).run().await;
    assert!(ended.status.code() == Some(1) && !ended.stdout.contains("ready"), "{ended:?}");
    ended.stderr
}

/// The largest KV cache that is advised.
fn advised(said: &str) -> u32 {
    let (_, behind) = said.split_once("--kv-tokens up to ").unwrap_or_else(|| panic!("no advice in {said}"));
    behind.split(' ').next().expect("a word").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_cache_that_cannot_fit_is_refused_by_all_alike() {
    let model = model();
    let on_cpus = ["--model", &model, "--backend", "cpu", "--tensor-parallel", "2"];
    let serve = ["serve", "--check", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"];
    let refused = Program::new(serve.iter().chain(&on_cpus).chain(&TOO_MANY)).run().await.failure();
    let doctor = problems(["doctor", "--no-measure"].iter().chain(&on_cpus).chain(&TOO_MANY)).await;
    let plan = Program::new(["plan", "--node", "local"].iter().chain(&on_cpus).chain(&TOO_MANY)).run().await.success();
    for said in [&refused, &doctor, &plan] {
        assert!(said.contains("a rank has ") && advised(said) > 1 << 14, "{said}");
    }
    // Memory of this machine comes and goes: half of what was advised is there.
    let half = (advised(&refused) / 2).to_string();
    Program::new(serve.iter().chain(&on_cpus).chain(&["--kv-tokens", &half])).run().await.success();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_model_without_gpus_runs_on_cpus_only_where_it_may() {
    // No stand-in: there is no driver to be found.
    let bare = [("LD_LIBRARY_PATH", "")];
    let serve = ["serve", "--check", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"];
    for command in [&serve[..], &["generate", "Once"]] {
        let program = Program::new(command.iter().chain(&["--require-gpu"])).envs(bare);
        let said = program.run().await.failure();
        assert!(said.contains("--backend cuda: "), "{command:?}: {said}");
        let program = Program::new(command.iter().chain(&["--require-gpu", "--backend", "cpu"])).envs(bare);
        assert!(program.run().await.failure().contains("--require-gpu: "), "{command:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_demo_model_is_called_what_it_is() {
    let check = ["serve", "--check", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0", "--backend", "cpu"];
    let mut demo = Program::new(check).start();
    demo.says("no --model is given: this serves the tiny demo model, which is a toy").await;
    demo.says("ready to start").await;
    demo.end().await.success();
    let named = Program::new(check.iter().chain(&["--model", demo_model().to_str().expect("UTF-8")])).run().await;
    assert!(!named.stderr.contains("no --model is given"), "{named:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn only_http_is_spoken_to_a_server() {
    for scheme in ["ftp", "grpcs", "unix"] {
        let server = format!("{scheme}://127.0.0.1:1");
        let said = Program::new(["generate", "Once", "--server", &server]).run().await.failure();
        assert!(said.contains(&format!("{scheme} is not spoken; expected HOST:PORT, http:// or https://")), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn doctor_tells_all_problems_of_a_host_at_once() {
    let model = model();
    let said =
        Program::new(["doctor", "--no-measure", "--backend", "cpu", "--model", &model, "--json"]).run().await.success();
    let report: Value = serde_json::from_str(&said).expect("JSON");
    let keys: Vec<&String> = report.as_object().expect("an object").keys().collect();
    let expected = [
        "ready",
        "backend",
        "tensor_parallel",
        "driver",
        "gpus",
        "peers",
        "libraries",
        "cpu",
        "memory_available_bytes",
        "huge_pages",
        "limits",
        "model",
        "problems",
        "warnings",
    ];
    for key in expected {
        assert!(keys.iter().any(|found| **found == key), "{key}: {said}");
    }
    assert_eq!(
        (&report["ready"], &report["backend"], &report["model"]["fits"]),
        (&true.into(), &"cpu".into(), &true.into())
    );
    assert!(report["cpu"]["instruction_sets"].as_array().is_some_and(|all| !all.is_empty()), "{said}");
    assert!(report["memory_available_bytes"].as_u64() > Some(1 << 20), "{said}");
    assert!(report["limits"]["open_files"].is_object() && report["limits"]["locked_memory"].is_object(), "{said}");

    // A model without weights that would not fit either: both are told, and the exit code is 1.
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(model_dir("tiny-falcon-40b").join("config.json"), folder.path().join("config.json")).expect("a copy");
    let folder = folder.path().to_str().expect("UTF-8");
    let bad = ["doctor", "--no-measure", "--backend", "cpu", "--model", folder];
    let said = problems(bad.iter().chain(&TOO_MANY)).await;
    assert!(said.matches("error: ").count() == 2 && said.contains("--kv-tokens up to "), "{said}");
}
