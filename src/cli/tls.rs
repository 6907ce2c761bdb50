//! TLS as a client: the system's certificates, those the user names, and his own.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
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
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| bad(path, &error))?;
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| Trouble::failed(format!("TLS: {e}")))?
        .with_root_certificates(roots);
    let config = match &target.certificate {
        None => config.with_no_client_auth(),
        Some((cert, key)) => {
            let own = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, &error))?;
            config.with_client_auth_cert(certificates(cert)?, own).map_err(|error| bad(key, &error))?
        }
    };
    Ok(Some(Connector::Rustls(Arc::new(config))))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Trouble> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = found.map_err(|error| bad(path, &error))?;
    if found.is_empty() {
        return Err(bad(path, &"it holds no certificate in PEM"));
    }
    Ok(found)
}

fn bad(path: &Path, why: &dyn Display) -> Trouble {
    Trouble::usage(format!("{}: {why}", path.display()))
}
