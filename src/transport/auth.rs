//! Credentials: static tokens, compared by digest in constant time.

use std::sync::Arc;

use axum::http::{HeaderMap, header};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::domain::Principal;

/// SHA-256 of a token. The token itself is never kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenDigest(pub [u8; 32]);

impl TokenDigest {
    /// The digest of a token.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }
}

/// A token that is accepted, and whose it is.
#[derive(Debug, Clone)]
pub struct Credential {
    /// The token's digest.
    pub digest: TokenDigest,
    /// Who shows it.
    pub principal: Arc<Principal>,
}

/// Longest `Authorization` value looked at, bytes: anything longer is no token of ours.
const MAX_VALUE: usize = 4096;

/// The principal whose token the request carries. Every credential is compared, whichever matches, so that time
/// tells nothing.
pub(super) fn authenticate(headers: &HeaderMap, credentials: &[Credential]) -> Option<Arc<Principal>> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next().filter(|v| v.len() <= MAX_VALUE)?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let shown = TokenDigest::of(token.trim());
    let mut found = None;
    for credential in credentials {
        if bool::from(shown.0.ct_eq(&credential.digest.0)) {
            found = Some(credential.principal.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::domain::Authority;

    fn credentials() -> Vec<Credential> {
        let principal = Principal {
            tenant: "t".into(),
            subject: "s".into(),
            groups: Vec::new(),
            attributes: BTreeMap::new(),
            authority: Authority::Caller,
        };
        vec![Credential { digest: TokenDigest::of("right"), principal: Arc::new(principal) }]
    }

    fn shown(values: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        authenticate(&headers, &credentials()).is_some()
    }

    #[test]
    fn only_the_right_token_authenticates() {
        assert!(shown(&["Bearer right"]));
        assert!(shown(&["bearer right"]));
        let long = format!("Bearer {}", "x".repeat(1 << 20));
        for wrong in ["", "Bearer", "Bearer ", "Bearer righ", "Bearer wrong", "Basic right", "right", &long] {
            assert!(!shown(&[wrong]), "{wrong:.40}");
        }
        assert!(!shown(&[]));
        assert!(!shown(&["Bearer right", "Bearer right"]), "two credentials are ambiguous");
    }
}
