//! Workers are this program, started again: the test below that is none plays their part.

use coordinator::{Coordinator, CoordinatorConfig, ProcessConfig, RestartLimits, Status, Submission, Workers};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use step::{
    Command, Priority, Sample, SamplingParams, ScoredToken, SeqOutput, SeqRun, StepPlan, StepResult, TokenScore,
};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Streaming};
use wire::control::worker_server::{Worker, WorkerServer};
use wire::control::{self as pb, load_event::Event};

const MODE: &str = "COORDINATOR_TEST_WORKER";
const LOG: &str = "COORDINATOR_TEST_LOG";
const RANK: &str = "COORDINATOR_TEST_RANK";

/// Far more than anything here takes, and far less than a step is allowed.
pub const LIMIT: Duration = Duration::from_secs(60);
pub const STEP_LIMIT: Duration = Duration::from_secs(3600);

/// What a load reads of files.
pub const READ_BYTES: u64 = 100;

/// One rank. Its mode says what is odd about it.
#[derive(Clone)]
struct Odd {
    mode: String,
    rank: usize,
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, tonic::Status>> + Send>>;

impl Odd {
    fn is(&self, mode: &str) -> bool {
        self.mode.split(',').any(|part| part == mode)
    }

    /// Writes a line of the log that the test reads.
    fn log(&self, call: &str) {
        if let Some(path) = std::env::var_os(LOG) {
            let mut log = OpenOptions::new().append(true).open(path).expect("the log");
            // At once: other ranks write, too.
            let line = format!("{} {} {call}\n", self.rank, std::process::id());
            log.write_all(line.as_bytes()).expect("the log is written");
        }
    }

    fn ready(&self, read_bytes: u64) -> Messages<pb::LoadEvent> {
        let ready = pb::Ready { read_bytes, can_rejoin: !self.is("mortal"), ..pb::Ready::default() };
        Box::pin(tokio_stream::once(Ok(pb::LoadEvent { event: Some(Event::Ready(ready)) })))
    }

    /// Whether something happens to this rank that happens once: in the folder of the log a file is left.
    fn strikes(&self, what: &str) -> bool {
        let log = std::env::var_os(LOG).map(std::path::PathBuf::from);
        self.is(what) && log.is_some_and(|log| File::create_new(log.with_extension(what)).is_ok())
    }

    /// Runs steps until one is odd.
    async fn run_steps(self, mut commands: Streaming<pb::WorkerCommand>, to: mpsc::UnboundedSender<Answer>) {
        if self.is("too early") {
            let _ = to.send(Ok(pb::StepResult::default()));
        }
        while let Some(Ok(command)) = commands.next().await {
            match () {
                () if self.is("ends") => return,
                () if self.is("unreadable") => {
                    let sample = pb::Sample::default();
                    let output = pb::SeqOutput { samples: vec![sample], ..pb::SeqOutput::default() };
                    let _ = to.send(Ok(pb::StepResult { outputs: vec![output], ..pb::StepResult::default() }));
                    std::future::pending::<()>().await;
                }
                () if self.rank == 1 && self.strikes("dies") => std::process::abort(),
                () if self.rank == 1 && self.strikes("differs") => drop(to.send(Ok(answer(command, 8)))),
                () if self.rank == 0 && self.strikes("fails") => {
                    let _ = to.send(Err(tonic::Status::internal("this device is broken")));
                }
                () if self.rank == 0 && self.strikes("misses") => {
                    let _ = to.send(Err(tonic::Status::aborted("rank 1 is missed")));
                }
                () => drop(to.send(Ok(answer(command, 7)))),
            }
        }
    }
}

type Answer = Result<pb::StepResult, tonic::Status>;

fn answer(command: pb::WorkerCommand, token: u32) -> pb::StepResult {
    let Command::Plan(StepPlan { step, runs, .. }) = wire::command_from_wire(command).expect("a command") else {
        panic!("nobody masks");
    };
    let score = TokenScore { logprob: -1.0, model_logprob: -1.0 };
    let sample = || Sample { token: ScoredToken { id: token, score }, top: Vec::new(), logits: Vec::new() };
    let output = |run: &SeqRun| SeqOutput { seq: run.seq, samples: vec![sample()], prompt_logprobs: Vec::new() };
    let outputs = runs.iter().filter(|run| run.sample).map(output).collect();
    wire::result_to_wire(StepResult { step, outputs, device_time_us: 0, all_reduce_time_us: None })
}

#[tonic::async_trait]
impl Worker for Odd {
    type LoadStream = Messages<pb::LoadEvent>;
    type RejoinStream = Messages<pb::LoadEvent>;
    type RunStream = Messages<pb::StepResult>;

    async fn load(&self, _: Request<pb::LoadRequest>) -> Result<Response<Self::LoadStream>, tonic::Status> {
        self.log("load");
        Ok(Response::new(self.ready(READ_BYTES)))
    }

