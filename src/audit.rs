//! The decision log: one JSON line a decision, each carrying the hash of the one before.
//!
//! Written by one thread through a bounded queue. A line that cannot be queued either refuses the decision or is counted
//! as lost, as configured; it is never lost silently. The chain makes any later change to a line show.

mod chain;
mod entry;
mod writer;

pub use chain::{BadLine, Verified, verify};
pub use entry::{Entry, Said};
pub use writer::Audit;

use std::path::PathBuf;

/// How the log is kept.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file; `None` keeps no log.
    pub path: Option<PathBuf>,
    /// Refuse a decision whose line cannot be queued.
    pub refuse_when_full: bool,
    /// When lines reach the disk.
    pub sync: Sync,
    /// Lines waiting to be written.
    pub queue: usize,
}

/// When lines reach the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// When the kernel likes.
    Never,
    /// At most a second later.
    EverySecond,
    /// Before the next line.
    Always,
}

/// The log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenFailure {
    /// A file that cannot be made, read or written.
    #[error("the decision log {}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the kernel says.
        error: std::io::Error,
    },
    /// Its chain is broken: going on would hide that.
    #[error("the decision log {}: {bad}; keep it as evidence under another name and start a new one", path.display())]
    Broken {
        /// Which.
        path: PathBuf,
        /// Where.
        bad: BadLine,
    },
}

/// The decision cannot be recorded, and must therefore not be acted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the decision log cannot take another line")]
pub struct AuditRefused;
