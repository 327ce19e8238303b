//! A private authority, whom it vouches for, and who trusts it.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;
use tokio::net::{TcpStream, ToSocketAddrs};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

/// An authority of this test alone.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
pub struct Identity {
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate"))
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Vouches for this machine, as a server and as a client.
    pub fn identity(&self) -> Identity {
        let names = ["localhost".to_owned(), Ipv4Addr::LOCALHOST.to_string()];
        let (params, key) = (CertificateParams::new(names).expect("names"), KeyPair::generate().expect("a key"));
        let cert = params.signed_by(&key, &self.0).expect("a certificate");
        Identity { cert: cert.pem(), key: key.serialize_pem() }
    }
}

/// The files of a server's identity.
pub struct Files(TempDir);

impl Files {
    pub fn new(identity: &Identity) -> Self {
        let files = Self(TempDir::new().expect("a folder"));
        files.write("cert.pem", &identity.cert);
        files.write("key.pem", &identity.key);
        files
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        write(&self.path(name), text)
    }
}

fn write(path: &Path, text: &str) -> PathBuf {
    std::fs::write(path, text).expect("it can be written");
    path.to_owned()
}

/// A client of TLS.
#[derive(Clone)]
pub struct TlsClient(Arc<ClientConfig>);

impl TlsClient {
    /// One that trusts these authorities, shows this identity, and offers these protocols.
    pub fn new(trusted: &[&Authority], identity: Option<&Identity>, protocols: &[&str]) -> Self {
        Self::speaking(tokio_rustls::rustls::DEFAULT_VERSIONS, trusted, identity, protocols)
    }

    /// The same in these versions of TLS.
    pub fn speaking(
        versions: &[&'static SupportedProtocolVersion],
        trusted: &[&Authority],
        identity: Option<&Identity>,
        protocols: &[&str],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        for authority in trusted {
            roots.add(authority.0.der().clone()).expect("an authority");
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_protocol_versions(versions).expect("versions").with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(Identity { cert, key }) => {
                let cert = CertificateDer::from_pem_slice(cert.as_bytes()).expect("a certificate");
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
                builder.with_client_auth_cert(vec![cert], key).expect("they fit")
            }
        };
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self(Arc::new(config))
    }

    pub async fn connect(&self, address: impl ToSocketAddrs) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(address).await?;
        let name = ServerName::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
        TlsConnector::from(self.0.clone()).connect(name, tcp).await
    }
}
