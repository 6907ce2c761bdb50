//! TLS by rustls: version 1.3 alone, which has no renegotiation, no compression and no weak cipher to configure away.
//!
//! The certificate can be replaced while serving; handshakes under way keep the old one. Client certificates are asked
//! for when there is an authority to verify them by, and are one credential among others: none is fine, a bad one ends
//! the handshake.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::auth::Authorities;

/// A text in PEM, and the file it is from.
pub struct Pem {
    /// Which.
    pub path: PathBuf,
    /// What it holds.
    pub text: Vec<u8>,
}

impl std::fmt::Debug for Pem {
    // It may be a key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pem").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Certificate and key.
#[derive(Debug)]
pub struct TlsFiles {
    /// The chain, leaf first.
    pub cert: Pem,
    /// Its key.
    pub key: Pem,
    /// Who vouches for client certificates.
    pub client_ca: Option<Pem>,
}

/// Why TLS cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsFailure {
    /// Not what it should be.
    #[error("{}: {what}", path.display())]
    Bad {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// What is served now.
#[derive(Debug)]
pub struct Tls(ArcSwap<ServerConfig>);

impl Tls {
    /// Serves with what was [loaded](load).
    pub fn new(config: Arc<ServerConfig>) -> Self {
        Self(ArcSwap::new(config))
    }

    /// Serves with another from the next handshake on.
    pub fn replace(&self, config: Arc<ServerConfig>) {
        self.0.store(config);
    }

    pub(super) fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        self.0.load_full().into()
    }
}

/// Takes certificate and key and makes sure that they belong together; and who vouches for client certificates.
///
/// # Errors
/// [`TlsFailure`], naming the file.
pub fn load(files: &TlsFiles) -> Result<(Arc<ServerConfig>, Option<Authorities>), TlsFailure> {
    let bad = |path: &Path, what: String| TlsFailure::Bad { path: path.to_owned(), what };
    let (cert, key) = (&files.cert, &files.key);
    let chain = certificates(cert)?;
    let private = PrivateKeyDer::from_pem_slice(&key.text)
        .map_err(|e| bad(&key.path, format!("holds no private key in PEM: {e}")))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| bad(&cert.path, e.to_string()))?;
    let authorities = files.client_ca.as_ref().map(authorities).transpose()?;
    let builder = match &authorities {
        None => builder.with_no_client_auth(),
        Some(Authorities(verifier)) => builder.with_client_cert_verifier(verifier.clone()),
    };
    let mut config = builder
        .with_single_cert(chain, private)
        .map_err(|e| bad(&cert.path, format!("does not go with its key {}: {e}", key.path.display())))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session would skip the certificate's own check of dates.
    config.send_tls13_tickets = 0;
    Ok((Arc::new(config), authorities))
}

fn authorities(pem: &Pem) -> Result<Authorities, TlsFailure> {
    let bad = |what: String| TlsFailure::Bad { path: pem.path.clone(), what };
    let mut roots = RootCertStore::empty();
    for root in certificates(pem)? {
        roots.add(root).map_err(|e| bad(e.to_string()))?;
    }
    let provider = Arc::new(ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let verifier = builder.allow_unauthenticated().build().map_err(|e| bad(e.to_string()))?;
    Ok(Authorities(verifier))
}

fn certificates(pem: &Pem) -> Result<Vec<CertificateDer<'static>>, TlsFailure> {
    let bad = |what: String| TlsFailure::Bad { path: pem.path.clone(), what };
    let found = CertificateDer::pem_slice_iter(&pem.text).collect::<Result<Vec<_>, _>>();
    match found.map_err(|e| bad(format!("not PEM: {e}")))? {
        none if none.is_empty() => Err(bad("holds no certificate in PEM".to_owned())),
        chain => Ok(chain),
    }
}
