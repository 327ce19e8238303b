//! The server, which a supervisor starts again, and its log.

use crate::support::{Program, Server};
use rustix::process::Signal;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, pipe};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// The workers of the server.
pub const RANKS: usize = 4;

/// Lines of the log that are kept for whoever looks into a run that failed.
const LINES_KEPT: usize = 200;

const FLAGS: [&str; 17] = [
    "--tensor-parallel",
    "4",
    "--threads-per-rank",
    "1",
    // So that a rank needs more memory than the coordinator.
    "--kv-tokens",
    "65536",
    "--pause-timeout",
    "3",
    "--stalled-stream-timeout",
    "10",
    // Failures are so many that the restarts would end, or take ever longer.
    "--on-failure",
    "stay",
    "--restart-window",
    "1",
    "--drain-timeout",
    "60",
    "--model",
];

/// Where a life of the server is to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// The first is 0.
    pub number: u32,
    /// Nobody has killed it yet.
    pub up: bool,
    /// Where gRPC is.
    pub grpc: SocketAddr,
    /// Where HTTP is.
    pub http: SocketAddr,
}

/// What becomes of what a server says.
#[derive(Clone, Copy, Debug)]
pub enum Reader {
    /// It is read, as long as nobody asks for a pause.
    There,
    /// The disk is full.
    DiskFull,
    /// Somebody has the pipe, and reads nothing.
    StandsStill,
}

/// How long a recovery took: until the others had ended, the back-off, and the load, in seconds.
pub type Phases = [f64; 3];

/// What the servers have said.
#[derive(Clone, Default)]
pub struct Log {
    standing: Arc<AtomicBool>,
    said: Arc<Mutex<Said>>,
}

#[derive(Default)]
struct Said {
    last: VecDeque<String>,
    recoveries: Vec<Phases>,
}

impl Log {
    /// Reads no further, or goes on.
    pub fn stand_still(&self, still: bool) {
        self.standing.store(still, Ordering::Relaxed);
    }

    /// All recoveries that it tells of.
    pub fn recoveries(&self) -> Vec<Phases> {
        self.said.lock().expect("no panic").recoveries.clone()
    }

    /// Its end.
    pub fn tail(&self) -> String {
        self.said.lock().expect("no panic").last.make_contiguous().join("\n")
    }

    /// A standard error, and what must be kept with it.
    fn open(&self, reader: Reader) -> (Stdio, Option<PipeReader>) {
        if let Reader::DiskFull = reader {
            return (File::options().write(true).open("/dev/full").expect("/dev/full").into(), None);
        }
        let (from, to) = pipe().expect("a pipe");
        match reader {
            Reader::StandsStill => (to.into(), Some(from)),
            Reader::There | Reader::DiskFull => {
                let log = self.clone();
                std::thread::spawn(move || log.read(from));
                (to.into(), None)
            }
        }
    }

    fn read(&self, from: PipeReader) {
        for line in BufReader::with_capacity(512, from).lines().map_while(Result::ok) {
            let mut said = self.said.lock().expect("no panic");
            said.recoveries.extend(phases(&line));
            // The others are there to fill pipes.
            if !line.contains(" DEBUG ") {
                said.last.push_back(line);
            }
            if said.last.len() > LINES_KEPT {
                said.last.pop_front();
            }
            drop(said);
            while self.standing.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// What a line says of a recovery.
fn phases(line: &str) -> Option<Phases> {
    let (_, parts) = line.split_once("the ranks serve again after ")?.1.split_once(": ")?;
    let mut seconds = parts.split(", ").map(|part| part.split(' ').next()?.parse().ok());
    Some([seconds.next()??, seconds.next()??, seconds.next()??])
}

/// Starts the server again after its end.
pub struct Supervisor {
    model: PathBuf,
    /// What the servers say.
    pub log: Log,
    life: watch::Sender<Life>,
    server: Option<Server>,
    /// The reader of the log that reads nothing.
    unread: Option<PipeReader>,
}

impl Supervisor {
    /// With a first server, of this model.
    pub async fn start(model: &Path) -> Self {
        let log = Log::default();
        let (server, unread) = serve(model, &log, Reader::There).await;
        let life = watch::Sender::new(Life { number: 0, up: true, grpc: server.grpc, http: server.http });
        Self { model: model.to_owned(), log, life, server: Some(server), unread }
    }

    /// The server that runs.
    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("one runs between two calls")
    }

    /// Where it is, now and later.
    pub fn life(&self) -> watch::Receiver<Life> {
        self.life.subscribe()
    }

    /// Kills the coordinator, and its workers too if that is asked for; sees that each process has ended; starts another.
    pub async fn kill(&mut self, workers_too: bool, reader: Reader) {
        let server = self.server.take().expect("one runs between two calls");
        let workers = server.ranks(RANKS).await;
        // Callers must know before they notice.
        self.life.send_modify(|life| life.up = false);
        server.signal(Signal::KILL);
        if workers_too {
            workers.iter().for_each(|worker| worker.signal(Signal::KILL));
        }
        server.end().await;
        let (server, unread) = serve(&self.model, &self.log, reader).await;
        let next = |life: &mut Life| {
            *life = Life { number: life.number + 1, up: true, grpc: server.grpc, http: server.http };
        };
        self.life.send_modify(next);
        (self.server, self.unread) = (Some(server), unread);
    }

    /// Ends the last server as its users do.
    pub async fn stop(mut self) {
        self.server.take().expect("one runs between two calls").stop().await;
    }
}

async fn serve(model: &Path, log: &Log, reader: Reader) -> (Server, Option<PipeReader>) {
    let (stderr, unread) = log.open(reader);
    let model = model.to_str().expect("UTF-8");
    let program = Program::new(Server::arguments(FLAGS.iter().chain([&model]))).stderr(stderr);
    // It says more than the pipe holds while nobody reads it.
    let program = program.envs([("PEREGRINE_LOG", "debug")]);
    (Server::unheard(program).await, unread)
}
