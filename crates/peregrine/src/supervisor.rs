//! The supervisor that has started this process, such as systemd: what it hands over, and what it is told.

use anyhow::{Context, Result, bail, ensure};
use listenfd::ListenFd;
use sd_notify::NotifyState;
use server::{Service, State, StateName};
use socket2::SockRef;
use std::net::TcpListener;
use std::time::Duration;
use tracing::warn;

/// How often a supervisor that waits for something is told that it comes.
const INTERVAL: Duration = Duration::from_secs(5);

/// How long it then waits for the next word.
const EXTENSION: Duration = Duration::from_secs(60);

/// Sockets that were handed over, as by systemd's socket activation.
#[derive(Debug, Default)]
pub struct Handed {
    /// For gRPC.
    pub grpc: Option<TcpListener>,
    /// For HTTP.
    pub http: Option<TcpListener>,
    /// For metrics.
    pub metrics: Option<TcpListener>,
}

impl Handed {
    /// Takes them from where the variables `LISTEN_FDS` and `LISTEN_FDNAMES` say, which are for the first who asks. To be called
    /// before other threads are started.
    ///
    /// # Errors
    ///
    /// If a socket has an unknown name, or is none to accept connections from.
    pub fn take() -> Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut sockets = ListenFd::from_env();
        let taken = (0..sockets.len()).map(|index| {
            let name = names.split(':').nth(index).unwrap_or_default();
            let socket = sockets.take_tcp_listener(index).with_context(|| format!("the socket {name:?}"))?;
            Ok((name, socket.context("a socket is handed over once")?))
        });
        Self::named(taken.collect::<Result<Vec<_>>>()?)
    }

    fn named<'a>(sockets: impl IntoIterator<Item = (&'a str, TcpListener)>) -> Result<Self> {
        let mut handed = Self::default();
        for (name, socket) in sockets {
            let place = match name {
                "grpc" => &mut handed.grpc,
                "http" => &mut handed.http,
                "metrics" => &mut handed.metrics,
                other => bail!(
                    "a socket is handed over as {other:?} (LISTEN_FDNAMES, systemd's FileDescriptorName=); expected grpc, http or \
                     metrics"
                ),
            };
            let listens = SockRef::from(&socket).is_listener().unwrap_or(false);
            ensure!(listens, "the socket that is handed over as {name} does not listen (systemd: Accept=no)");
            ensure!(place.replace(socket).is_none(), "two sockets are handed over as {name}");
        }
        Ok(handed)
    }
}

/// Tells the supervisor from now on how the server is, and that it is alive, if there is one that wants to know.
///
/// Must be called within a tokio runtime.
pub fn tell(service: &Service) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    tokio::spawn(tell_states(service.clone()));
    if let Some(limit) = sd_notify::watchdog_enabled() {
        tokio::spawn(feed_watchdog(limit / 2));
    }
}

/// Tells the supervisor, if there is one, that the start takes longer, and why. To be called again before a minute has passed.
pub async fn tell_that_it_starts(status: &str) {
    if std::env::var_os("NOTIFY_SOCKET").is_some() {
        notify(vec![format!("STATUS={status}"), extension()]).await;
    }
}

fn extension() -> String {
    format!("EXTEND_TIMEOUT_USEC={}", EXTENSION.as_micros())
}

async fn tell_states(service: Service) {
    let (mut states, mut was_ready, mut told) = (service.state_changes(), false, None);
    loop {
        let (state, ending) = (states.borrow_and_update().clone(), service.is_ending());
        was_ready |= state.name == StateName::Ready;
        let waits = ending || !was_ready;
        let news = Some((state.name, state.reason.clone(), ending));
        if waits || news != told {
            notify(message(&state, ending, was_ready).into_iter().chain(waits.then(extension)).collect()).await;
            told = news;
        }
        let changed = states.wait_for(|now| now.name != state.name || service.is_ending() != ending);
        tokio::select! {
            changed = changed => if changed.is_err() { return },
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

/// What is said of a state.
fn message(state: &State, ending: bool, was_ready: bool) -> Vec<String> {
    let signals = match state.name {
        _ if ending => vec![NotifyState::Stopping],
        // It wants to know when that began.
        StateName::Recovering if was_ready => {
            let now = NotifyState::monotonic_usec_now().ok();
            std::iter::once(NotifyState::Reloading).chain(now).collect()
        }
        StateName::Ready | StateName::Draining if was_ready => vec![NotifyState::Ready],
        _ => Vec::new(),
    };
    let status = state.reason.as_deref().unwrap_or("serving").replace('\n', " ");
    signals.iter().map(ToString::to_string).chain([format!("STATUS={}: {status}", state.name.as_str())]).collect()
}

/// Says that the process goes on, as long as it does.
async fn feed_watchdog(interval: Duration) {
    loop {
        notify(vec![NotifyState::Watchdog.to_string()]).await;
        tokio::time::sleep(interval).await;
    }
}

/// A supervisor that does not read may block whoever tells it something.
async fn notify(lines: Vec<String>) {
    let told = tokio::task::spawn_blocking(move || sd_notify::notify(&[NotifyState::Custom(&lines.join("\n"))])).await;
    if let Ok(Err(error)) = told {
        warn!("the supervisor cannot be told (NOTIFY_SOCKET): {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    fn said(name: StateName, reason: Option<&str>, ending: bool, was_ready: bool) -> Vec<String> {
        let state = State { name, since: SystemTime::now(), reason: reason.map(str::to_owned) };
        let mut lines = message(&state, ending, was_ready);
        lines.retain(|line| !line.starts_with("MONOTONIC_USEC="));
        lines
    }

    #[test]
    fn states_have_the_words_of_the_protocol() {
        use StateName::{Draining, Loading, Ready, Recovering};
        let loading = said(Loading, Some("loading, 1 of 2 bytes"), false, false);
        assert_eq!(loading, ["STATUS=loading: loading, 1 of 2 bytes"]);
        assert_eq!(said(Ready, None, false, true), ["READY=1", "STATUS=ready: serving"]);
        assert_eq!(said(Recovering, Some("a\nb"), false, true), ["RELOADING=1", "STATUS=recovering: a b"]);
        assert_eq!(said(Recovering, Some("a"), false, false), ["STATUS=recovering: a"], "it has never been ready");
        assert_eq!(said(Draining, Some("by hand"), false, true), ["READY=1", "STATUS=draining: by hand"]);
        assert_eq!(said(Draining, Some("x"), true, true), ["STOPPING=1", "STATUS=draining: x"]);
    }

    #[test]
    fn sockets_are_known_by_their_names() {
        let socket = || TcpListener::bind("127.0.0.1:0").expect("a port");
        let handed = Handed::named([("http", socket()), ("grpc", socket())]).expect("both are known");
        assert!(handed.http.is_some() && handed.grpc.is_some() && handed.metrics.is_none());
        for (sockets, error) in [
            (vec![("http", socket()), ("http", socket())], "two sockets are handed over as http"),
            (vec![("peregrine.socket", socket())], "expected grpc, http or metrics"),
            (vec![("", socket())], "expected grpc, http or metrics"),
        ] {
            let message = Handed::named(sockets).expect_err("it cannot be used").to_string();
            assert!(message.contains(error), "{message}");
        }
        let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        let message = Handed::named([("http", silent.into())]).expect_err("it does not listen").to_string();
        assert!(message.contains("does not listen"), "{message}");
    }
}
