//! Ranks that are sound go on in the next epoch, in the same process; the others are started anew.

use crate::worker::{LIMIT, config, start, submission};
use coordinator::{RestartLimits, Update};
use std::path::{Path, PathBuf};
use std::time::Duration;

const RESTARTS: RestartLimits = RestartLimits { failures_max: Some(3), window: Duration::from_secs(600) };

/// A log of the workers' calls, which is removed at the end, with all that lies beside it under its name.
struct Log(PathBuf);

impl Log {
    fn new(mode: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("coordinator-{}-{mode}", std::process::id()));
        std::fs::create_dir(&dir).expect("a folder for the log");
        std::fs::write(dir.join("log"), "").expect("the log");
        Self(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.join("log")
    }

    /// The calls of a rank, with the process of each counted from 0.
    fn calls(&self, rank: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.path()).expect("the log");
        let mut processes: Vec<&str> = Vec::new();
        let mut calls = Vec::new();
        for line in text.lines() {
            let [of, process, call] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("a line of the log: {line}")
            };
            if of == rank {
                let known = processes.iter().position(|known| *known == process).unwrap_or(processes.len());
                if known == processes.len() {
                    processes.push(process);
                }
                calls.push(format!("{known}: {call}"));
            }
        }
        calls
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What two ranks are asked while four tokens are generated, which come in any case.
async fn calls(mode: &str) -> [Vec<String>; 2] {
    let log = Log::new(mode);
    let path: &Path = &log.path();
    let coordinator = start(config(2, RESTARTS), mode, Some(path)).await;
    let mut generation = coordinator.submit(submission(4)).expect("it is ready");
    let mut tokens = Vec::new();
    while let Some(update) = tokio::time::timeout(LIMIT, generation.next()).await.expect("no hang") {
        match update {
            Update::Token { sample, .. } => tokens.push(sample.token.id),
            Update::Failed { reason } | Update::Lost { reason } => panic!("{mode}: {reason}"),
            _ => {}
        }
    }
    assert_eq!(tokens, [7; 4], "{mode}");
    coordinator.stop();
    tokio::time::timeout(LIMIT, coordinator.ended()).await.expect("no hang");
    [log.calls("0"), log.calls("1")]
}

const ANEW: [&str; 2] = ["0: load", "1: load"];
const KEPT: [&str; 3] = ["0: load", "0: leave", "0: rejoin"];

#[tokio::test]
async fn a_rank_that_lives_is_kept_where_another_dies() {
    assert_eq!(calls("dies").await, [&KEPT[..], &ANEW]);
}

#[tokio::test]
async fn a_rank_that_misses_another_is_kept() {
    // The other one has not failed either, as far as anybody knows.
    assert_eq!(calls("misses").await, [KEPT, KEPT]);
}

#[tokio::test]
async fn a_rank_with_an_error_of_its_own_is_started_anew() {
    assert_eq!(calls("fails").await, [&ANEW[..], &KEPT]);
}

#[tokio::test]
async fn ranks_that_disagree_are_all_started_anew() {
    assert_eq!(calls("differs").await, [ANEW, ANEW]);
}

#[tokio::test]
async fn a_rank_that_cannot_rejoin_is_started_anew() {
    assert_eq!(calls("dies,mortal").await, [ANEW, ANEW]);
}

#[tokio::test]
async fn a_rank_that_cannot_leave_or_hangs_is_started_anew() {
    let anew = &["0: load", "0: leave", "1: load"][..];
    assert_eq!(calls("dies,refuses").await, [anew, &ANEW]);
    assert_eq!(calls("dies,hangs").await, [anew, &ANEW]);
}

#[tokio::test]
async fn a_rank_is_kept_again_where_others_fail_while_it_rejoins() {
    let twice = &["0: load", "0: leave", "0: rejoin", "0: leave", "0: rejoin"][..];
    assert_eq!(calls("dies,lost").await, [twice, &["0: load", "1: load", "1: leave", "1: rejoin"]]);
}
