//! TLS as a client: the system's certificates, and those the user names.

use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_tungstenite::Connector;

use super::output::Trouble;
use super::target::Target;

/// How to speak TLS with the target; `None` when its URL says that it speaks none.
pub(super) fn connector(target: &Target) -> Result<Option<Connector>, Trouble> {
    if !target.url.starts_with("https://") {
        return Ok(None);
    }
    let mut roots = RootCertStore::empty();
    // What of the system's store cannot be read is not trusted; a certificate nobody vouches for is told at the handshake.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = &target.ca {
        let bad = |error: String| Trouble::usage(format!("{}: {error}", path.display()));
        let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        for certificate in found.map_err(|e| bad(e.to_string()))? {
            roots.add(certificate).map_err(|e| bad(e.to_string()))?;
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| Trouble::failed(format!("TLS: {e}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Some(Connector::Rustls(Arc::new(config))))
}
