//! Accepting connections.

use crate::connection::{Connection, protocol};
use crate::drain::Drain;
use crate::opening::Opening;
use crate::seldom::Seldom;
use crate::tls::Tls;
use axum::Router;
use hyper_util::rt::TokioExecutor;
use hyper_util::server::conn::auto::Builder;
use std::io::{Error, ErrorKind};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

/// How long accepting pauses where it failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// How often the log says so.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// One listener.
pub(crate) struct Acceptor {
    /// For the log.
    pub(crate) name: &'static str,
    pub(crate) listener: TcpListener,
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
}

impl Acceptor {
    /// Serves until `closing` is true; then takes no more connections, and waits until those that are open have got their
    /// answers.
    pub(crate) async fn run(self, closing: watch::Receiver<bool>) {
        let most = self.connections_max;
        let permits = Arc::new(Semaphore::new(most));
        tokio::select! {
            () = self.accept_all(&permits, &closing) => {}
            () = is_true(closing.clone()) => {}
        }
        // The port is closed before the wait.
        drop(self);
        let _ = permits.acquire_many(u32::try_from(most).unwrap_or(u32::MAX)).await;
    }

    async fn accept_all(&self, permits: &Arc<Semaphore>, closing: &watch::Receiver<bool>) {
        let (protocol, log) = (Arc::new(protocol(self.http2_only)), Arc::default());
        let (most, mut trouble) = (self.connections_max, Trouble::new(self.name));
        loop {
            let permit = free(permits, &mut trouble, most).await;
            let (stream, peer) = match self.listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_of_connection(&error) => continue,
                Err(error) => {
                    trouble.begins(&format!("cannot accept connections, and tries again: {error}"));
                    sleep(PAUSE).await;
                    continue;
                }
            };
            trouble.is_over();
            let connection = self.connection(&protocol, &log);
            let closing = closing.clone();
            tokio::spawn(async move {
                connection.serve(stream, peer, closing).await;
                drop(permit);
            });
        }
    }

    fn connection(&self, protocol: &Arc<Builder<TokioExecutor>>, log: &Arc<Seldom>) -> Connection {
        let tls = self.tls.as_ref().map(|tls| tls.config(self.http2_only));
        Connection {
            opening: Opening { name: self.name, tls, log: log.clone() },
            protocol: protocol.clone(),
            routes: self.routes.clone(),
            stall_limit: self.stall_limit,
            http2_only: self.http2_only,
            opened: Arc::new(self.drain.connection()),
        }
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
