//! Client certificates: the names in them, and whose they are.
//!
//! The TLS layer has verified the chain, the dates and the key before anything here is asked. A name is written with
//! its kind, so that a common name can never pass for a URI: `cn:build-1`, `dns:ci.acme.example`,
//! `uri:spiffe://acme/ci`, `email:ops@acme.example`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::domain::Principal;

/// Names looked at in one certificate: more is no certificate of a caller.
const MOST_NAMES: usize = 64;

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
}

impl Certificate {
    /// The names of a certificate; `None` for what is none.
    pub(in crate::transport) fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let common = certificate.subject().iter_common_name();
        let mut names: Vec<_> = common.filter_map(|cn| Some(format!("cn:{}", cn.as_str().ok()?))).collect();
        let alternative = certificate.subject_alternative_name().ok().flatten();
        let alternative = alternative.iter().flat_map(|extension| &extension.value.general_names);
        names.extend(alternative.filter_map(named));
        names.truncate(MOST_NAMES);
        let until = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
        Some(Self { names, until: SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(until))? })
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
