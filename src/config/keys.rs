//! Files of keys that the configuration names.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use jsonwebtoken::jwk::{Jwk, JwkSet};

/// Largest file of keys, bytes.
const MOST: u64 = 1 << 20;

/// Why a file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysFailure {
    /// It is not there or cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] std::io::Error),
    /// Others can read a secret, or change a key.
    #[error("can be {0} by others; make it safe with: chmod {1}")]
    Unsafe(&'static str, &'static str),
    /// It is no set of keys.
    #[error("is no JWKS: {0}")]
    NoSet(#[from] serde_json::Error),
    /// It is an empty set.
    #[error("holds no key")]
    Empty,
}

/// The keys of a JWKS file (RFC 7517).
///
/// # Errors
/// [`KeysFailure`]
pub fn jwks(path: &Path) -> Result<Vec<Jwk>, KeysFailure> {
    let set: JwkSet = serde_json::from_slice(&file(path, false)?)?;
    if set.keys.is_empty() { Err(KeysFailure::Empty) } else { Ok(set.keys) }
}

/// The bytes of a file that others cannot change, and when it is secret cannot read.
///
/// # Errors
/// [`KeysFailure`]
pub fn file(path: &Path, secret: bool) -> Result<Vec<u8>, KeysFailure> {
    let file = std::fs::File::open(path)?;
    let mode = file.metadata()?.mode();
    if mode & 0o002 != 0 {
        return Err(KeysFailure::Unsafe("changed", "o-w"));
    }
    if secret && mode & 0o004 != 0 {
        return Err(KeysFailure::Unsafe("read", "o="));
    }
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    Ok(bytes)
}