    async fn leave(&self, _: Request<pb::LeaveRequest>) -> Result<Response<pb::LeaveReply>, tonic::Status> {
        self.log("leave");
        match () {
            () if self.is("refuses") => Err(tonic::Status::internal("it does not come to rest")),
            () if self.is("hangs") => std::future::pending().await,
            () => Ok(Response::new(pb::LeaveReply {})),
        }
    }

    async fn rejoin(&self, _: Request<pb::RejoinRequest>) -> Result<Response<Self::RejoinStream>, tonic::Status> {
        self.log("rejoin");
        if self.strikes("lost") {
            return Err(tonic::Status::aborted("rank 1 is missed again"));
        }
        Ok(Response::new(self.ready(0)))
    }

    async fn ping(&self, _: Request<pb::PingRequest>) -> Result<Response<pb::PingResponse>, tonic::Status> {
        if self.is("deaf") {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(pb::PingResponse {}))
    }

    async fn run(
        &self,
        commands: Request<Streaming<pb::WorkerCommand>>,
    ) -> Result<Response<Self::RunStream>, tonic::Status> {
        let (to, answers) = mpsc::unbounded_channel();
        tokio::spawn(self.clone().run_steps(commands.into_inner(), to));
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(answers))))
    }
}

/// Not a test of its own, but run by those of the other files, in a process: a worker.
#[tokio::test]
async fn a_worker() {
    let Ok(mode) = std::env::var(MODE) else { return };
    let rank = std::env::var(RANK).ok().and_then(|rank| rank.parse().ok()).expect("a rank");
    let socket = StdUnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().expect("a socket"));
    wire::take_over(&socket).expect("the first byte");
    socket.set_nonblocking(true).expect("a socket");
    let socket = UnixStream::from_std(socket).expect("a socket");
    let incoming = tokio_stream::once(Ok::<_, std::io::Error>(socket)).chain(tokio_stream::pending());
    let server = tonic::transport::Server::builder().add_service(WorkerServer::new(Odd { mode, rank }));
    server.serve_with_incoming(incoming).await.expect("it serves");
}

pub fn config(world: usize, restarts: RestartLimits) -> CoordinatorConfig {
    CoordinatorConfig {
        world,
        kv_blocks: 16,
        step_rows_max: 16,
        sequences_max: 4,
        steps_in_flight_max: 1,
        prefix_cache: true,
        itl_bound: None,
        step_limit: STEP_LIMIT,
        pause_limit: STEP_LIMIT,
        load_limit: LIMIT,
        restarts,
        check_invariants: true,
    }
}

/// Starts workers of a mode, which write to `log`, and waits until they are ready.
pub async fn start(config: CoordinatorConfig, mode: &str, log: Option<&Path>) -> Coordinator {
    // The coordinator's own arguments come last, where a test program would not take them: --rank R --world N.
    let script = format!("{RANK}=$2 exec \"$0\" worker::a_worker --exact --nocapture");
    let program = std::env::current_exe().expect("this program");
    let log = log.map(|path| (LOG.into(), path.into()));
    let processes = ProcessConfig {
        program: "/bin/sh".into(),
        name: "sh".into(),
        arguments: ["-c".into(), script.into(), program.into()].into(),
        environment: [(MODE.into(), mode.into())].into_iter().chain(log).collect(),
        model_dir: "/nowhere".into(),
        backend: "odd".to_owned(),
        threads_per_rank: 1,
        isa: None,
        collective_limit: LIMIT,
        rendezvous: None,
        tied: true,
        keep: Box::new(()),
    };
    let coordinator = Coordinator::start(config, Workers::Processes(Box::new(processes)), Arc::new(()));
    let mut status = coordinator.status();
    let loaded = status.wait_for(|status| !matches!(status, Status::Loading { .. }));
    let loaded = tokio::time::timeout(LIMIT, loaded).await.expect("no hang").expect("it runs").clone();
    assert!(matches!(loaded, Status::Ready { .. }), "{loaded:?}");
    coordinator
}

pub fn submission(max_new_tokens: u32) -> Submission {
    Submission {
        prompt: vec![1, 2, 3],
        max_new_tokens: max_new_tokens as usize,
        eos: Vec::new(),
        stop_token_ids: Vec::new(),
        min_tokens: 0,
        sampling: SamplingParams::GREEDY,
        priority: Priority::Normal,
        prompt_logprobs: false,
        top_n: 0,
        return_logits: false,
    }
}

/// Why it has failed.
pub async fn ended(coordinator: &Coordinator) -> String {
    match tokio::time::timeout(LIMIT, coordinator.ended()).await.expect("no hang") {
        Status::Failed { reason } => reason,
        status => panic!("{status:?}"),
    }
}
