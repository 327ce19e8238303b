//! Accepting connections, from when the server may be asked until it takes no more.

use crate::connection::{Connection, protocol};
use crate::drain::{Drain, Opened};
use crate::listener::{HANDSHAKES_LIMIT, Listener, begin_no_handshakes};
use crate::opening::Opening;
use crate::seldom::Seldom;
use crate::state::{State, StateName};
use crate::tls::Tls;
use axum::Router;
use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto::Builder;
use std::io::{Error, ErrorKind};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

/// How long accepting pauses where it failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// How often the log says so.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// One listener.
pub(crate) struct Acceptor {
    /// For the log.
    pub(crate) name: &'static str,
    pub(crate) routes: Router,
    /// None: connections are as they are.
    pub(crate) tls: Option<Tls>,
    /// Whether it speaks HTTP/2 alone, as gRPC does.
    pub(crate) http2_only: bool,
    /// Connections at once.
    pub(crate) connections_max: usize,
    /// How long a peer may read nothing of what is written to it.
    pub(crate) stall_limit: Duration,
    pub(crate) drain: Drain,
    pub(crate) states: watch::Receiver<State>,
}

impl Acceptor {
    /// Serves until `closing` is true, or another process takes over; then takes no more connections, and waits until those that are
    /// open have got their answers.
    ///
    /// # Errors
    ///
    /// The system's, if it does not let this process listen.
    pub(crate) async fn run(self, listener: Listener, closing: watch::Receiver<bool>) -> Result<(), Error> {
        let permits = Arc::new(Semaphore::new(self.connections_max));
        tokio::select! {
            // The port is closed at its end.
            ended = self.accept_in_turn(listener, &permits, &closing) => ended?,
            () = is_true(closing.clone()) => {}
        }
        let _ = permits.acquire_many(u32::try_from(self.connections_max).unwrap_or(u32::MAX)).await;
        Ok(())
    }

    /// Accepts for as long as it is this process's turn.
    async fn accept_in_turn(
        &self,
        listener: Listener,
        permits: &Arc<Semaphore>,
        closing: &watch::Receiver<bool>,
    ) -> Result<(), Error> {
        let (is_taken_over, has_own_queue) = (listener.is_taken_over(), listener.has_own_queue());
        // Who waits in a queue is on his way: the end waits for him.
        let _queue = is_taken_over.then(|| self.drain.connection());
        let mut turn = self.drain.subscribe();
        if is_taken_over {
            tokio::select! {
                () = is_ready(self.states.clone()) => {}
                _ = turn.wait_for(|turn| turn.is_end()) => return Ok(()),
            }
        }
        let listener = listener.listen();
        let listener = listener.map_err(|e| Error::new(e.kind(), format!("{}: cannot listen: {e}", self.name)))?;
        tokio::select! {
            () = self.accept_all(&listener, is_taken_over, permits, closing) => {}
            _ = turn.wait_for(|turn| turn.is_end()), if is_taken_over => {}
        }
        if has_own_queue {
            if let Err(error) = begin_no_handshakes(&listener) {
                warn!("{}: connections may be lost while the port is closed: {error}", self.name);
            }
            let _ = timeout(HANDSHAKES_LIMIT, self.accept_all(&listener, is_taken_over, permits, closing)).await;
        }
        Ok(())
    }

    /// Accepts. `are_queued`: connections count as opened before the server's end.
    async fn accept_all(
        &self,
        listener: &TcpListener,
        are_queued: bool,
        permits: &Arc<Semaphore>,
        closing: &watch::Receiver<bool>,
    ) {
        let (protocol, log) = (Arc::new(protocol(self.http2_only)), Arc::default());
        let (most, mut trouble) = (self.connections_max, Trouble::new(self.name));
        loop {
            let permit = free(permits, &mut trouble, most).await;
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_of_connection(&error) => continue,
                Err(error) => {
                    trouble.begins(&format!("cannot accept connections, and tries again: {error}"));
                    sleep(PAUSE).await;
                    continue;
                }
            };
            trouble.is_over();
            let opened = if are_queued { self.drain.queued_connection() } else { self.drain.connection() };
            let connection = self.connection(&protocol, &log, opened);
            let closing = closing.clone();
            tokio::spawn(async move {
                connection.serve(stream, peer, closing).await;
                drop(permit);
            });
        }
    }

    fn connection(&self, protocol: &Arc<Builder<TokioExecutor>>, log: &Arc<Seldom>, opened: Opened) -> Connection {
        let tls = self.tls.as_ref().map(|tls| tls.config(self.http2_only));
        Connection {
            opening: Opening { name: self.name, tls, log: log.clone() },
            protocol: protocol.clone(),
            routes: self.routes.clone(),
            stall_limit: self.stall_limit,
            http2_only: self.http2_only,
            opened: Arc::new(opened),
        }
    }
}

/// Waits until the server is ready.
async fn is_ready(mut states: watch::Receiver<State>) {
    if states.wait_for(|state| state.name == StateName::Ready).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits until it is, or nobody is left to say so.
pub(crate) async fn is_true(mut value: watch::Receiver<bool>) {
    let _ = value.wait_for(|value| *value).await;
}

/// Waits until there may be one more connection.
async fn free(permits: &Arc<Semaphore>, trouble: &mut Trouble, most: usize) -> OwnedSemaphorePermit {
    if let Ok(permit) = permits.clone().try_acquire_owned() {
        return permit;
    }
    trouble.begins(&format!("{most} connections are open, the most there may be; others wait until one closes"));
    permits.clone().acquire_owned().await.expect("nobody closes the semaphore")
}

/// Whether it is an error of the connection that would have been accepted, and not of this process.
fn is_of_connection(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
    )
}

/// Says that accepting pauses, and that it goes on: once, however often it stutters in between.
struct Trouble {
    name: &'static str,
    warned: Option<Instant>,
    lasts: bool,
}

impl Trouble {
    fn new(name: &'static str) -> Self {
        Self { name, warned: None, lasts: false }
    }

    fn begins(&mut self, what: &str) {
        if self.warned.is_none_or(|at| at.elapsed() > WARNING_INTERVAL) {
            warn!("{}: {what}", self.name);
            self.warned = Some(Instant::now());
            self.lasts = true;
        }
    }

    fn is_over(&mut self) {
        if std::mem::take(&mut self.lasts) {
            info!("{}: accepting connections again", self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::DEFAULT_STALL_LIMIT;
    use std::net::SocketAddr;
    use std::time::SystemTime;

    #[tokio::test]
    async fn a_port_that_another_has_taken_meanwhile_is_an_error() {
        let ours = Listener::bind_shared(&[SocketAddr::from(([127, 0, 0, 1], 0))]).expect("a port");
        // Ours is bound, but nobody listens there yet.
        let theirs = Listener::bind(&[ours.local_addr().expect("an address")]).await.expect("nobody listens");
        let (_states, states) =
            watch::channel(State { name: StateName::Ready, since: SystemTime::now(), reason: None });
        let (_closing, closing) = watch::channel(false);
        let acceptor = Acceptor {
            name: "HTTP",
            routes: Router::new(),
            tls: None,
            http2_only: false,
            connections_max: 1,
            stall_limit: DEFAULT_STALL_LIMIT,
            drain: Drain::default(),
            states,
        };
        let error = acceptor.run(ours, closing).await.expect_err("another listens there");
        assert!(error.to_string().starts_with("HTTP: cannot listen: "), "{error}");
        drop(theirs);
    }
}
