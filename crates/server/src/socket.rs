//! An accepted connection, with time limits for what HTTP's own do not cover.

use crate::limits::{HEADER_TIMEOUT, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT};
use socket2::{SockRef, TcpKeepalive};
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

/// With what an HTTP/2 connection begins. Until it is there, or something else, neither protocol's limits hold.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection as HTTP sees it: as it is, or within TLS.
pub(crate) type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Sets the options of a connection.
pub(crate) fn set_options(stream: &TcpStream) {
    let keepalive =
        TcpKeepalive::new().with_time(KEEPALIVE_INTERVAL).with_interval(KEEPALIVE_TIMEOUT / 2).with_retries(2);
    // Without these answers are slower, and peers that have vanished are found later; nothing is less right.
    let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive);
    // Tokens are small messages, which must not wait for the acknowledgement of the one before.
    let _ = stream.set_nodelay(true);
}

/// A connection that must begin with HTTP in time, and whose reader must not stand still.
pub(crate) struct Socket {
    stream: Stream,
    /// How much of the preface has come, and until when the rest, or something else, must be there. `None` from then on.
    opening: Option<(usize, Pin<Box<Sleep>>)>,
    /// Runs while the peer takes nothing of what is to be written.
    stalled: Option<Pin<Box<Sleep>>>,
    stall_limit: Duration,
}

impl Socket {
    pub(crate) fn new(stream: Stream, stall_limit: Duration) -> Self {
        let opening = Some((0, Box::pin(sleep(HEADER_TIMEOUT))));
        Self { stream, opening, stalled: None, stall_limit }
    }

    /// Notes what was read while the connection opens.
    fn opened_with(&mut self, read: &[u8]) {
        let Some((seen, _)) = &mut self.opening else { return };
        let rest = &PREFACE[*seen..];
        if read.is_empty() || read.len() >= rest.len() || !rest.starts_with(read) {
            self.opening = None;
        } else {
            *seen += read.len();
        }
    }

    /// Turns a wait for the peer into an error once it has taken nothing for the limit.
    fn written<T>(&mut self, cx: &mut Context<'_>, written: Poll<Result<T>>) -> Poll<Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(self.stall_limit)));
        stalled.as_mut().poll(cx).map(|()| Err(Error::new(ErrorKind::TimedOut, "the peer reads nothing")))
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if read.is_ready() {
            this.opened_with(&buffer.filled()[before..]);
        } else if let Some((_, limit)) = &mut this.opening
            && limit.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "no HTTP within the limit")));
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.written(cx, written)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, parts);
        this.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // TLS holds back what the peer does not take, and sends it here.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.written(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let this = self.get_mut();
        let ended = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.written(cx, ended)
    }
}
