//! Sets of keys that the configuration names.

use jsonwebtoken::jwk::{Jwk, JwkSet};

/// Why a set of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysFailure {
    /// It is no set of keys.
    #[error("is no JWKS: {0}")]
    NoSet(#[from] serde_json::Error),
    /// It is an empty set.
    #[error("holds no key")]
    Empty,
}

/// The keys of a JWKS (RFC 7517).
///
/// # Errors
/// [`KeysFailure`]
pub fn jwks(bytes: &[u8]) -> Result<Vec<Jwk>, KeysFailure> {
    let set: JwkSet = serde_json::from_slice(bytes)?;
    if set.keys.is_empty() { Err(KeysFailure::Empty) } else { Ok(set.keys) }
}
