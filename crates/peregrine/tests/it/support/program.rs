//! The program, started and watched.

use super::family::{Family, MARK, Process};
use super::server::listening;
use super::{seen, within};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A call of the program, to be made.
pub struct Program {
    command: Command,
    input: Option<Vec<u8>>,
    terminal: Option<Terminal>,
    family: Family,
}

impl Program {
    /// With these arguments, each word one.
    pub fn new<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Self {
        Self::of(env!("CARGO_BIN_EXE_peregrine"), arguments)
    }

    /// Another program, or this one from another place.
    pub fn of<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = S>) -> Self {
        let family = Family::new();
        let mut command = Command::new(program);
        command.args(arguments).env(MARK, &family.mark).env("TMPDIR", family.temp.path());
        // No test asks the Hugging Face hub, or depends on what somebody has downloaded.
        command.envs([("HF_HUB_OFFLINE", "1"), ("HF_HOME", "/nonexistent")]);
        for variable in ["HF_ENDPOINT", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH"] {
            command.env_remove(variable);
        }
        command.env_remove("PEREGRINE_LOG").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // As a shell starts it, so that the group can be signalled as a terminal does.
        command.process_group(0).kill_on_drop(true);
        Self { command, input: None, terminal: None, family }
    }

    /// With this on standard input.
    pub fn input(mut self, input: &str) -> Self {
        self.input = Some(input.as_bytes().to_owned());
        self.command.stdin(Stdio::piped());
        self
    }

    /// With this as its standard input.
    pub fn stdin(mut self, from: impl Into<Stdio>) -> Self {
        self.command.stdin(from);
        self
    }

    /// With these variables in its environment.
    pub fn envs(mut self, variables: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>) -> Self {
        self.command.envs(variables);
        self
    }

    /// With its standard error there, and not kept here.
    pub fn stderr(mut self, to: impl Into<Stdio>) -> Self {
        self.command.stderr(to);
        self
    }

    /// With its standard output there, and not kept here.
    pub fn stdout(mut self, to: impl Into<Stdio>) -> Self {
        self.command.stdout(to);
        self
    }

    /// With a terminal for its input and output.
    pub fn terminal(mut self) -> Self {
        let (terminal, program) = Terminal::open();
        self.command.stdin(program.try_clone().expect("a descriptor")).stdout(program).env("TERM", "xterm");
        self.terminal = Some(terminal);
        self
    }

    /// In this folder.
    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Starts it.
    pub fn start(mut self) -> Running {
        let mut child = self.command.spawn().expect("the program starts");
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), self.input) {
            tokio::spawn(async move { stdin.write_all(&input).await });
        }
        // It holds the program's end of a terminal, whose output would not end.
        drop(self.command);
        let stdout = match &self.terminal {
            Some(terminal) => terminal.collect(),
            None => Output::collect(child.stdout.take()),
        };
        let stderr = Output::collect(child.stderr.take());
        Running { child, stdout, stderr, terminal: self.terminal, family: self.family }
    }

    /// Starts it and waits for its end.
    pub async fn run(self) -> Ended {
        self.start().end().await
    }
}

/// A program that was started. Dropping it ends it with all of its workers.
pub struct Running {
    child: Child,
    stdout: Output,
    stderr: Output,
    terminal: Option<Terminal>,
    family: Family,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it said.
    pub stdout: String,
    /// What it said besides.
    pub stderr: String,
}

impl Ended {
    /// What it said on standard output, if all went well.
    #[track_caller]
    pub fn success(self) -> String {
        assert!(self.status.success(), "{self:?}");
        self.stdout
    }

    /// What it said on standard error, if it failed by itself and said nothing on standard output.
    #[track_caller]
    pub fn failure(self) -> String {
        assert!(matches!(self.status.code(), Some(1 | 2)), "{self:?}");
        assert!(self.stdout.is_empty() && !self.stderr.contains("panicked"), "{self:?}");
        self.stderr
    }
}

