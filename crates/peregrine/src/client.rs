//! A client of the gRPC API, over the network or within the process.

use anyhow::{Context, Result, bail};
use server::{GrpcApi, Service, first_key};
use std::path::{Path, PathBuf};
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Server};
use tonic::{Request, Status};
use tonic_health::server::HealthReporter;
use wire::generation::generation_client::GenerationClient;

/// Bytes in the pipe between a client and a server of one process.
const PIPE_BYTES: usize = 1 << 16;

/// The prompt's and all tokens' details of the longest answer, with alternatives, stay below this.
const MESSAGE_BYTES_MAX: usize = 256 << 20;

/// A client that shows a key, if it has one.
pub type Client = GenerationClient<InterceptedService<Channel, ShowKey>>;

/// Sends a key with each call.
#[derive(Clone, Debug)]
pub struct ShowKey(Option<AsciiMetadataValue>);

impl Interceptor for ShowKey {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            request.metadata_mut().insert("authorization", key.clone());
        }
        Ok(request)
    }
}

fn client(channel: InterceptedService<Channel, ShowKey>) -> Client {
    GenerationClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// A way to the server at `addr`, as HOST:PORT or a URL of http or https. By https the authorities of the file `ca` are trusted,
/// or else the system's. It shows the first key of the file `keys`.
pub async fn channel(
    addr: &str,
    ca: Option<&Path>,
    keys: Option<PathBuf>,
) -> Result<InterceptedService<Channel, ShowKey>> {
    let url = match addr.split_once("://") {
        None => format!("http://{addr}"),
        Some((scheme, _)) if ["http", "https"].contains(&&*scheme.to_ascii_lowercase()) => addr.to_owned(),
        Some((scheme, _)) => bail!("--server {addr}: {scheme} is not spoken; expected HOST:PORT, http:// or https://"),
    };
    let read = |file: &Path| std::fs::read(file).with_context(|| format!("--ca {}", file.display()));
    let pem = ca.map(read).transpose()?;
    let endpoint = wire::endpoint(url, pem.as_deref()).with_context(|| format!("--server {addr}: not an address"))?;
    let key = |file| -> Result<AsciiMetadataValue> {
        format!("Bearer {}", first_key(file)?).parse().context("a key is printable ASCII")
    };
    let key = keys.map(key).transpose()?;
    let channel = endpoint.connect().await.with_context(|| format!("--server {addr}: cannot connect"))?;
    Ok(InterceptedService::new(channel, ShowKey(key)))
}

/// A client of the server there.
pub async fn connect(addr: &str, ca: Option<&Path>, keys: Option<PathBuf>) -> Result<Client> {
    Ok(client(channel(addr, ca, keys).await?))
}

/// A client of a service in this process, over the same API that the network has.
pub async fn embed(service: Service) -> Result<Client> {
    let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
    let incoming = tokio_stream::once(Ok::<_, std::io::Error>(theirs));
    tokio::spawn(
        Server::builder()
            .add_routes(GrpcApi::new(service, None).routes(HealthReporter::new()))
            .serve_with_incoming(incoming),
    );
    Ok(client(InterceptedService::new(wire::connect_over(ours).await?, ShowKey(None))))
}
