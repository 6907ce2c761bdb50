//! A job's bytes: rings, viewers, pumps and standard input, bounded everywhere.
//!
//! ```text
//! pipe ──pump──> ring per stream ──one cursor a viewer──> writer of a socket
//!                  └─ order: which stream was read when
//! stdin queue ──writer task──> pipe
//! ```
//!
//! Offsets are absolute from 0 and never reset. A viewer sees chunks in the order in which they were read across the
//! job's streams; what it will never get is announced as a gap. Only the one *write* viewer of a [`Overflow::Block`]
//! job holds reading back; every other viewer is overtaken. Memory of a job is at most its rings, its order index and
//! its stdin queue, however many look on.

mod credit;
mod order;
mod output;
mod pump;
mod ring;
mod stdin;
mod utf8;
mod viewer;

pub use output::{Extent, Output, Overflow, Taken, ViewKind};
pub use pump::Pumps;
pub use stdin::{Credit, Stdin, StdinRefused};
pub use utf8::{Piece, Utf8Splitter};
pub use viewer::{AckBeyondSent, Item, Start, Viewer};

use std::time::Duration;

/// Smallest ring or window, bytes.
pub const MIN_BYTES: usize = 4 * 1024;
/// Largest ring or window, bytes.
pub const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Bounds of a job's streams.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Size of each ring unless the job names another, bytes.
    pub ring: usize,
    /// Most bytes taken in one read: what a pipe holds.
    pub chunk: usize,
    /// Bytes of stdin accepted ahead of the job.
    pub stdin: usize,
    /// Once the leader is gone: how long new bytes may take to come.
    pub drain_idle: Duration,
    /// The same, in all.
    pub drain_total: Duration,
}

impl Settings {
    /// Most bytes that `jobs` jobs can hold at once with rings of `ring` bytes.
    pub const fn bound(&self, jobs: usize, ring: usize) -> usize {
        let a_job = 2 * ring + self.stdin + order::MAX_RUNS * size_of::<order::Run>();
        jobs.saturating_mul(a_job)
    }
}

/// Has the runtime poll a descriptor that does not block.
#[expect(
    deprecated,
    reason = "the new form is unsafe because of types whose descriptor can change; an `OwnedFd` cannot be closed while it is registered"
)]
fn polled(
    fd: std::os::fd::OwnedFd,
    interest: tokio::io::Interest,
) -> std::io::Result<tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>> {
    tokio::io::unix::AsyncFd::with_interest(fd, interest)
}
