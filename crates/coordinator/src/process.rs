//! One worker process.

use crate::event::RankSender;
use crate::fleet::{RankEvent, RankMemory, Ready};
use crate::process_seen::process_seen;
use crate::worker_log::{LastWords, pass_on};
use crate::{CoordinatorConfig, ProcessConfig};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::signal::unix::SignalKind;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};
use tracing::info;
use wire::CONTROL_MESSAGE_BYTES_MAX;
use wire::control::worker_client::WorkerClient;
use wire::control::{self as pb, load_event};

/// How long a worker may take to end by itself after its connection has been closed.
const END_GRACE: Duration = Duration::from_secs(5);

/// How long its last words may take to come once it has ended. Whoever inherited its output may keep that open for ever.
const LAST_WORDS_GRACE: Duration = Duration::from_secs(1);

/// Signals that somebody sends. Of others the process is the cause itself. (tokio has no name for the ninth, SIGKILL, which is the
/// out-of-memory killer's, too.)
const FROM_OUTSIDE: [SignalKind; 5] = [
    SignalKind::from_raw(9),
    SignalKind::terminate(),
    SignalKind::interrupt(),
    SignalKind::hangup(),
    SignalKind::quit(),
];

/// A worker process with its connection. Dropping it closes the connection, at which the worker ends itself.
pub(crate) struct WorkerProcess {
    /// Of the epoch in which it takes part.
    events: RankSender,
    /// Who hears of its end; `None` once it has ended.
    heir: Arc<Mutex<Option<RankSender>>>,
    client: WorkerClient<Channel>,
    /// Dropped or used to end the process: at once if used.
    end: oneshot::Sender<()>,
    /// `None` if the process had ended at once.
    pid: Option<u32>,
    last_words: LastWords,
}

impl WorkerProcess {
    /// Starts the process and connects to it. Its end will be an event of the rank, if no error is returned.
    pub(crate) async fn start(
        config: &ProcessConfig,
        rendezvous: Option<&OwnedFd>,
        world: usize,
        events: RankSender,
    ) -> std::io::Result<Self> {
        let rank = events.rank;
        let (ours, theirs) = StdUnixStream::pair()?;
        wire::hand_over(&ours, rendezvous.map(AsFd::as_fd))?;
        let (output, output_to) = std::io::pipe()?;
        let child = Command::new(&config.program)
            .arg0(&config.name)
            .args(&config.arguments)
            .args(["--rank", &rank.to_string(), "--world", &world.to_string()])
            .envs(config.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            // Libraries say there what the log should have.
            .stdout(output_to.try_clone()?)
            .stderr(output_to)
            // A ctrl-c at the terminal is for the coordinator, which lets the workers finish first.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                let program = config.program.display();
                std::io::Error::new(error.kind(), format!("cannot start {program}: {error}"))
            })?;
        let (end, ended) = oneshot::channel();
        let (pid, last_words) = (child.id(), LastWords::default());
        if let Some(pid) = pid {
            info!("rank {rank} of {world} is process {pid}");
        }
        let output = pipe::Receiver::from_owned_fd(output.into())?;
        ours.set_nonblocking(true)?;
        let channel = wire::connect_over(UnixStream::from_std(ours)?).await.map_err(std::io::Error::other)?;
        let client = WorkerClient::new(channel).max_decoding_message_size(CONTROL_MESSAGE_BYTES_MAX);
        let client = client.max_encoding_message_size(CONTROL_MESSAGE_BYTES_MAX);
        // From here on its end is an event.
        let reader = tokio::spawn(pass_on(output, rank, last_words.clone()));
        let heir = Arc::new(Mutex::new(Some(events.clone())));
        tokio::spawn(watch_process(child, ended, heir.clone(), reader, last_words.clone()));
        Ok(Self { events, heir, client, end, pid, last_words })
    }

    pub(crate) fn rank(&self) -> usize {
        self.events.rank
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// From now on it takes part in the epoch of `events`. `None` if it has ended.
    pub(crate) fn adopt(mut self, events: RankSender) -> Option<Self> {
        let heir = Arc::clone(&self.heir);
        heir.lock().unwrap_or_else(PoisonError::into_inner).as_mut()?.clone_from(&events);
        self.events = events;
        Some(self)
    }

    /// Asks the rank to leave the others; its answer becomes an event.
    pub(crate) fn leave(&self) {
        let (events, mut client) = (self.events.clone(), self.client.clone());
        tokio::spawn(async move {
            let left = client.leave(pb::LeaveRequest {}).await;
            events.event(RankEvent::Left(left.map(|_| ()).map_err(|status| status.message().to_owned())));
        });
    }

    /// Asks the rank, which has left, to rejoin; what it says becomes events, as with [`WorkerProcess::load`].
    pub(crate) fn rejoin(&self) {
        let (events, mut client) = (self.events.clone(), self.client.clone());
        tokio::spawn(async move { report(client.rejoin(pb::RejoinRequest {}).await, &events).await });
    }

    /// Asks the rank to load; what it says about it becomes events, until it is ready or has failed.
    pub(crate) fn load(&self, request: pb::LoadRequest) {
        let (events, mut client) = (self.events.clone(), self.client.clone());
        tokio::spawn(async move { report(client.load(request).await, &events).await });
    }

    /// Opens the stream of steps; results and errors become events.
    pub(crate) fn run(&self) -> mpsc::UnboundedSender<pb::WorkerCommand> {
        // As many plans as there may be in flight.
        let (commands, commands_from) = mpsc::unbounded_channel();
        let (events, mut client) = (self.events.clone(), self.client.clone());
        tokio::spawn(async move {
            let mut results = match client.run(UnboundedReceiverStream::new(commands_from)).await {
                Ok(response) => response.into_inner(),
                Err(status) => return events.event(error_event(&status)),
            };
            while let Some(message) = results.next().await {
                let result = message.map_err(|status| error_event(&status));
                match result.and_then(|r| wire::result_from_wire(r).map_err(|e| RankEvent::Error(e.to_string()))) {
                    Ok(result) => events.result(result),
                    Err(event) => return events.event(event),
                }
            }
            // A coordinator that ends its epoch does not listen any more.
            events.event(RankEvent::Lost("it ended its stream of steps without a word".to_owned()));
        });
        commands
    }

    /// Asks whether its device's thread still takes work; the answer is an event.
    pub(crate) fn ping(&self) {
        let (events, mut client) = (self.events.clone(), self.client.clone());
        tokio::spawn(async move {
            // An error is the connection's, whose end is an event, too.
            if client.ping(pb::PingRequest {}).await.is_ok() {
                events.pong();
            }
        });
    }

    /// Whether a signal has stopped the process.
    pub(crate) fn is_stopped(&self) -> bool {
        self.pid.is_some_and(timeouts::is_stopped)
    }

    /// What can be told of it without asking it: its process, and what it said last.
    pub(crate) fn seen(&self) -> String {
        let process = self.pid.map_or_else(|| "ended".to_owned(), |pid| process_seen(pid, self.events.rank));
        match &*self.last_words.text() {
            "" => format!("({process}; it has said nothing)"),
            words => format!("({process}; it said last: {words})"),
        }
    }

    /// Kills the process.
    pub(crate) fn kill(self) {
        // If nobody listens, the process has ended.
        let _ = self.end.send(());
    }
}

