//! `peregrine shard`, and models that were cut by it.

use crate::support::{Program, Server, demo_model, greedy};
use rustix::process::Signal;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const PROMPT: &str = "Once upon a time";

fn demo() -> String {
    demo_model().to_str().expect("UTF-8").to_owned()
}

/// The demo model, cut for so many ranks.
async fn cut(ranks: &str) -> (TempDir, String) {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().join("cut").to_str().expect("UTF-8").to_owned();
    let ended = Program::new(["shard", "--model", &demo(), "--tensor-parallel", ranks, "--out", &out]).run().await;
    assert!(ended.stderr.contains(&format!("{out}: ")) && ended.stderr.contains(&format!(" GB in {ranks} files")));
    assert_eq!(ended.success(), "");
    (dir, out)
}

async fn generate(arguments: &[&str]) -> String {
    let options = ["generate", PROMPT, "--json", "--details", "--max-new-tokens", "24"];
    Program::new(options.iter().chain(arguments)).run().await.success()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_cut_model_answers_as_the_whole_one_at_the_degree_that_it_was_cut_for() {
    let (_dir, out) = cut("3").await;
    // With the first instruction set, weights are used where the files are mapped.
    for isa in [&["--isa", "plain"][..], &[]] {
        let whole = generate(&[&["--model", &demo(), "--tensor-parallel", "3"], isa].concat()).await;
        assert_eq!(generate(&[&["--model", &out], isa].concat()).await, whole);
    }
    let other = Program::new(["generate", PROMPT, "--model", &out, "--tensor-parallel", "2"]).run().await.failure();
    assert!(other.contains(&format!("{out}: these weights are cut for --tensor-parallel 3, not 2")), "{other}");
    let doctor = Program::new(["doctor", "--model", &out, "--backend", "cpu", "--tensor-parallel", "2"]).run().await;
    assert!(!doctor.status.success() && doctor.stderr.contains("cut for --tensor-parallel 3, not 2"), "{doctor:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_rank_of_a_cut_model_is_started_again_and_what_is_damaged_is_named() {
    let (_dir, out) = cut("2").await;
    let server = Server::ready(["--model", &out]).await;
    let client = server.client().await;
    let expected = client.generate(greedy(PROMPT, 8)).await.generated_text;
    server.ranks(2).await[1].signal(Signal::KILL);
    assert_eq!(client.generate(greedy(PROMPT, 8)).await.generated_text, expected);
    server.stop().await;

    let path = Path::new(&out).join("rank-1-of-2.safetensors");
    let mut bytes = fs::read(&path).expect("a file");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).expect("room");
    let damaged = Program::new(["generate", PROMPT, "--model", &out]).run().await.failure();
    assert!(damaged.contains(&format!("{}: tensor `", path.display())) && damaged.contains("is damaged"), "{damaged}");

    fs::write(&path, &bytes[..last]).expect("room");
    let short = Program::new(["generate", PROMPT, "--model", &out]).run().await.failure();
    assert!(short.contains(&format!("found {last} bytes")), "{short}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_cannot_be_cut_is_refused() {
    let (dir, out) = cut("2").await;
    let shard = async |model: &str, out: &Path| {
        let arguments = ["shard", "--model", model, "--tensor-parallel", "2", "--out"].map(OsStr::new);
        Program::new(arguments.into_iter().chain([out.as_os_str()])).run().await.failure()
    };
    let new = dir.path().join("new");
    let again = shard(&out, &new).await;
    assert!(again.contains(&format!("{out}: these weights are cut already")), "{again}");
    let full = shard(&demo(), Path::new(&out)).await;
    assert!(full.contains("--out") && full.contains("the folder holds a model already"), "{full}");
    let file: PathBuf = dir.path().join("file");
    fs::write(&file, "").expect("room");
    let no_folder = shard(&demo(), &file.join("x")).await;
    assert!(no_folder.contains("--out") && no_folder.contains("Not a directory"), "{no_folder}");
}
