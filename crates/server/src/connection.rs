//! One connection: HTTP on it within limits, and its end.

use crate::accept::is_true;
use crate::drain::{Opened, stays_none};
use crate::limits::{
    DRAIN_LINGER, HEADER_TIMEOUT, HTTP1_BUFFER_BYTES, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, PENDING_RESETS_MAX,
    PROTOCOL_HEADER_BYTES_MAX, SMALL_BODY_BYTES, STREAM_ERRORS_MAX, STREAMS_MAX,
};
use crate::opening::Opening;
use crate::socket::{Socket, set_options};
use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::{CONNECTION, HeaderValue};
use axum::http::{Request, Response, Version};
use axum::{BoxError, Router};
use futures_util::stream::{FuturesUnordered, StreamExt};
use http_body::{Frame, SizeHint};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tower::Service;

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// What a connection is served with.
pub(crate) struct Connection {
    pub(crate) opening: Opening,
    pub(crate) protocol: Arc<Builder<TokioExecutor>>,
    pub(crate) routes: Router,
    pub(crate) stall_limit: Duration,
    pub(crate) http2_only: bool,
    pub(crate) opened: Arc<Opened>,
}

impl Connection {
    /// Serves until its peer, a drain or `closing` ends it.
    pub(crate) async fn serve(self, stream: TcpStream, peer: SocketAddr, closing: watch::Receiver<bool>) {
        set_options(&stream);
        let stream = tokio::select! {
            stream = self.opening.open(stream, peer) => stream,
            // Who has not asked for anything does not hold up the end.
            () = is_true(closing.clone()) => None,
        };
        let Some(stream) = stream else { return };
        let socket = TokioIo::new(Socket::new(stream, self.stall_limit));
        let calls = Arc::new(Calls::new(self.http2_only));
        let (routes, opened) = (self.routes, self.opened.clone());
        let service =
            TowerToHyperService::new(Answering { routes, peer: Peer(peer.ip()), opened, calls: calls.clone() });
        let mut connection = pin!(self.protocol.serve_connection(socket, service));
        // Polled only when one of them is woken: the connection is, for each token.
        let mut end = FuturesUnordered::from_iter([async {
            tokio::select! {
                () = is_true(closing) => {}
                () = calls.are_drained(&self.opened) => {}
            }
        }]);
        tokio::select! {
            biased;
            // What breaks a connection is its peer's affair, and reaches the calls on it.
            _ = connection.as_mut() => return,
            _ = end.next() => {}
        }
        // HTTP/2: GOAWAY; what the peer had sent before it sees that is still answered.
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}

/// What all listeners speak, with its limits.
pub(crate) fn protocol(http2_only: bool) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HTTP1_BUFFER_BYTES)
        // An event is copied sooner than its three parts are written from where they are.
        .writev(false);
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

/// The calls of a connection.
struct Calls {
    /// Those that are being answered. Over HTTP/2 nobody counts.
    open: watch::Sender<usize>,
    /// Whether it speaks HTTP/2. Before its first call nobody knows, where both are spoken.
    http2: AtomicBool,
}

impl Calls {
    fn new(http2_only: bool) -> Self {
        Self { open: watch::Sender::default(), http2: AtomicBool::new(http2_only) }
    }

    /// Waits until a drain that began later than the connection wants it to end: at once over HTTP/2, which can say so. Over HTTP/1.1
    /// the next answer says so; it is closed by itself only when none is asked for.
    async fn are_drained(&self, opened: &Opened) {
        let (mut turn, mut open) = (opened.drain().subscribe(), self.open.subscribe());
        loop {
            let _ = turn.wait_for(|&turn| opened.is_older_than(turn)).await;
            if self.http2.load(Ordering::Relaxed) {
                return;
            }
            tokio::select! {
                () = stays_none(&mut open, DRAIN_LINGER) => return,
                _ = turn.wait_for(|turn| !turn.is_on()) => {}
            }
        }
    }
}

/// One call of a connection. It has ended when this is dropped.
struct Call(Arc<Calls>);

impl Call {
    fn begin(calls: &Arc<Calls>) -> Self {
        calls.open.send_modify(|open| *open += 1);
        Self(calls.clone())
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

/// The routes, as one connection reaches them.
#[derive(Clone)]
struct Answering {
    routes: Router,
    peer: Peer,
    opened: Arc<Opened>,
    calls: Arc<Calls>,
}

impl<B> Service<Request<B>> for Answering
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<B>>::poll_ready(&mut self.routes, cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let is_http2 = request.version() >= Version::HTTP_2;
        self.calls.http2.store(is_http2, Ordering::Relaxed);
        request.extensions_mut().insert(self.peer);
        let (answer, opened) = (self.routes.call(request), self.opened.clone());
        if is_http2 {
            return Box::pin(async move { opened.scope(answer).await });
        }
        let call = Call::begin(&self.calls);
        Box::pin(async move {
            let mut response = opened.scope(answer).await?;
            if opened.drain().turn().is_on() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response.map(|body| Body::new(CountedBody { body, _call: call })))
        })
    }
}

/// A body whose call lasts as long as it does.
struct CountedBody {
    body: Body,
    _call: Call,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