/// What a rank is asked to load.
pub(crate) fn load_request(config: &CoordinatorConfig, processes: &ProcessConfig, rank: usize) -> pb::LoadRequest {
    let narrow = |size: usize| u32::try_from(size).expect("sizes are limited where they are given");
    pb::LoadRequest {
        model_dir: processes.model_dir.as_os_str().as_bytes().to_vec(),
        tied: processes.tied,
        backend: processes.backend.clone(),
        rank: narrow(rank),
        world: narrow(config.world),
        kv_blocks: config.kv_blocks,
        step_rows_max: narrow(config.step_rows_max),
        collective_limit_ms: u32::try_from(processes.collective_limit.as_millis()).unwrap_or(u32::MAX),
        step_limit_ms: u32::try_from(config.step_limit.as_millis()).unwrap_or(u32::MAX),
        threads: narrow(processes.threads_per_rank),
        isa: processes.isa.clone().unwrap_or_default(),
    }
}

/// Makes events of what a rank says until it is ready or has failed.
async fn report(answer: Result<Response<Streaming<pb::LoadEvent>>, Status>, events: &RankSender) {
    let mut stream = match answer {
        Ok(response) => response.into_inner(),
        Err(status) => return events.event(error_event(&status)),
    };
    while let Some(message) = stream.next().await {
        match message.map(|message| message.event) {
            Ok(Some(load_event::Event::Progress(pb::LoadProgress { bytes_done, bytes_total }))) => {
                events.event(RankEvent::Progress { done: bytes_done, total: bytes_total });
            }
            Ok(Some(load_event::Event::Ready(ready))) => {
                let pb::Ready { weight_bytes, kv_bytes, checksums, read_bytes, can_rejoin } = ready;
                events.read(checksums);
                let memory = RankMemory { weight_bytes, kv_bytes };
                return events.event(RankEvent::Ready(Ready { memory, read_bytes, can_rejoin }));
            }
            Ok(None) => {}
            Err(status) => return events.event(error_event(&status)),
        }
    }
    events.event(RankEvent::Lost("it ended the load without a word".to_owned()));
}

/// What a rank says itself comes as a status of these codes; all else is the connection's.
fn error_event(status: &Status) -> RankEvent {
    match status.code() {
        Code::Aborted if std::error::Error::source(status).is_none() => RankEvent::Misses(status.message().to_owned()),
        Code::Internal | Code::InvalidArgument if std::error::Error::source(status).is_none() => {
            RankEvent::Error(status.message().to_owned())
        }
        _ => RankEvent::Lost(status.message().to_owned()),
    }
}

/// Waits for the end of the process and reports it. `end` used means: kill it; dropped: let it end by itself, for a while.
async fn watch_process(
    mut child: Child,
    end: oneshot::Receiver<()>,
    heir: Arc<Mutex<Option<RankSender>>>,
    output: JoinHandle<()>,
    last_words: LastWords,
) {
    let status = tokio::select! {
        status = child.wait() => status,
        order = end => {
            let by_itself = match order {
                Ok(()) => None,
                Err(_) => tokio::time::timeout(END_GRACE, child.wait()).await.ok(),
            };
            match by_itself {
                Some(status) => status,
                None => {
                    // It fails only if the process has ended, which the wait will tell.
                    let _ = child.start_kill();
                    child.wait().await
                }
            }
        }
    };
    let killed = status.as_ref().is_ok_and(was_killed);
    let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
    // Without its last words, or with some of them only, there is less to tell.
    let _ = tokio::time::timeout(LAST_WORDS_GRACE, output).await;
    if let Some(events) = heir.lock().unwrap_or_else(PoisonError::into_inner).take() {
        events.event(RankEvent::Exited { status, killed, last_words: last_words.text() });
    }
}

/// Whether the process ended by what is done to it from outside: a signal that somebody sent, or a file that cannot be read.
fn was_killed(status: &ExitStatus) -> bool {
    let sent = status.signal().is_some_and(|signal| FROM_OUTSIDE.contains(&SignalKind::from_raw(signal)));
    sent || status.code() == Some(wire::FILE_FAULT_EXIT_CODE)
}
