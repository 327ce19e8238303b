//! Connections of gRPC's clients.

use hyper_util::rt::TokioIo;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
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

/// A server at `url`, by http or https. By https the authorities of `ca` are trusted, in PEM, or else the system's.
///
/// # Errors
///
/// The transport's, if the URL is none, or the authorities cannot be read.
pub fn endpoint(url: String, ca: Option<&[u8]>) -> Result<Endpoint, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(url)?;
    if endpoint.uri().scheme_str() != Some("https") {
        return Ok(endpoint);
    }
    let tls = ClientTlsConfig::new();
    endpoint.tls_config(match ca {
        Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
        None => tls.with_native_roots(),
    })
}
