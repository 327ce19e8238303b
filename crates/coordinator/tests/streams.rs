//! A worker whose stream of steps ends, or brings what is no result, is an event at once, and no case for the watchdog; one that
//! does not answer when it has nothing to do is found by asking.
//!
//! Workers are this program, started again: the test below that is none plays their part.

use coordinator::{Coordinator, CoordinatorConfig, ProcessConfig, RestartLimits, Status, Submission, Workers};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use step::{Priority, SamplingParams};
use tokio::net::UnixStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Streaming};
use wire::control::worker_server::{Worker, WorkerServer};
use wire::control::{self as pb, load_event::Event};

const MODE: &str = "COORDINATOR_TEST_WORKER";

/// Far more than anything here takes, and far less than a step is allowed.
const LIMIT: Duration = Duration::from_secs(60);
const STEP_LIMIT: Duration = Duration::from_secs(3600);

/// What a worker answers to its first command.
struct Odd(String);

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, tonic::Status>> + Send>>;

#[tonic::async_trait]
impl Worker for Odd {
    type LoadStream = Messages<pb::LoadEvent>;
    type RunStream = Messages<pb::StepResult>;

    async fn load(&self, _: Request<pb::LoadRequest>) -> Result<Response<Self::LoadStream>, tonic::Status> {
        let ready = pb::LoadEvent { event: Some(Event::Ready(pb::Ready::default())) };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(ready)))))
    }

    async fn ping(&self, _: Request<pb::PingRequest>) -> Result<Response<pb::PingResponse>, tonic::Status> {
        if self.0 == "deaf" {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(pb::PingResponse {}))
    }

    async fn run(
        &self,
        commands: Request<Streaming<pb::WorkerCommand>>,
    ) -> Result<Response<Self::RunStream>, tonic::Status> {
        let mut commands = commands.into_inner();
        let mode = self.0.clone();
        let (to, answers) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            if mode == "too early" {
                let _ = to.send(Ok(pb::StepResult::default()));
            }
            let _ = commands.next().await;
            if mode == "unreadable" {
                let sample = pb::Sample::default();
                let output = pb::SeqOutput { samples: vec![sample], ..pb::SeqOutput::default() };
                let _ = to.send(Ok(pb::StepResult { outputs: vec![output], ..pb::StepResult::default() }));
                std::future::pending::<()>().await;
            }
        });
        Ok(Response::new(Box::pin(tokio_stream::wrappers::UnboundedReceiverStream::new(answers))))
    }
}

/// Not a test of its own, but run by those below, in a process: a worker.
#[tokio::test]
async fn a_worker() {
    let Ok(mode) = std::env::var(MODE) else { return };
    let socket = StdUnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().expect("a socket"));
    wire::take_over(&socket).expect("the first byte");
    socket.set_nonblocking(true).expect("a socket");
    let socket = UnixStream::from_std(socket).expect("a socket");
    let incoming = tokio_stream::once(Ok::<_, std::io::Error>(socket)).chain(tokio_stream::pending());
    let server = tonic::transport::Server::builder().add_service(WorkerServer::new(Odd(mode)));
    server.serve_with_incoming(incoming).await.expect("it serves");
}

fn config() -> CoordinatorConfig {
    CoordinatorConfig {
        world: 1,
        kv_blocks: 16,
        step_rows_max: 16,
        sequences_max: 4,
        steps_in_flight_max: 1,
        prefix_cache: true,
        itl_bound: None,
        step_limit: STEP_LIMIT,
        pause_limit: STEP_LIMIT,
        load_limit: LIMIT,
        restarts: RestartLimits::NEVER,
        check_invariants: true,
    }
}

/// Why the model fails when such a worker gets its first step, or none.
async fn failure(mode: &str, step_limit: Duration, asks: bool) -> String {
    // The coordinator's own arguments come last, where a test program would not take them.
    let script = "exec \"$0\" a_worker --exact --nocapture";
    let program = std::env::current_exe().expect("this program");
    let processes = ProcessConfig {
        program: "/bin/sh".into(),
        name: "sh".into(),
        arguments: ["-c".into(), script.into(), program.into()].into(),
        environment: vec![(MODE.into(), mode.into())],
        model_dir: "/nowhere".into(),
        backend: "odd".to_owned(),
        threads_per_rank: 1,
        isa: None,
        collective_limit: LIMIT,
        rendezvous: None,
        tied: true,
        keep: Box::new(()),
    };
    let coordinator = Coordinator::start(
        CoordinatorConfig { step_limit, ..config() },
        Workers::Processes(Box::new(processes)),
        Arc::new(()),
    );
    let mut status = coordinator.status();
    let loaded = status.wait_for(|status| !matches!(status, Status::Loading { .. }));
    let loaded = tokio::time::timeout(LIMIT, loaded).await.expect("no hang").expect("it runs").clone();
    assert!(matches!(loaded, Status::Ready { .. }), "{loaded:?}");
    let submission = Submission {
        prompt: vec![1, 2, 3],
        max_new_tokens: 2,
        eos: Vec::new(),
        stop_token_ids: Vec::new(),
        min_tokens: 0,
        sampling: SamplingParams::GREEDY,
        priority: Priority::Normal,
        prompt_logprobs: false,
        top_n: 0,
        return_logits: false,
    };
    let _generation = asks.then(|| coordinator.submit(submission).expect("it is ready"));
    match tokio::time::timeout(LIMIT, coordinator.ended()).await.expect("no hang") {
        Status::Failed { reason } => reason,
        status => panic!("{status:?}"),
    }
}

#[tokio::test]
async fn a_stream_that_ends_is_an_event() {
    let reason = failure("ends", STEP_LIMIT, true).await;
    assert!(reason.contains("rank 0: connection lost: it ended its stream of steps without a word"), "{reason}");
}

#[tokio::test]
async fn a_result_that_is_none_is_an_event() {
    let reason = failure("unreadable", STEP_LIMIT, true).await;
    assert!(reason.contains("rank 0: Sample without `token`"), "{reason}");
}

#[tokio::test]
async fn a_worker_that_has_nothing_to_do_is_asked_whether_it_is_there() {
    let reason = failure("deaf", Duration::from_secs(1), false).await;
    assert!(
        reason.starts_with("a rank with nothing to do: no answer within 1.") && reason.contains("rank 0 (process "),
        "{reason}"
    );
}

#[tokio::test]
async fn a_result_that_nobody_asked_for_is_an_event() {
    let reason = failure("too early", STEP_LIMIT, false).await;
    assert!(reason.starts_with("rank 0 has answered step 0, which it was not sent"), "{reason}");
}
