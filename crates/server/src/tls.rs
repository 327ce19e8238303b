//! TLS: certificates from files, which may change while the server runs.

use crate::follow::{FileError, Followed, NamedFile};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::{Error as PemError, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{Error as RustlsError, RootCertStore, ServerConfig};

/// What is wrong with the text of a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("it is no PEM: {0}")]
    Pem(PemError),
    #[error("it has no certificate; expected blocks of PEM that begin with -----BEGIN CERTIFICATE-----")]
    NoCertificate,
    #[error("it has no private key; expected a block of PEM that begins with -----BEGIN PRIVATE KEY-----")]
    NoKey,
    #[error("certificate and key cannot be used together: {0}")]
    Pair(RustlsError),
    #[error("a certificate in it is none: {0}")]
    Root(RustlsError),
    #[error("clients cannot be verified by it: {0}")]
    Verifier(VerifierBuilderError),
}

/// The files of a server's identity.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate, and behind it those that lead to its authority.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// Authorities of which each client must show a certificate.
    pub client_ca: Option<PathBuf>,
}

/// What a server shows its clients. It follows its files.
#[derive(Clone)]
pub struct Tls(Followed<Configs>);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

/// What is shown by each listener: they speak different protocols.
struct Configs {
    http: Arc<ServerConfig>,
    grpc: Arc<ServerConfig>,
}

impl Tls {
    /// Reads the files, and from then on whenever one changes. If they do not fit together then, what was read before stays.
    ///
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`FileError`], if a file cannot be read, or has not what it should have.
    pub fn open(files: TlsFiles) -> Result<Self, FileError> {
        let named = |flag, path| NamedFile { flag, path };
        let mut all = vec![named("--tls-cert", files.cert), named("--tls-key", files.key)];
        all.extend(files.client_ca.map(|path| named("--tls-client-ca", path)));
        Followed::start(all, configs).map(Self)
    }

    /// What is shown now.
    pub(crate) fn config(&self, http2_only: bool) -> Arc<ServerConfig> {
        let configs = self.0.newest();
        if http2_only { configs.grpc.clone() } else { configs.http.clone() }
    }
}

fn configs(files: &[NamedFile], contents: &[Vec<u8>]) -> Result<Configs, FileError> {
    let provider = Arc::new(default_provider());
    let chain = certificates(&contents[0]).map_err(|error| files[0].error(error))?;
    let key = private_key(&contents[1]).map_err(|error| files[1].error(error))?;
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.expect("the provider has what every version needs");
    let builder = match contents.get(2) {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let verifier = verifier(pem, provider).map_err(|error| files[2].error(error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let config = builder.with_single_cert(chain, key).map_err(|error| files[1].error(TlsError::Pair(error)))?;
    let speaking = |protocols: &[&str]| {
        let mut config = config.clone();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    };
    Ok(Configs { http: speaking(&["h2", "http/1.1"]), grpc: speaking(&["h2"]) })
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(TlsError::Pem)?;
    if found.is_empty() { Err(TlsError::NoCertificate) } else { Ok(found) }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        PemError::NoItemsFound => TlsError::NoKey,
        error => TlsError::Pem(error),
    })
}

/// Requires that a client shows a certificate of one of these authorities.
fn verifier(pem: &[u8], provider: Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for root in certificates(pem)? {
        roots.add(root).map_err(TlsError::Root)?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().map_err(TlsError::Verifier)
}
