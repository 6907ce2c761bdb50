//! The token a server on loopback makes for its own user.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::guard::{self, GuardFailure, Holds};

/// The token's file within the state directory.
pub const FILE: &str = "token";

/// Bits of randomness / 8.
const BYTES: usize = 32;

/// Longest token file read, bytes.
const MOST: u64 = 4096;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenFailure {
    /// A file or directory cannot be made.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the kernel says.
        error: io::Error,
    },
    /// The file cannot be read, or is no secret.
    #[error("{0}")]
    File(#[from] GuardFailure),
    /// There is none in it.
    #[error("{}: the file is empty; remove it and start the server again", .0.display())]
    Empty(PathBuf),
}

/// Reads the token, or makes one of 256 random bits in a file that only this user can read.
///
/// # Errors
/// [`TokenFailure`]
pub fn ensure(path: &Path) -> Result<String, TokenFailure> {
    let failed = |error| TokenFailure::Io { path: path.to_owned(), error };
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    }
    match read(path) {
        Err(TokenFailure::File(GuardFailure::Unreadable { error, .. }))
            if error.kind() == io::ErrorKind::NotFound => {}
        found => return found,
    }
    let mut bits = [0; BYTES];
    getrandom::fill(&mut bits).map_err(|e| failed(io::Error::other(e)))?;
    let token = URL_SAFE_NO_PAD.encode(bits);
    let fresh = path.with_extension(format!("{}.new", std::process::id()));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        writeln!(file, "{token}")?;
        // Linking fails when another start was quicker: then its token is the one.
        std::fs::hard_link(&fresh, path)
    };
    let written = write();
    let _ = std::fs::remove_file(&fresh);
    match written {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read(path),
        other => other.map(|()| token).map_err(failed),
    }
}

/// Reads the token.
///
/// # Errors
/// [`TokenFailure`]
pub fn read(path: &Path) -> Result<String, TokenFailure> {
    let text = guard::read_text(path, Holds::Secret, MOST)?;
    match text.trim() {
        "" => Err(TokenFailure::Empty(path.to_owned())),
        token => Ok(token.to_owned()),
    }
}
