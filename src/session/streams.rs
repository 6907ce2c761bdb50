//! Joining a job's descriptors to its rings and its stdin queue.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio_util::task::TaskTracker;

use crate::domain::{StreamName, TerminalSize};
use crate::stream::{Output, Overflow, Pumps, Settings, Stdin};
use crate::warden::{PipeEnds, PtyEnds, Stdio};

/// Our ends of a job's streams.
#[derive(Debug)]
pub(super) enum Ends {
    Pipes(PipeEnds),
    Terminal(PtyEnds),
}

/// A job's streams at work.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) output: Arc<Output>,
    pub(super) pumps: Pumps,
    pub(super) stdin: Option<Stdin>,
    /// The terminal, to change its size.
    pub(super) terminal: Option<OwnedFd>,
}

/// How a job's output is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keeping {
    pub(super) overflow: Overflow,
    pub(super) ring: Option<usize>,
    /// Most bytes of all streams.
    pub(super) limit: Option<u64>,
}

/// Makes both ends of a job's streams.
pub(super) fn make(size: Option<TerminalSize>, stdin: bool) -> io::Result<(Stdio, Ends)> {
    match size {
        Some(size) => Stdio::pty(size).map(|(job, ours)| (job, Ends::Terminal(ours))),
        None => Stdio::pipes(stdin).map(|(job, ours)| (job, Ends::Pipes(ours))),
    }
}

/// Sets the streams to work.
pub(super) fn start(
    ends: Ends,
    keeping: Keeping,
    settings: &Settings,
    tracker: &TaskTracker,
) -> io::Result<Streams> {
    let (sources, stdin, terminal) = match ends {
        Ends::Pipes(ends) => {
            (vec![(StreamName::Stdout, ends.stdout), (StreamName::Stderr, ends.stderr)], ends.stdin, None)
        }
        Ends::Terminal(ends) => {
            let (reading, writing) = (ends.master.try_clone()?, ends.master.try_clone()?);
            (vec![(StreamName::Pty, reading)], Some(writing), Some(ends.master))
        }
    };
    let names: Vec<_> = sources.iter().map(|(name, _)| *name).collect();
    let output = Output::new(&names, keeping.overflow, keeping.ring, settings);
    let is_terminal = terminal.is_some();
    let stdin = match stdin {
        Some(fd) => Some(Stdin::start(fd, is_terminal, settings.stdin, output.clone(), tracker)?),
        None => None,
    };
    let pumps = Pumps::start(sources, &output, keeping.limit, settings)?;
    Ok(Streams { output, pumps, stdin, terminal })
}
