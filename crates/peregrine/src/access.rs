//! Where `serve` listens, and whom it lets in.

use anyhow::{Context, Result, bail};
use clap::{Args, value_parser};
use server::{DEFAULT_CONNECTIONS_MAX, Keys, Listeners, Origin, Settings, Tls, TlsFiles};
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::net::{TcpListener, lookup_host};
use tracing::warn;

/// Flags of `serve` about its addresses, and who may call there.
#[derive(Args, Debug)]
pub struct AccessArgs {
    /// Where gRPC listens, as HOST:PORT.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:50051")]
    grpc_addr: String,
    /// Where HTTP listens, as HOST:PORT.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    http_addr: String,
    /// Where metrics and health are to be had without key and TLS, as HOST:PORT. /metrics is there alone then.
    #[arg(long, value_name = "ADDR")]
    metrics_addr: Option<String>,
    /// Connections of each of the addresses for gRPC and HTTP at once, at most.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CONNECTIONS_MAX as u32, value_parser = value_parser!(u32).range(1..=1 << 20))]
    max_connections: u32,
    /// Whose pages may call from a browser: SCHEME://HOST or SCHEME://HOST:PORT, or * for all. May be given several times.
    #[arg(long, value_name = "ORIGIN")]
    cors_allow_origin: Vec<Origin>,
    /// File of the keys of which callers must show one: one on each line, as KEY or NAME KEY. It is read again when it changes.
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Certificate that both listeners show, in PEM, with those that lead to its authority behind it. It is read again when it or
    /// the key changes.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key, in PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Authorities, in PEM: each client must show a certificate of one.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    /// Listen beyond this machine without a key file: something in front decides who may call.
    #[arg(long)]
    insecure: bool,
}

impl AccessArgs {
    /// Opens the listeners. `is_guarded`: what is in front of the server decides who may call it.
    ///
    /// # Errors
    ///
    /// If an address cannot be used, or anybody could call there.
    pub async fn listen(&self, is_guarded: bool) -> Result<Listeners> {
        let may_be_reached = is_guarded || self.insecure || self.api_key_file.is_some() || self.tls_client_ca.is_some();
        let grpc = addresses("--grpc-addr", &self.grpc_addr, may_be_reached).await?;
        let http = addresses("--http-addr", &self.http_addr, may_be_reached).await?;
        if self.api_key_file.is_some()
            && self.tls_cert.is_none()
            && ![&grpc, &http].into_iter().all(|found| is_local(found))
        {
            warn!("keys can be read on their way: without --tls-cert and --tls-key nothing is encrypted");
        }
        Ok(Listeners {
            grpc: bind("--grpc-addr", &self.grpc_addr, &grpc).await?,
            http: bind("--http-addr", &self.http_addr, &http).await?,
            metrics: match &self.metrics_addr {
                None => None,
                Some(text) => {
                    Some(bind("--metrics-addr", text, &addresses("--metrics-addr", text, true).await?).await?)
                }
            },
        })
    }

    /// What these flags ask of a server, all else being as usual.
    ///
    /// # Errors
    ///
    /// If a file has not what it should have.
    pub fn settings(&self) -> Result<Settings> {
        let tls = match (self.tls_cert.clone(), self.tls_key.clone()) {
            (Some(cert), Some(key)) => Some(TlsFiles { cert, key, client_ca: self.tls_client_ca.clone() }),
            _ => None,
        };
        Ok(Settings {
            keys: self.api_key_file.clone().map(Keys::open).transpose()?,
            tls: tls.map(Tls::open).transpose()?,
            cors: self.cors_allow_origin.clone(),
            connections_max: self.max_connections as usize,
            ..Settings::default()
        })
    }
}

/// What `text` means, which must be this machine alone unless the server `may_be_reached`.
async fn addresses(flag: &str, text: &str, may_be_reached: bool) -> Result<Vec<SocketAddr>> {
    let found = lookup_host(text).await.with_context(|| format!("{flag} {text}: cannot listen there"))?;
    let found: Vec<_> = found.collect();
    if !may_be_reached && !is_local(&found) {
        bail!(
            "{flag} {text}: other machines reach this address, and all of them could use the model. Say who may call with \
             --api-key-file FILE or --tls-client-ca FILE, or, if something in front of the server decides that, give --insecure (docs/security.md)"
        );
    }
    Ok(found)
}

/// Whether only this machine reaches them.
fn is_local(addresses: &[SocketAddr]) -> bool {
    addresses.iter().all(|address| address.ip().is_loopback())
}

async fn bind(flag: &str, text: &str, addresses: &[SocketAddr]) -> Result<TcpListener> {
    TcpListener::bind(addresses).await.with_context(|| format!("{flag} {text}: cannot listen there"))
}
