//! A log that cannot be written costs the log, and nothing else.

use crate::lifecycle::{begun, rest};
use crate::recovery::recovered;
use crate::support::{Program, Server, SlowModel, greedy};
use rustix::process::Signal;
use std::fs::File;
use std::io::{PipeReader, pipe};
use std::process::Stdio;

const PROMPT: &str = "Once upon a time";

/// A standard error that takes nothing, or not for long.
#[derive(Clone, Copy, Debug)]
enum Broken {
    /// The disk is full.
    Full,
    /// Its reader has gone.
    Gone,
    /// Its reader is there, and reads nothing.
    StandsStill,
}

const ALL: [Broken; 3] = [Broken::Full, Broken::Gone, Broken::StandsStill];

impl Broken {
    /// It, and its reader, if there is one that must be kept.
    fn open(self) -> (Stdio, Option<PipeReader>) {
        match self {
            Self::Full => (File::options().write(true).open("/dev/full").expect("/dev/full").into(), None),
            Self::Gone => (pipe().expect("a pipe").1.into(), None),
            Self::StandsStill => {
                let (reader, writer) = pipe().expect("a pipe");
                (writer.into(), Some(reader))
            }
        }
    }
}

/// A server with such a standard error, at a log level.
async fn serve(broken: Broken, level: &str, arguments: &[&str]) -> (Server, Option<PipeReader>) {
    let (stderr, reader) = broken.open();
    let program = Program::new(Server::arguments(arguments)).envs([("PEREGRINE_LOG", level)]).stderr(stderr);
    (Server::unheard(program).await, reader)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_answers_and_drains() {
    for broken in ALL {
        // The lowest level says more than any pipe holds.
        for level in ["info", "trace"] {
            let (server, _reader) = serve(broken, level, &["--tensor-parallel", "2", "--isa", "plain"]).await;
            let client = server.client().await;
            client.generate(greedy(PROMPT, 30)).await;
            let (stream, first) = begun(&client, 300).await;
            server.signal(Signal::TERM);
            let (text, end) = rest(stream).await;
            assert_eq!(end.expect("no error"), Some(first + &text), "{broken:?}, {level}: the whole text");
            let ended = server.end().await;
            assert_eq!(ended.status.code(), Some(0), "{broken:?}, {level}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_that_dies_is_replaced() {
    for broken in ALL {
        let (server, _reader) = serve(broken, "debug", &["--tensor-parallel", "2"]).await;
        let workers = server.ranks(2).await;
        workers[1].signal(Signal::KILL);
        recovered(server, &workers).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_that_dies_in_a_drain_is_replaced() {
    let model = SlowModel::new();
    let path = model.path().to_str().expect("UTF-8");
    for broken in ALL {
        let (server, _reader) = serve(broken, "info", &["--model", path, "--tensor-parallel", "2"]).await;
        let workers = server.ranks(2).await;
        let (stream, first) = begun(&server.client().await, 60).await;
        server.signal(Signal::TERM);
        workers[1].signal(Signal::KILL);
        let (text, end) = rest(stream).await;
        assert_eq!(end.expect("no error"), Some(first + &text), "{broken:?}");
        let ended = server.end().await;
        assert_eq!(ended.status.code(), Some(0), "{broken:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn generate_says_its_text() {
    let arguments = ["generate", PROMPT, "--max-new-tokens", "5"];
    let expected = Program::new(arguments).run().await.success();
    for broken in ALL {
        for level in ["warn", "trace"] {
            let (stderr, _reader) = broken.open();
            let program = Program::new(arguments).envs([("PEREGRINE_LOG", level)]).stderr(stderr);
            assert_eq!(program.run().await.success(), expected, "{broken:?}, {level}");
            // What went wrong is lost, and that it did is not.
            let (stderr, _reader) = broken.open();
            let ended = Program::new(["generate", PROMPT, "--model", "/nowhere"]).stderr(stderr).run().await;
            assert_eq!(ended.status.code(), Some(1), "{broken:?}");
        }
    }
}

/// Results are another matter: who asked for them must know that they are not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn results_that_cannot_be_written_are_an_error() {
    let plan = ["plan", "--model", "huggingface-llm-falcon-7b-bf16"];
    for arguments in [&["generate", PROMPT, "--max-new-tokens", "5"][..], &plan] {
        for broken in [Broken::Full, Broken::Gone] {
            let ended = Program::new(arguments).stdout(broken.open().0).run().await;
            let stderr = ended.failure();
            assert!(stderr.contains("error: cannot write to the standard output: "), "{broken:?}: {stderr}");
        }
    }
}
