//! Accepting connections, and serving HTTP on them within limits.

use crate::limits::{
    HEADER_TIMEOUT, HTTP1_BUFFER_BYTES, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, PENDING_RESETS_MAX,
    PROTOCOL_HEADER_BYTES_MAX, SMALL_BODY_BYTES, STREAM_ERRORS_MAX, STREAMS_MAX,
};
use crate::opening::Opening;
use crate::seldom::Seldom;
use crate::socket::{Socket, set_options};
use crate::tls::Tls;
use axum::{Extension, Router};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use std::io::{Error, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep};
use tower::Layer;
use tracing::{info, warn};

/// How long accepting pauses where it failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// How often the log says so.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) IpAddr);

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
}

impl Acceptor {
    /// Serves until `closing` is true; then takes no more connections, and waits until those that are open have got their
    /// answers.
    pub(crate) async fn run(self, closing: watch::Receiver<bool>) {
        let graceful = GracefulShutdown::new();
        tokio::select! {
            () = self.accept_all(&graceful, &closing) => {}
            () = is_true(closing.clone()) => {}
        }
        // The port is closed before the wait.
        drop(self);
        graceful.shutdown().await;
    }

    async fn accept_all(&self, graceful: &GracefulShutdown, closing: &watch::Receiver<bool>) {
        let (protocol, log) = (Arc::new(protocol(self.http2_only)), Arc::default());
        let most = self.connections_max;
        let (permits, mut trouble) = (Arc::new(Semaphore::new(most)), Trouble::new(self.name));
        loop {
            let permit = free(&permits, &mut trouble, most).await;
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
            let connection = self.connection(&protocol, graceful.watcher(), &log);
            let closing = closing.clone();
            tokio::spawn(async move {
                connection.serve(stream, peer, closing).await;
                drop(permit);
            });
        }
    }

    fn connection(&self, protocol: &Arc<Builder<TokioExecutor>>, watcher: Watcher, log: &Arc<Seldom>) -> Connection {
        let tls = self.tls.as_ref().map(|tls| tls.config(self.http2_only));
        Connection {
            opening: Opening { name: self.name, tls, log: log.clone() },
            protocol: protocol.clone(),
            routes: self.routes.clone(),
            stall_limit: self.stall_limit,
            watcher,
        }
    }
}

/// What a connection is served with.
struct Connection {
    opening: Opening,
    protocol: Arc<Builder<TokioExecutor>>,
    routes: Router,
    stall_limit: Duration,
    watcher: Watcher,
}

impl Connection {
    async fn serve(self, stream: TcpStream, peer: SocketAddr, closing: watch::Receiver<bool>) {
        set_options(&stream);
        let opened = tokio::select! {
            opened = self.opening.open(stream, peer) => opened,
            // Who has not asked for anything does not hold up the end.
            () = is_true(closing) => None,
        };
        let Some(stream) = opened else { return };
        let socket = TokioIo::new(Socket::new(stream, self.stall_limit));
        let service = TowerToHyperService::new(Extension(Peer(peer.ip())).layer(self.routes));
        let connection = self.protocol.serve_connection(socket, service);
        // What breaks a connection is its peer's affair, and reaches the calls on it.
        let _ = self.watcher.watch(connection).await;
    }
}

/// Waits until it is, or nobody is left to say so.
async fn is_true(mut value: watch::Receiver<bool>) {
    let _ = value.wait_for(|value| *value).await;
}

/// What both listeners speak, with its limits.
fn protocol(http2_only: bool) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(HTTP1_BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(STREAM_ERRORS_MAX)
        .max_header_list_size(PROTOCOL_HEADER_BYTES_MAX as u32)
        // What streams may send before they are read must fit the connection's window: else those that wait would hold up others.
        .initial_stream_window_size(SMALL_BODY_BYTES as u32)
        .initial_connection_window_size(STREAMS_MAX * SMALL_BODY_BYTES as u32);
    if http2_only { builder.http2_only() } else { builder }
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
