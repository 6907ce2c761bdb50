//! TLS by rustls: version 1.3 alone, which has no renegotiation, no compression and no weak cipher to configure away.
//!
//! The certificate can be replaced while serving; handshakes under way keep the old one. Client certificates are asked
//! for when there is an authority to verify them by, and are one credential among others: none is fine, a bad one ends
//! the handshake.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
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

/// Largest file of certificates or keys, bytes.
const MOST: u64 = 1 << 20;

/// Where certificate and key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, leaf first, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Who vouches for client certificates, PEM.
    pub client_ca: Option<PathBuf>,
}

/// Why TLS cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsFailure {
    /// A file that is not there or cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the kernel says.
        error: std::io::Error,
    },
    /// A key that others can read.
    #[error("{} can be read or changed by others; make it safe with: chmod o= {}", _0.display(), _0.display())]
    Exposed(PathBuf),
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

/// Reads certificate and key and makes sure that they belong together; and who vouches for client certificates.
///
/// # Errors
/// [`TlsFailure`], naming the file.
pub fn load(files: &TlsFiles) -> Result<(Arc<ServerConfig>, Option<Authorities>), TlsFailure> {
    let bad = |path: &Path, what: String| TlsFailure::Bad { path: path.to_owned(), what };
    let chain = certificates(&files.cert)?;
    let key_text = read(&files.key, 0o007)?;
    let key = PrivateKeyDer::from_pem_slice(&key_text)
        .map_err(|e| bad(&files.key, format!("holds no private key in PEM: {e}")))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(|e| bad(&files.cert, e.to_string()))?;
    let authorities = files.client_ca.as_deref().map(authorities).transpose()?;
    let builder = match &authorities {
        None => builder.with_no_client_auth(),
        Some(Authorities(verifier)) => builder.with_client_cert_verifier(verifier.clone()),
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|e| bad(&files.cert, format!("does not go with its key {}: {e}", files.key.display())))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session would skip the certificate's own check of dates.
    config.send_tls13_tickets = 0;
    Ok((Arc::new(config), authorities))
}

fn authorities(path: &Path) -> Result<Authorities, TlsFailure> {
    let bad = |what: String| TlsFailure::Bad { path: path.to_owned(), what };
    let mut roots = RootCertStore::empty();
    for root in certificates(path)? {
        roots.add(root).map_err(|e| bad(e.to_string()))?;
    }
    let provider = Arc::new(ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let verifier = builder.allow_unauthenticated().build().map_err(|e| bad(e.to_string()))?;
    Ok(Authorities(verifier))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFailure> {
    let text = read(path, 0o002)?;
    let bad = |what: String| TlsFailure::Bad { path: path.to_owned(), what };
    let found = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    match found.map_err(|e| bad(format!("not PEM: {e}")))? {
        none if none.is_empty() => Err(bad("holds no certificate in PEM".to_owned())),
        chain => Ok(chain),
    }
}

/// Reads a file that others have none of these rights to.
fn read(path: &Path, forbidden: u32) -> Result<Vec<u8>, TlsFailure> {
    let unreadable = |error| TlsFailure::Unreadable { path: path.to_owned(), error };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    if file.metadata().map_err(unreadable)?.mode() & forbidden != 0 {
        return Err(TlsFailure::Exposed(path.to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}
