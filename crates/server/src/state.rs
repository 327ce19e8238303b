//! What a server is doing, as probes, metrics, the log and its operators are told.

use crate::drain::{Drain, Turn};
use coordinator::Status;
use std::time::SystemTime;
use tokio::sync::watch;
use tracing::info;

/// What a server is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateName {
    /// The ranks read their weights.
    Loading,
    /// The ranks serve.
    Ready,
    /// The ranks have failed, and others take their place. Requests wait, and go on then.
    Recovering,
    /// No new request is taken, and those that were are finished.
    Draining,
    /// The model has failed.
    Failed,
}

impl StateName {
    /// Each of them.
    pub const ALL: [Self; 5] = [Self::Loading, Self::Ready, Self::Recovering, Self::Draining, Self::Failed];

    /// Its name, as everybody is told it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loading => "loading",
            Self::Ready => "ready",
            Self::Recovering => "recovering",
            Self::Draining => "draining",
            Self::Failed => "failed",
        }
    }
}

/// What a server is doing, and since when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// What it is doing.
    pub name: StateName,
    /// Since when.
    pub since: SystemTime,
    /// Why it does not serve, for people; `None` if it does.
    pub reason: Option<String>,
}

impl State {
    /// Since when, in seconds since 1970.
    #[must_use]
    pub fn since_unix_s(&self) -> u64 {
        self.since.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}

/// What makes a server's state, and since when it is so.
pub(crate) struct States {
    status: watch::Receiver<Status>,
    drain: Drain,
    told: watch::Receiver<State>,
}

impl States {
    /// Follows the coordinator and the drain, and says in the log what changes.
    ///
    /// Must be called within a tokio runtime.
    pub(crate) fn follow(status: watch::Receiver<Status>, drain: Drain) -> Self {
        let (tell, told) = watch::channel(state(&status.borrow(), drain.turn(), SystemTime::now()));
        tokio::spawn(tell_changes(status.clone(), drain.subscribe(), tell));
        Self { status, drain, told }
    }

    /// The state of this moment.
    pub(crate) fn now(&self) -> State {
        let now = state(&self.status.borrow(), self.drain.turn(), SystemTime::now());
        // Whoever follows may not have seen it yet.
        let told = self.told.borrow();
        if told.name == now.name { State { since: told.since, ..now } } else { now }
    }

    /// The state, now and from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<State> {
        self.told.clone()
    }
}

async fn tell_changes(
    mut status: watch::Receiver<Status>,
    mut turn: watch::Receiver<Turn>,
    tell: watch::Sender<State>,
) {
    loop {
        let mut now = state(&status.borrow_and_update(), *turn.borrow_and_update(), SystemTime::now());
        tell.send_if_modified(|told| {
            if told.name == now.name {
                now.since = told.since;
            } else {
                let why = now.reason.as_deref().unwrap_or("it serves");
                info!("the server is {}: {why}", now.name.as_str());
            }
            let has_changed = *told != now;
            *told = now;
            has_changed
        });
        tokio::select! {
            Ok(()) = status.changed() => {}
            Ok(()) = turn.changed() => {}
            // Neither can change any more.
            else => return,
        }
    }
}

fn state(status: &Status, turn: Turn, since: SystemTime) -> State {
    let (name, reason) = match status {
        Status::Failed { reason } => (StateName::Failed, Some(reason.clone())),
        Status::Draining | Status::Stopped => (StateName::Draining, Some("shutting down".to_owned())),
        _ if turn.is_on() => (StateName::Draining, Some(turn.why().to_owned())),
        Status::Loading { done, total } => (StateName::Loading, Some(format!("loading, {done} of {total} bytes"))),
        Status::Recovering { reason, .. } => {
            (StateName::Recovering, Some(format!("recovering from a failure: {reason}")))
        }
        Status::Ready { .. } => (StateName::Ready, None),
    };
    State { name, since, reason }
}
