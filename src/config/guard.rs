//! Files that are believed: configuration, policies, keys, certificates, tokens. One rule for all of them.
//!
//! Whoever could change such a file could be anybody, and so could whoever reads a secret. So the file, and the directory it is
//! really in, are root's or our own, and nobody else may write; a secret is read by nobody else either, but by root's leave by
//! a group (as a key of root's with mode 0640, for the group of the gateway). It is a regular file, for the rest may never end.

use std::fs::{Metadata, OpenOptions};
use std::io::{Error, ErrorKind, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

/// Largest file of configuration, keys or certificates, bytes.
pub const MOST: u64 = 1 << 20;

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// What everybody may know.
    Public,
    /// What makes its reader somebody else.
    Secret,
}

/// Why a file is not believed.
#[derive(Debug, thiserror::Error)]
pub enum GuardFailure {
    /// It is not there or cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the kernel says.
        error: Error,
    },
    /// A directory, a pipe, a device: it may never end.
    #[error("{} is no regular file but a directory, a pipe or a device; name one that is", .0.display())]
    NoFile(PathBuf),
    /// Somebody else could change it.
    #[error("{} can be changed by others ({why}); make it safe with: {remedy}", path.display())]
    Unsafe {
        /// Which file or directory.
        path: PathBuf,
        /// Who could.
        why: &'static str,
        /// The command to run.
        remedy: String,
    },
    /// Somebody else could read a secret.
    #[error("{} can be read by others; make it safe with: chmod go= {}", .0.display(), .0.display())]
    Exposed(PathBuf),
    /// It has more bytes than any of its kind.
    #[error("{} has more than {most} bytes, the most that are read of it; name the right file", path.display())]
    TooLong {
        /// Which.
        path: PathBuf,
        /// How many are read.
        most: u64,
    },
}

/// The bytes of a file that may be believed, at most so many.
///
/// # Errors
/// [`GuardFailure`]
pub fn read(path: &Path, holds: Holds, most: u64) -> Result<Vec<u8>, GuardFailure> {
    let unreadable = |error| GuardFailure::Unreadable { path: path.to_owned(), error };
    let real = place(path)?;
    // What was a file a moment ago is not waited for now.
    let nonblocking = OFlag::O_NONBLOCK.bits();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(&real).map_err(unreadable)?;
    believed(&real, &file.metadata().map_err(unreadable)?, holds)?;
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > most {
        return Err(GuardFailure::TooLong { path: path.to_owned(), most });
    }
    Ok(bytes)
}

/// As [`read`], for what must be text.
///
/// # Errors
/// [`GuardFailure`]
pub fn read_text(path: &Path, holds: Holds, most: u64) -> Result<String, GuardFailure> {
    let no_text = |_| GuardFailure::Unreadable {
        path: path.to_owned(),
        error: Error::new(ErrorKind::InvalidData, "it is no UTF-8 text"),
    };
    String::from_utf8(read(path, holds, most)?).map_err(no_text)
}

/// Whether a file that somebody else reads may be believed.
///
/// # Errors
/// [`GuardFailure`]
pub fn look(path: &Path) -> Result<(), GuardFailure> {
    let real = place(path)?;
    let metadata = std::fs::metadata(&real);
    let metadata = metadata.map_err(|error| GuardFailure::Unreadable { path: path.to_owned(), error })?;
    believed(&real, &metadata, Holds::Public)
}

/// The file after symlinks, in a directory that nobody else may change.
fn place(path: &Path) -> Result<PathBuf, GuardFailure> {
    let unreadable = |error| GuardFailure::Unreadable { path: path.to_owned(), error };
    // First, for a pipe of a shell has no place.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(GuardFailure::NoFile(path.to_owned()));
    }
    let real = path.canonicalize().map_err(unreadable)?;
    if let Some(directory) = real.parent() {
        unchangeable(directory, &std::fs::metadata(directory).map_err(unreadable)?)?;
    }
    Ok(real)
}

