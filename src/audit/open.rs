//! Opening a decision log: alone, at the end of its chain, without the half line that a crash left.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg, OFlag};

use super::OpenFailure;
use super::chain::{BEGIN, Head, MAX_LINE};
use super::verify::{follow_to, rotated};

/// How long another writer of the same log may take to end.
const HANDOVER: Duration = Duration::from_secs(2);
/// Between two looks whether it has.
const AGAIN: Duration = Duration::from_millis(2);

/// A log that can be gone on with.
pub(super) struct Opened {
    pub(super) file: Flock<File>,
    pub(super) head: Head,
    pub(super) length: u64,
    /// Bytes of half a line that a crash left at the end, taken off.
    pub(super) torn: u64,
}

/// # Errors
/// That it cannot be opened, or that its chain is broken.
pub(super) fn open(path: &Path) -> Result<Opened, OpenFailure> {
    let failed = |error| OpenFailure::Io { path: path.to_owned(), error };
    let file = opened(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        // A device has no end, and nothing in a pipe can be proved later.
        return Err(OpenFailure::NoFile { path: path.to_owned() });
    }
    let mut file = alone(file).ok_or_else(|| OpenFailure::InUse { path: path.to_owned() })?;
    let length = metadata.len();
    let torn = torn(&mut file, length).map_err(failed)?;
    let mut files = vec![path.to_owned()];
    if length == torn && rotated(path, 1).exists() {
        // Rotated just before it ended: the chain goes on from there.
        files.insert(0, rotated(path, 1));
    }
    let head = follow_to(&files, length - torn, |_, _| true).map_err(|bad| OpenFailure::Broken { bad })?;
    // Only what is a log of ours loses its half line.
    if torn > 0 {
        file.set_len(length - torn).map_err(failed)?;
    }
    Ok(Opened { file, head, length: length - torn, torn })
}

/// The file with nobody else who writes to it; one that is just ending is waited for.
fn alone(mut file: File) -> Option<Flock<File>> {
    let since = Instant::now();
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Some(locked),
            Err((_, _)) if since.elapsed() >= HANDOVER => return None,
            Err((back, _)) => file = back,
        }
        std::thread::sleep(AGAIN);
    }
}

fn opened(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    // A pipe in its place must not be waited for.
    let nonblocking = OFlag::O_NONBLOCK.bits();
    options.read(true).append(true).create(true).mode(0o600).custom_flags(nonblocking).open(path)
}

/// Bytes after the last line feed, if they can be what a crash left of a line: its beginning, or the zeroes that a power failure
/// leaves.
fn torn(file: &mut File, length: u64) -> std::io::Result<u64> {
    let from = length.saturating_sub(MAX_LINE as u64);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    BufReader::new(&*file).take(MAX_LINE as u64).read_to_end(&mut tail)?;
    let half = tail.rsplit(|b| *b == b'\n').next().unwrap_or_default();
    let is_ours = half.starts_with(BEGIN) || BEGIN.starts_with(half) || half.iter().all(|b| *b == 0);
    Ok(if is_ours { half.len() as u64 } else { 0 })
}
