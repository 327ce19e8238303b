//! A client of the gRPC API, over the network or within the process.

use anyhow::{Context, Result, bail};
use server::{GrpcApi, Service};
use tonic::transport::{Channel, Endpoint, Server};
use tonic_health::server::HealthReporter;
use wire::generation::generation_client::GenerationClient;

/// Bytes in the pipe between a client and a server of one process.
const PIPE_BYTES: usize = 1 << 16;

/// The prompt's and all tokens' details of the longest answer, with alternatives, stay below this.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// A client of the server at `addr`, as HOST:PORT or http://HOST:PORT.
pub async fn connect(addr: &str) -> Result<GenerationClient<Channel>> {
    let url = match addr.split_once("://") {
        None => format!("http://{addr}"),
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("http") => addr.to_owned(),
        Some((scheme, _)) => bail!("--server {addr}: {scheme} is not spoken; expected HOST:PORT or http://HOST:PORT"),
    };
    let endpoint = Endpoint::from_shared(url).with_context(|| format!("--server {addr}: not an address"))?;
    let channel = endpoint.connect().await.with_context(|| format!("--server {addr}: cannot connect"))?;
    Ok(GenerationClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX))
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
