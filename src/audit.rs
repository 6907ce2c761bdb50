//! The decision log: one JSON line a review, each carrying the hash of the one before.
//!
//! ```text
//! decision ──record, never waits──> queue ──one thread──> line ──hash of the line before──> file ──size──> file.1, file.2, …
//! ```
//! A line says what guests were asked, exactly, what each of them answered, and what that came to; so the log is also a
//! corpus to replay ([`read`]). A line that cannot be queued either refuses the decision or is counted as lost, as configured;
//! it is never lost silently. The chain makes any later change to a line show; a head noted elsewhere makes a cut at the end
//! show too. Values of secret variables and arguments are masked before anything is written or digested.

mod answer;
mod backlog;
mod chain;
mod entry;
mod mask;
mod open;
mod read;
mod request;
mod tally;
mod verify;
mod writer;

pub use answer::{Answers, fold_of_command, fold_of_session};
pub use backlog::MAX_BYTES as MAX_WAITING;
pub use chain::MAX_LINE;
pub use entry::{Asked, Entry, Fold};
pub use read::{Again, Recorded, answers_now, outcome_now, read};
pub use tally::RefusedBy;
pub use verify::{BadLine, Verified, verify};
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
    /// Bytes of a file before the next one is begun.
    pub rotate: u64,
    /// Files kept beside the one being written.
    pub keep: u32,
    /// Bytes a tenant may add in a minute; beyond, that tenant is refused.
    pub tenant_bytes: u64,
    /// Names of variables and options whose values are masked; `*` at either end stands for anything. Case and `-` or `_` do
    /// not matter.
    pub mask: Vec<String>,
}

impl Settings {
    /// A log in this file, with everything else as the default configuration has it.
    pub fn at(path: Option<PathBuf>) -> Self {
        let mask =
            ["*token*", "*secret*", "*passw*", "*api_key*", "*private_key*", "*credential*", "authorization"];
        Self {
            path,
            refuse_when_full: true,
            sync: Sync::EverySecond,
            queue: 4096,
            rotate: 256 << 20,
            keep: 8,
            tenant_bytes: 64 << 20,
            mask: mask.map(str::to_owned).to_vec(),
        }
    }
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
    /// Something else than a file.
    #[error(
        "the decision log {}: is no regular file; name one that is or is not there yet, or audit.path = \"\" for no log", path.display()
    )]
    NoFile {
        /// Which.
        path: PathBuf,
    },
    /// Another gateway writes to it.
    #[error(
        "the decision log {}: another execgate writes to it; give each a file of its own, or wait until that one has ended", path.display()
    )]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// Its chain is broken: going on would hide that.
    #[error("the decision log: {bad}; keep the file as evidence under another name and start a new one")]
    Broken {
        /// Where.
        bad: BadLine,
    },
}

/// The decision cannot be recorded, and must therefore not be acted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuditRefused {
    /// The queue is full, or the file cannot be written.
    #[error("the decision log cannot take another line")]
    Full,
    /// The tenant's lines wait, and would take the room of others.
    #[error("the tenant's decisions come faster than they can be logged; try again when some are written")]
    Backlog,
    /// The tenant wrote its share of this minute.
    #[error("the tenant's share of the decision log is used up for this minute")]
    Tenant,
}
