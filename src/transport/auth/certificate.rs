//! Client certificates: the names in them, and whose they are.
//!
//! The TLS layer has verified the chain, the dates and the key before anything here is asked; the chain is verified again
//! whenever the certificate is shown, for who vouches for it may have changed meanwhile. A name is written with
//! its kind, so that a common name can never pass for a URI: `cn:build-1`, `dns:ci.acme.example`,
//! `uri:spiffe://acme/ci`, `email:ops@acme.example`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::domain::Principal;

/// Names looked at in one certificate: more is no certificate of a caller.
const MOST_NAMES: usize = 64;

/// Longest chain of a client certificate that is kept, bytes: it is held as long as a connection, or a session of it.
const MOST_CHAIN: usize = 16 << 10;

/// Who vouches for client certificates.
#[derive(Debug, Clone)]
pub struct Authorities(pub(in crate::transport) Arc<dyn ClientCertVerifier>);

/// A name in a client certificate, and who shows it.
#[derive(Debug, Clone)]
pub struct CertificateName {
    /// The name with its kind.
    pub name: String,
    /// Who shows it.
    pub principal: Arc<Principal>,
}

/// A client certificate that the TLS layer has verified.
#[derive(Debug, Clone)]
pub(in crate::transport) struct Certificate {
    pub(super) names: Vec<String>,
    pub(super) until: SystemTime,
    /// As it was shown, the certificate itself first.
    chain: Vec<CertificateDer<'static>>,
    shown_at: UnixTime,
}

impl Certificate {
    /// The names of a certificate, which comes first in its chain; `None` for what is none, or longer than any caller's.
    pub(in crate::transport) fn read(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let der = chain.first()?;
        if chain.iter().map(|link| link.len()).sum::<usize>() > MOST_CHAIN {
            return None;
        }
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let common = certificate.subject().iter_common_name();
        let mut names: Vec<_> = common.filter_map(|cn| Some(format!("cn:{}", cn.as_str().ok()?))).collect();
        let alternative = certificate.subject_alternative_name().ok().flatten();
        let alternative = alternative.iter().flat_map(|extension| &extension.value.general_names);
        names.extend(alternative.filter_map(named));
        names.truncate(MOST_NAMES);
        let until = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
        let until = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(until))?;
        let chain = chain.iter().map(|link| link.clone().into_owned()).collect();
        Some(Self { names, until, chain, shown_at: UnixTime::now() })
    }

    /// Whether these authorities vouch for it, by the clock of its handshake: its end is watched apart.
    pub(super) fn is_vouched_for_by(&self, authorities: &Authorities) -> bool {
        let Some((own, rest)) = self.chain.split_first() else { return false };
        authorities.0.verify_client_cert(own, rest, self.shown_at).is_ok()
    }
}

fn named(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(format!("dns:{name}")),
        GeneralName::URI(name) => Some(format!("uri:{name}")),
        GeneralName::RFC822Name(name) => Some(format!("email:{name}")),
        _ => None,
    }
}
