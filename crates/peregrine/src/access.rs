//! Where `serve` listens, and whom it lets in.

use anyhow::{Context, Result, bail};
use clap::Args;
use server::{Keys, Listeners};
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::net::{TcpListener, lookup_host};

/// Flags of `serve` about its addresses, and who may call there.
#[derive(Args, Debug)]
pub struct AccessArgs {
    /// Where gRPC listens, as HOST:PORT.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:50051")]
    grpc_addr: String,
    /// Where HTTP listens, as HOST:PORT.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    http_addr: String,
    /// File of the keys of which callers must show one: one on each line, as KEY or NAME KEY. It is read again when it changes.
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
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
        let may_be_reached = is_guarded || self.insecure || self.api_key_file.is_some();
        let grpc = addresses("--grpc-addr", &self.grpc_addr, may_be_reached).await?;
        let http = addresses("--http-addr", &self.http_addr, may_be_reached).await?;
        Ok(Listeners {
            grpc: bind("--grpc-addr", &self.grpc_addr, &grpc).await?,
            http: bind("--http-addr", &self.http_addr, &http).await?,
        })
    }

    /// The keys of the file, if there is one.
    ///
    /// # Errors
    ///
    /// If it has none.
    pub fn keys(&self) -> Result<Option<Keys>> {
        Ok(self.api_key_file.clone().map(Keys::open).transpose()?)
    }
}

/// What `text` means, which must be this machine alone unless the server `may_be_reached`.
async fn addresses(flag: &str, text: &str, may_be_reached: bool) -> Result<Vec<SocketAddr>> {
    let found = lookup_host(text).await.with_context(|| format!("{flag} {text}: cannot listen there"))?;
    let found: Vec<_> = found.collect();
    if !may_be_reached && found.iter().any(|address| !address.ip().is_loopback()) {
        bail!(
            "{flag} {text}: other machines reach this address, and all of them could use the model. Say who may call with \
             --api-key-file FILE, or, if something in front of the server decides that, give --insecure (docs/security.md)"
        );
    }
    Ok(found)
}

async fn bind(flag: &str, text: &str, addresses: &[SocketAddr]) -> Result<TcpListener> {
    TcpListener::bind(addresses).await.with_context(|| format!("{flag} {text}: cannot listen there"))
}
