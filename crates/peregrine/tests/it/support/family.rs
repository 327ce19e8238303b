//! All processes that one program consists of.

use super::{LIMIT, seen, within};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The environment variable with the mark.
pub const MARK: &str = "PEREGRINE_TEST_MARK";

/// The processes that carry one mark, and the folder for their temporary files.
pub struct Family {
    /// The value of [`MARK`].
    pub mark: String,
    /// Their `TMPDIR`.
    pub temp: TempDir,
}

impl Family {
    /// A mark that nothing else has.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mark = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self { mark, temp: TempDir::new().expect("a temporary folder") }
    }

    /// All of them that have not ended.
    pub fn members(&self) -> Vec<Process> {
        let pids = fs::read_dir("/proc").expect("/proc").flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(|pid| self.member(pid)).collect()
    }

    fn member(&self, pid: i32) -> Option<Process> {
        // Opened before it is looked at, so that it is what was looked at.
        let handle = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::NONBLOCK).ok()?;
        let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
        let entry = format!("{MARK}={}", self.mark);
        let marked = environment.split(|&byte| byte == 0).any(|variable| variable == entry.as_bytes());
        marked.then_some(Process { pid, handle })
    }

    /// The workers that have not ended, in no order.
    pub fn workers(&self) -> Vec<Process> {
        self.members().into_iter().filter(Process::is_worker).collect()
    }

    /// The workers, in rank order, once there are `world` of which each knows its rank.
    pub async fn ranks(&self, world: usize) -> Vec<Process> {
        let all = || {
            let mut ranked: Vec<_> = self.workers().into_iter().map(|w| Some((w.rank()?, w))).collect::<Option<_>>()?;
            ranked.sort_by_key(|(rank, _)| *rank);
            (ranked.len() == world).then_some(ranked)
        };
        seen("all workers", all).await.into_iter().map(|(_, worker)| worker).collect()
    }

    /// Waits until none is left, and looks for what they may have left behind.
    pub async fn gone(&self) {
        let all = async {
            for member in self.members() {
                member.ended().await;
            }
        };
        within("the end of all processes", all).await;
        assert!(self.members().is_empty(), "a process has started another while it ended");
        let left: Vec<_> = fs::read_dir(self.temp.path()).expect("TMPDIR").flatten().map(|e| e.path()).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        let shared = fs::read_dir("/dev/shm").into_iter().flatten().flatten();
        let named = shared.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let ours: Vec<_> = named.filter(|name| name.to_lowercase().contains("peregrine")).collect();
        assert!(ours.is_empty(), "left in /dev/shm: {ours:?}");
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let members = self.members();
            if members.is_empty() || Instant::now() > deadline {
                return;
            }
            members.iter().for_each(|member| member.signal(Signal::KILL));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A process that is not our child.
pub struct Process {
    pid: i32,
    handle: OwnedFd,
}

impl Process {
    /// Sends a signal, if the process has not ended.
    pub fn signal(&self, signal: Signal) {
        // A process that has ended is not there to be told.
        let _ = pidfd_send_signal(&self.handle, signal);
    }

    /// Waits for its end.
    pub async fn ended(&self) {
        let handle = self.handle.try_clone().expect("a descriptor");
        let limit = Timespec::try_from(LIMIT).expect("less than a century");
        // A process's handle becomes readable when it ends.
        let wait = move || poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&limit));
        let ended = tokio::task::spawn_blocking(wait).await.expect("no panic").expect("a pidfd can be waited for");
        assert_eq!(ended, 1, "process {} has not ended within {} s", self.pid, LIMIT.as_secs());
    }

    /// How many bytes of memory are its own, shared memory with other ranks included, and files not.
    pub fn memory_bytes(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("it runs");
        let kib = |key: &str| -> usize {
            let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("no {key}"));
            line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of kB")
        };
        (kib("RssAnon:") + kib("RssShmem:")) << 10
    }

    /// The words of its command line, as a list of processes shows them.
    pub fn command_line(&self) -> Vec<String> {
        let line = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        line.split(|&byte| byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    }

    /// The value of a variable of its environment.
    pub fn variable(&self, name: &str) -> Option<String> {
        let environment = fs::read(format!("/proc/{}/environ", self.pid)).unwrap_or_default();
        let mut entries = environment.split(|&byte| byte == 0).map(String::from_utf8_lossy);
        entries.find_map(|entry| Some(entry.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    fn is_worker(&self) -> bool {
        self.command_line().get(1).is_some_and(|word| word == "worker")
    }

    /// A worker's rank, by the name of the thread that owns its device.
    fn rank(&self) -> Option<usize> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid)).ok()?.flatten();
        let mut names = threads.filter_map(|thread| fs::read_to_string(thread.path().join("comm")).ok());
        names.find_map(|name| name.trim().strip_prefix("device-")?.parse().ok())
    }
}
