//! A client of the gRPC API, over the network or within the process.

use anyhow::{Context, Result, bail};
use server::{GrpcApi, Service, first_key};
use std::path::{Path, PathBuf};
use tonic::Request;
use tonic::transport::{Channel, Server};
use tonic_health::server::HealthReporter;
use wire::generation::generation_client::GenerationClient;

/// Bytes in the pipe between a client and a server of one process.
const PIPE_BYTES: usize = 1 << 16;

/// The prompt's and all tokens' details of the longest answer, with alternatives, stay below this.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// A client of the server at `addr`, as HOST:PORT or a URL of http or https. By https the authorities of the file `ca` are trusted,
/// or else the system's.
pub async fn connect(addr: &str, ca: Option<&Path>) -> Result<GenerationClient<Channel>> {
    let url = match addr.split_once("://") {
        None => format!("http://{addr}"),
        Some((scheme, _)) if ["http", "https"].contains(&&*scheme.to_ascii_lowercase()) => addr.to_owned(),
        Some((scheme, _)) => bail!("--server {addr}: {scheme} is not spoken; expected HOST:PORT, http:// or https://"),
    };
    let read = |file: &Path| std::fs::read(file).with_context(|| format!("--ca {}", file.display()));
    let pem = ca.map(read).transpose()?;
    let endpoint = wire::endpoint(url, pem.as_deref()).with_context(|| format!("--server {addr}: not an address"))?;
    let channel = endpoint.connect().await.with_context(|| format!("--server {addr}: cannot connect"))?;
    Ok(GenerationClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
}

/// Sends the first key of a file with the request.
pub fn show_key<T>(request: &mut Request<T>, file: PathBuf) -> Result<()> {
    let key = format!("Bearer {}", first_key(file)?);
    request.metadata_mut().insert("authorization", key.parse().context("a key is printable ASCII")?);
    Ok(())
}

/// A client of a service in this process, over the same API that the network has.
pub async fn embed(service: Service) -> Result<GenerationClient<Channel>> {
    let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
    let incoming = tokio_stream::once(Ok::<_, std::io::Error>(theirs));
    tokio::spawn(
        Server::builder()
            .add_routes(GrpcApi::new(service, None).routes(HealthReporter::new()))
            .serve_with_incoming(incoming),
    );
    Ok(GenerationClient::new(wire::connect_over(ours).await?).max_decoding_message_size(MESSAGE_BYTES_MAX))
}
