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

/// The program, the libraries that it is linked with, and a model: nothing else, not even `/proc`.
fn empty_root() -> TempDir {
    let root = TempDir::new().expect("a temporary folder");
    let program = Path::new(env!("CARGO_BIN_EXE_peregrine"));
    let linked = std::process::Command::new("ldd").arg(program).output().expect("ldd tells the libraries");
    let linked = String::from_utf8(linked.stdout).expect("UTF-8");
    // As in `libc.so.6 => /lib/libc.so.6 (0x…)`, and the loader without an arrow.
    let libraries: Vec<&str> = linked.split_whitespace().filter(|word| word.starts_with('/')).collect();
    assert!(libraries.len() >= 2, "the loader and the C library at least: {linked}");
    for library in libraries {
        let to = root.path().join(&library[1..]);
        std::fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
        std::fs::copy(library, to).expect("a copy");
    }
    std::fs::copy(program, root.path().join("peregrine")).expect("a copy");
    copy_folder(&demo_model(), &root.path().join("model"));
    root
}

/// A program whose root is there. Without the right to change it, it is changed in a user namespace.
fn in_root(root: &Path, arguments: impl IntoIterator<Item = OsString>) -> Program {
    let mut words: Vec<OsString> = vec!["chroot".into(), root.into(), "/peregrine".into()];
    words.extend(arguments);
    if rustix::process::geteuid().is_root() {
        return Program::of(&words[0], &words[1..]);
    }
    words.splice(0..0, ["unshare", "--map-root-user"].map(OsString::from));
    Program::of(&words[0], &words[1..])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_program_alone_in_an_empty_root_serves() {
    let root = empty_root();
    for world in ["1", "2"] {
        let arguments = ["--model", "/model", "--tensor-parallel", world, "--threads-per-rank", "1"];
        let server = Server::unheard(in_root(root.path(), Server::arguments(arguments))).await;
        let answer = server.client().await.generate(greedy(PROMPT, 5)).await;
        let expected = Server::ready(["--tensor-parallel", world, "--threads-per-rank", "1"]).await;
        assert_eq!(answer.generated_text, expected.client().await.generate(greedy(PROMPT, 5)).await.generated_text);
        server.stop().await;
        expected.stop().await;
    }
}
