//! TLS to servers by https.

use super::super::{TargetError, TargetOptions, read_ca};
use std::error::Error;
use std::sync::Arc;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Makes connections that trust the authorities of `options`, or else the system's.
pub(super) fn connector(options: &TargetOptions) -> Result<TlsConnector, TargetError> {
    let told = |error: &dyn Error| TargetError::ca(options, error);
    let mut roots = RootCertStore::empty();
    match read_ca(options)? {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                roots.add(certificate.map_err(|error| told(&error))?).map_err(|error| told(&error))?;
            }
        }
        // What cannot be read of the system's makes servers untrusted, which the connection says.
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let config = config.with_safe_default_protocol_versions().map_err(|error| told(&error))?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}
