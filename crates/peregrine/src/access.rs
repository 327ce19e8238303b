//! Where `serve` listens, and whom it lets in.

use crate::supervisor::Handed;
use anyhow::{Context, Result, bail};
use clap::{Args, value_parser};
use server::{DEFAULT_CONNECTIONS_MAX, Keys, Listener, Listeners, Origin, Settings, Tls, TlsFiles};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::net::lookup_host;
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
    /// Let another process listen at the same addresses that has this flag, too: the next one, before this one ends. Connections are
    /// taken while the model is ready.
    #[arg(long)]
    reuse_port: bool,
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
    /// Opens the listeners; those that were `handed` over in place of the flags' addresses. `is_guarded`: what is in front of the
    /// server decides who may call it.
    ///
    /// # Errors
    ///
    /// If an address cannot be used, or anybody could call there.
    pub async fn listen(&self, is_guarded: bool, handed: Handed) -> Result<Listeners> {
        let may_be_reached = is_guarded || self.insecure || self.api_key_file.is_some() || self.tls_client_ca.is_some();
        let grpc = self.place("--grpc-addr", &self.grpc_addr, handed.grpc, may_be_reached).await?;
        let http = self.place("--http-addr", &self.http_addr, handed.http, may_be_reached).await?;
        let metrics = match (&self.metrics_addr, handed.metrics) {
            (None, None) => None,
            (text, handed) => {
                Some(self.place("--metrics-addr", text.as_deref().unwrap_or_default(), handed, true).await?)
            }
        };
        if self.api_key_file.is_some()
            && self.tls_cert.is_none()
            && ![&grpc, &http].iter().all(|place| place.is_local())
        {
            warn!("keys can be read on their way: without --tls-cert and --tls-key nothing is encrypted");
        }
        Ok(Listeners {
            grpc: self.open(grpc).await?,
            http: self.open(http).await?,
            metrics: match metrics {
                None => None,
                Some(metrics) => Some(self.open(metrics).await?),
            },
        })
    }

    /// What a flag with the value `text` means, unless a socket was handed over in its place. It must be this machine alone unless
    /// the server `may_be_reached`.
    async fn place<'a>(
        &self,
        flag: &'static str,
        text: &'a str,
        handed: Option<std::net::TcpListener>,
        may_be_reached: bool,
    ) -> Result<Place<'a>> {
        let addresses = match &handed {
            Some(socket) => vec![socket.local_addr()?],
            None => lookup_host(text).await.with_context(|| format!("{flag} {text}: cannot listen there"))?.collect(),
        };
        let place = Place { flag, text, addresses, handed };
        if !may_be_reached && !place.is_local() {
            bail!(
                "{place}: other machines reach this address, and all of them could use the model. Say who may call with \
                 --api-key-file FILE or --tls-client-ca FILE, or, if something in front of the server decides that, give --insecure (docs/security.md)"
            );
        }
        Ok(place)
    }

    async fn open(&self, place: Place<'_>) -> Result<Listener> {
        let cannot = format!("{place}: cannot listen there");
        let opened = match place.handed {
            Some(socket) => Listener::handed(socket),
            None if self.reuse_port => Listener::bind_shared(&place.addresses),
            None => Listener::bind(&place.addresses).await,
        };
        opened.context(cannot)
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

/// Where to listen.
struct Place<'a> {
    flag: &'static str,
    text: &'a str,
    addresses: Vec<SocketAddr>,
    handed: Option<std::net::TcpListener>,
}

impl Place<'_> {
    /// Whether only this machine reaches it.
    fn is_local(&self) -> bool {
        self.addresses.iter().all(|address| address.ip().is_loopback())
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.handed, &self.addresses[..]) {
            (Some(_), [address]) => write!(f, "{address}, which was handed over in place of {}", self.flag),
            _ => write!(f, "{} {}", self.flag, self.text),
        }
    }
}
