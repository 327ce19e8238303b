//! The worker's only connection.

use crate::device::Open;
use crate::service::Service;
use crate::{LoadError, LoadProgress, Loaded, RankSpec};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio_stream::StreamExt;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use wire::CONTROL_MESSAGE_BYTES_MAX;
use wire::control::worker_server::WorkerServer;

/// How long the coordinator has to take the last answer.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Why a worker could not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The socket.
    #[error("the coordinator's socket: {0}")]
    Socket(#[from] std::io::Error),
    /// The protocol above it.
    #[error("the coordinator's connection: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The device, or another rank. The coordinator has been told.
    #[error("{0}")]
    Step(String),
}

/// Serves the coordinator at the other end of `socket` until it closes the connection or dies. `open` opens the device that
/// a [`RankSpec`] asks for, and loads it; it runs on the thread that owns the device from then on.
///
/// # Errors
///
/// [`ServeError`], when the connection cannot be used, and when a step has failed: nothing can be run after that, and the
/// process should end at once, whatever the device is doing.
pub async fn serve(
    socket: StdUnixStream,
    open: impl FnOnce(&RankSpec, &LoadProgress) -> Result<Loaded, LoadError> + Send + 'static,
) -> Result<(), ServeError> {
    socket.set_nonblocking(true)?;
    let (closed_to, closed) = oneshot::channel();
    let (failed_to, failed) = oneshot::channel();
    let connection = Connection { stream: UnixStream::from_std(socket)?, _closed: ClosedOnDrop(Some(closed_to)) };
    let with_spec = |spec: RankSpec| -> Open { Box::new(move |progress| open(&spec, progress)) };
    let service = WorkerServer::new(Service::new(Box::new(with_spec), failed_to))
        .max_decoding_message_size(CONTROL_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(CONTROL_MESSAGE_BYTES_MAX);
    let incoming = tokio_stream::once(Ok::<_, std::io::Error>(connection)).chain(tokio_stream::pending());
    let server = Server::builder().add_service(service).serve_with_incoming_shutdown(incoming, async {
        // An error means that the sender is gone, which says the same.
        let _ = closed.await;
    });
    tokio::pin!(server);
    tokio::select! {
        served = &mut server => Ok(served?),
        Ok(error) = failed => {
            // The coordinator closes the connection when it has heard. If it does not, it will see the process end.
            let _ = tokio::time::timeout(LAST_WORDS, server).await;
            Err(ServeError::Step(error))
        }
    }
}

/// A socket that tells when the server has let go of it, which it does when the other end has closed.
struct Connection {
    stream: UnixStream,
    _closed: ClosedOnDrop,
}

struct ClosedOnDrop(Option<oneshot::Sender<()>>);

impl Drop for ClosedOnDrop {
    fn drop(&mut self) {
        if let Some(closed) = self.0.take() {
            // Nobody waits if the server has ended for another reason.
            let _ = closed.send(());
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