impl Running {
    /// Sends a signal to the program alone.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).expect("our child has not been waited for");
    }

    /// Sends a signal to the program's process group, as a terminal does.
    pub fn signal_group(&self, signal: Signal) {
        kill_process_group(self.pid(), signal).expect("our child has not been waited for");
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        pid.expect("our child has not been waited for")
    }

    /// The ports on which it listens, once there are so many, in the order in which it opened them.
    pub async fn ports(&self, count: usize) -> Vec<u16> {
        let pid = self.pid().as_raw_nonzero().get();
        let all = || Some(listening_ports(pid)).filter(|ports| ports.len() == count);
        seen("listening sockets", all).await
    }

    /// Waits until standard error contains `text`, and returns all of it.
    pub async fn says(&mut self, text: &str) -> String {
        self.stderr.contains(text).await
    }

    /// The same, and the whole line of `text`.
    pub async fn says_line(&mut self, text: &str) -> String {
        self.stderr.has_line(text).await
    }

    /// Waits until standard output has something.
    pub async fn prints(&mut self) {
        self.stdout.contains("").await;
    }

    /// Waits until standard output contains `text`.
    pub async fn prints_text(&mut self, text: &str) {
        self.stdout.contains(text).await;
    }

    /// Types this in its terminal, once that hands over each key: until then ctrl-d is none.
    pub async fn types(&mut self, keys: &str) {
        seen("a prompt", || (!self.takes_lines()).then_some(())).await;
        self.terminal.as_mut().expect("it has a terminal").0.write_all(keys.as_bytes()).expect("it takes keys");
    }

    /// Whether the terminal hands over lines, and not each key.
    pub fn takes_lines(&self) -> bool {
        let terminal = self.terminal.as_ref().expect("it has a terminal");
        tcgetattr(&terminal.0).expect("its settings").local_modes.contains(LocalModes::ICANON)
    }

    /// The workers, in rank order, once there are `world` that load.
    pub async fn ranks(&self, world: usize) -> Vec<Process> {
        self.family.ranks(world).await
    }

    /// Waits for its end, and for that of all its processes.
    pub async fn end(mut self) -> Ended {
        let status = within("the program's end", self.child.wait()).await.expect("our child");
        let (stdout, stderr) = (self.stdout.all().await, self.stderr.all().await);
        self.family.gone().await;
        Ended { status, stdout, stderr }
    }
}

/// Ports on which a process listens over TCP on IPv4, in the order in which it opened them.
fn listening_ports(pid: i32) -> Vec<u16> {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let numbered = descriptors.filter_map(|entry| {
        let number: u32 = entry.file_name().to_str()?.parse().ok()?;
        Some((number, std::fs::read_link(entry.path()).ok()?.to_str()?.to_owned()))
    });
    let mut numbered: Vec<_> = numbered.collect();
    numbered.sort_unstable();
    let listening = listening();
    let port = |link: &str| listening.iter().find(|(_, socket)| link == format!("socket:[{socket}]"));
    numbered.iter().filter_map(|(_, link)| port(link)).map(|(port, _)| *port).collect()
}

/// Our end of a terminal.
struct Terminal(File);

impl Terminal {
    /// And the program's.
    fn open() -> (Self, File) {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&ours).and_then(|()| unlockpt(&ours)).expect("it is ours");
        let name = ptsname(&ours, Vec::new()).expect("its name").into_string().expect("UTF-8");
        (Self(ours.into()), File::options().read(true).write(true).open(name).expect("the other end"))
    }

    /// What the program writes there.
    fn collect(&self) -> Output {
        let mut from = self.0.try_clone().expect("a descriptor");
        let (to, text) = watch::channel(String::new());
        let reader = tokio::task::spawn_blocking(move || {
            let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
            // It ends with an error when the program has closed its end.
            while let Ok(count @ 1..) = from.read(&mut part) {
                bytes.extend_from_slice(&part[..count]);
                to.send_replace(String::from_utf8_lossy(&bytes).into_owned());
            }
        });
        Output { text, reader }
    }
}

/// What a program writes, as it comes.
struct Output {
    text: watch::Receiver<String>,
    reader: JoinHandle<()>,
}

impl Output {
    fn collect(from: Option<impl AsyncRead + Unpin + Send + 'static>) -> Self {
        let (to, text) = watch::channel(String::new());
        let reader = tokio::spawn(async move {
            let Some(mut from) = from else { return };
            let mut bytes = Vec::new();
            while from.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {
                to.send_replace(String::from_utf8_lossy(&bytes).into_owned());
            }
        });
        Self { text, reader }
    }

    async fn contains(&mut self, text: &str) -> String {
        self.until(text, |all| !all.is_empty() && all.contains(text)).await
    }

    /// Waits for `text` and the end of its line: a pipe may hand over a part of a line.
    async fn has_line(&mut self, text: &str) -> String {
        self.until(text, |all| all.find(text).is_some_and(|at| all[at..].contains('\n'))).await
    }

    async fn until(&mut self, text: &str, holds: impl Fn(&str) -> bool) -> String {
        let waited = within(text, self.text.wait_for(|all| holds(all))).await;
        match waited.map(|all| all.clone()) {
            Ok(all) => all,
            Err(_) => panic!("ended without {text:?}: {}", *self.text.borrow()),
        }
    }

    async fn all(&mut self) -> String {
        within("the end of an output", &mut self.reader).await.expect("no panic");
        self.text.borrow().clone()
    }
}