fn believed(real: &Path, metadata: &Metadata, holds: Holds) -> Result<(), GuardFailure> {
    const ROOT: u32 = 0;
    if !metadata.is_file() {
        return Err(GuardFailure::NoFile(real.to_owned()));
    }
    unchangeable(real, metadata)?;
    // A group is root's choice to make.
    let hidden_from = if metadata.uid() == ROOT { 0o007 } else { 0o077 };
    if holds == Holds::Secret && metadata.mode() & hidden_from != 0 {
        return Err(GuardFailure::Exposed(real.to_owned()));
    }
    Ok(())
}

/// # Errors
/// [`GuardFailure::Unsafe`] for what others could change. A directory with the sticky bit protects its entries.
fn unchangeable(path: &Path, metadata: &Metadata) -> Result<(), GuardFailure> {
    const OTHERS_WRITE: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    let path = path.to_owned();
    let ours = [0, nix::unistd::geteuid().as_raw()];
    if !ours.contains(&metadata.uid()) {
        let remedy = format!("chown root {}", path.display());
        return Err(GuardFailure::Unsafe { path, why: "its owner is another user", remedy });
    }
    let sticky = metadata.is_dir() && metadata.mode() & STICKY != 0;
    if metadata.mode() & OTHERS_WRITE != 0 && !sticky {
        let remedy = format!("chmod go-w {}", path.display());
        return Err(GuardFailure::Unsafe { path, why: "group or others may write", remedy });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::{PermissionsExt as _, chown};

    use super::*;

    fn file(mode: u32) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        write(&path, "12345").unwrap();
        set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    #[test]
    fn what_others_can_change_or_a_secret_that_they_can_read_is_not_believed() {
        let table = [
            (0o600, true, true),
            (0o400, true, true),
            (0o644, true, false),
            (0o604, true, false),
            (0o620, false, false),
            (0o602, false, false),
        ];
        for (mode, public, secret) in table {
            let (_directory, path) = file(mode);
            assert_eq!(read(&path, Holds::Public, 5).is_ok(), public, "{mode:o}");
            assert_eq!(read(&path, Holds::Secret, 5).is_ok(), secret, "{mode:o}");
            assert_eq!(look(&path).is_ok(), public, "{mode:o}");
        }
        let (_directory, path) = file(0o640);
        let is_root = nix::unistd::geteuid().is_root();
        assert_eq!(read(&path, Holds::Secret, 5).is_ok(), is_root, "a group is root's choice");
        let (directory, path) = file(0o600);
        set_permissions(directory.path(), Permissions::from_mode(0o770)).unwrap();
        assert!(matches!(read(&path, Holds::Public, 5), Err(GuardFailure::Unsafe { .. })));
        set_permissions(directory.path(), Permissions::from_mode(0o1777)).unwrap();
        assert!(read(&path, Holds::Secret, 5).is_ok());
        if !is_root {
            return eprintln!("NOTE: NOT SHOWN HERE: only root can give a file away");
        }
        chown(&path, Some(20_001), None).unwrap();
        assert!(matches!(read(&path, Holds::Secret, 5), Err(GuardFailure::Unsafe { .. })));
        chown(&path, Some(0), None).unwrap();
        chown(directory.path(), Some(20_001), None).unwrap();
        assert!(matches!(read(&path, Holds::Secret, 5), Err(GuardFailure::Unsafe { .. })));
    }

    #[test]
    fn what_is_too_long_is_refused_and_not_cut() {
        let (_directory, path) = file(0o600);
        assert_eq!(read(&path, Holds::Public, 5).unwrap(), b"12345");
        assert!(matches!(read(&path, Holds::Public, 4), Err(GuardFailure::TooLong { most: 4, .. })));
    }

    #[test]
    fn what_is_no_file_is_neither_waited_for_nor_read() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        for path in [pipe.as_path(), directory.path(), Path::new("/dev/zero")] {
            assert!(matches!(read(path, Holds::Public, 5), Err(GuardFailure::NoFile(_))), "{path:?}");
            assert!(matches!(look(path), Err(GuardFailure::NoFile(_))), "{path:?}");
        }
    }
}
