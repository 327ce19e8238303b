//! What a program finds where it is started: variables, paths, other files.

use crate::support::{Program, Server, demo_model, greedy};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use tempfile::TempDir;

const PROMPT: &str = "Once upon a time";

/// Workers are started by this program alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_other_program_is_needed() {
    for variables in [&[("PATH", "/nonexistent")][..], &[("PATH", ""), ("PEREGRINE_LOG", "info")]] {
        let mut server = Server::start_with(variables, ["--tensor-parallel", "2"]).await;
        server.says("loaded ").await;
        server.client().await.generate(greedy(PROMPT, 2)).await;
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn ranks_stand_in_the_log_and_in_the_list_of_processes() {
    let mut server = Server::ready(["--tensor-parallel", "3"]).await;
    let workers = server.ranks(3).await;
    for (rank, worker) in workers.iter().enumerate() {
        let rank = rank.to_string();
        assert_eq!(worker.command_line()[1..6], ["worker", "--rank", &rank, "--world", "3"]);
        assert_eq!(worker.variable("PEREGRINE_LOG").as_deref(), Some("info"), "as the coordinator's default");
        server.says(&format!("rank {rank} of 3 is process {}", worker.pid())).await;
    }
    server.stop().await;
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn paths_need_not_be_text() {
    let folder = TempDir::new().expect("a temporary folder");
    let odd = folder.path().join(OsStr::from_bytes(b"mod\xe8les \xff"));
    let (program, model) = (odd.join("peregrine"), odd.join("model"));
    copy_folder(&demo_model(), &model);
    std::fs::copy(env!("CARGO_BIN_EXE_peregrine"), &program).expect("a copy");
    let arguments = ["generate", PROMPT, "--max-new-tokens", "3", "--model"].map(OsString::from);
    let said = Program::of(program, arguments.iter().chain([&model.into_os_string()])).run().await.success();
    let expected = Program::new(["generate", PROMPT, "--max-new-tokens", "3"]).run().await.success();
    assert_eq!(said, expected);
}
