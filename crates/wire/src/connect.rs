//! gRPC over a stream that is connected already.

use hyper_util::rt::TokioIo;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

/// A channel over `stream`, and no other: when that ends, so do the calls.
///
/// # Errors
///
/// The transport's, where the stream has ended already.
pub async fn connect_over<S>(stream: S) -> Result<Channel, tonic::transport::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut stream = Some(stream);
    let connector = service_fn(move |_| {
        let gone = || io::Error::new(io::ErrorKind::NotConnected, "the other end is gone");
        std::future::ready(stream.take().map(TokioIo::new).ok_or_else(gone))
    });
    Endpoint::from_static("http://connected").connect_with_connector(connector).await
}
