//! Flags from variables and a file, and what `peregrine config` says of them.

use crate::support::{Program, Server};
use serde_json::Value;
use std::path::Path;

fn file(folder: &Path) -> String {
    let path = folder.join("peregrine.toml");
    let text = "tensor-parallel = 3\n\n[serve]\nmax-best-of = 7\nmax-stop-sequences = 7\npayload-limit = 5000\n";
    std::fs::write(&path, text).expect("a file");
    path.into_os_string().into_string().expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_is_set_up_by_variables_and_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = file(folder.path());
    let variables = [("PEREGRINE_CONFIG", &*file), ("PEREGRINE_TENSOR_PARALLEL", "2"), ("MAX_STOP_SEQUENCES", "2")];
    let mut server = Server::start_with(&variables, ["--max-best-of", "3"]).await;
    let log = server.says("loaded ").await;
    assert!(log.contains(&format!("{file}:6: --payload-limit 5000")), "{log}");
    let info: Value = serde_json::from_str(&server.get("/info").await.body).expect("JSON");
    for (key, value) in [("tensor_parallel", 2), ("max_best_of", 3), ("max_stop_sequences", 7), ("payload_limit", 5000)]
    {
        assert_eq!(info[key], value, "{info}");
    }
    server.ranks(2).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_holds_is_shown_and_nothing_is_started() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = file(folder.path());
    let variables = [("PEREGRINE_INSECURE", "true"), ("SM_NUM_GPUS", "8"), ("MAX_TOTAL_TOKENS", "100")];
    let config = |flags: &[&str]| {
        let words =
            ["config", "serve", "--config", &file, "--max-best-of=3"].iter().chain(flags).copied().collect::<Vec<_>>();
        Program::new(words).envs(variables).run()
    };
    let said = config(&[]).await.success();
    let of = |flag: &str| {
        let line =
            said.lines().find(|line| line.split(' ').next() == Some(flag)).unwrap_or_else(|| panic!("{flag}: {said}"));
        line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(of("--max-best-of"), "3 command line");
    assert_eq!(of("--insecure"), "on variable PEREGRINE_INSECURE");
    assert_eq!(of("--tensor-parallel"), format!("3 {file}:1"));
    assert_eq!(of("--max-total-tokens"), "100 variable MAX_TOTAL_TOKENS");
    assert_eq!(of("--http-addr"), "127.0.0.1:8080 default");
    assert_eq!(of("--kv-tokens"), "- default");
    let json: Vec<Value> = serde_json::from_str(&config(&["--json"]).await.success()).expect("JSON");
    assert_eq!(json.len(), said.lines().count());
    let kv = json.iter().find(|held| held["flag"] == "kv-tokens").expect("a flag");
    assert!(kv["value"].is_null() && kv["from"] == "default", "{kv}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_wrong_is_told_with_its_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("p.toml");
    std::fs::write(&path, "[serve]\nkv-tokes = 5\n").expect("a file");
    let config = path.to_str().expect("UTF-8");
    let said = Program::new(["serve", "--config", config]).run().await.failure();
    assert!(said.contains(&format!("{config}:2: the key kv-tokes is no flag; the nearest is kv-tokens")), "{said}");
    let said = Program::new(["serve"]).envs([("PEREGRINE_KV_TOKENS", "many")]).run().await.failure();
    assert!(
        said.contains("variable PEREGRINE_KV_TOKENS: --kv-tokens many") && said.contains("invalid value"),
        "{said}"
    );
}
