//! Which streams a job prints on: the narrower type that everything inside this room carries.

use crate::domain::StreamName;

/// A stream that comes out of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// Standard output by pipe.
    Stdout,
    /// Standard error by pipe.
    Stderr,
    /// The terminal's output.
    Pty,
}

impl Source {
    /// The stream's name in the protocol.
    pub const fn name(self) -> StreamName {
        match self {
            Self::Stdout => StreamName::Stdout,
            Self::Stderr => StreamName::Stderr,
            Self::Pty => StreamName::Pty,
        }
    }
}

/// How a job's output is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plumbing {
    /// Two pipes: stdout and stderr.
    Pipes,
    /// One pseudo-terminal.
    Terminal,
}

impl Plumbing {
    /// The streams there are.
    pub const fn sources(self) -> &'static [Source] {
        match self {
            Self::Pipes => &[Source::Stdout, Source::Stderr],
            Self::Terminal => &[Source::Pty],
        }
    }

    /// The stream of that name, if this job has it.
    pub fn source(self, name: StreamName) -> Option<Source> {
        self.sources().iter().copied().find(|source| source.name() == name)
    }
}

/// One value for each source; those that a job has not are never touched.
#[derive(Debug)]
pub(super) struct PerSource<T> {
    stdout: T,
    stderr: T,
    pty: T,
}

impl<T> PerSource<T> {
    pub(super) fn new(mut make: impl FnMut(Source) -> T) -> Self {
        Self { stdout: make(Source::Stdout), stderr: make(Source::Stderr), pty: make(Source::Pty) }
    }

    pub(super) const fn get(&self, source: Source) -> &T {
        match source {
            Source::Stdout => &self.stdout,
            Source::Stderr => &self.stderr,
            Source::Pty => &self.pty,
        }
    }

    pub(super) const fn get_mut(&mut self, source: Source) -> &mut T {
        match source {
            Source::Stdout => &mut self.stdout,
            Source::Stderr => &mut self.stderr,
            Source::Pty => &mut self.pty,
        }
    }
}
