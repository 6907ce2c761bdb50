//! The order in which bytes were read across a job's streams: an index of runs.
//!
//! A run is what was read of one stream before anything was read of another; consecutive reads of one stream are one
//! run, so a job that prints on one stream needs one run for ever. Runs are numbered from 0 and never renumbered.

use std::collections::VecDeque;

use super::source::Source;

/// Bytes of one stream up to an offset; where it starts is where the stream's previous run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) source: Source,
    pub(super) to: u64,
}

#[derive(Debug, Default)]
pub(super) struct Runs {
    runs: VecDeque<Run>,
    /// The number of the front run.
    first: u64,
}

impl Runs {
    /// Most runs kept. A job that alternates between its streams byte by byte would otherwise hold many times its
    /// ring in index; a full index counts as a full ring.
    pub(super) const MAX: usize = 4096;
    /// Most bytes this index takes. The deque may hold twice what it needs.
    pub(super) const BYTES_MAX: u64 = 2 * (Self::MAX * size_of::<Run>()) as u64;

    /// The number of the oldest run kept.
    pub(super) const fn first(&self) -> u64 {
        self.first
    }

    pub(super) fn get(&self, number: u64) -> Option<Run> {
        let at = number.checked_sub(self.first)?;
        self.runs.get(usize::try_from(at).ok()?).copied()
    }

    pub(super) fn is_last(&self, number: u64) -> bool {
        number + 1 == self.first + self.runs.len() as u64
    }

    /// The run that must go before one of `source` can come; `None` when there is a place.
    pub(super) fn in_the_way(&self, source: Source) -> Option<Run> {
        let extends = self.runs.back().is_some_and(|last| last.source == source);
        if extends || self.runs.len() < Self::MAX { None } else { self.runs.front().copied() }
    }

    /// Bytes of `source` up to `to` were read.
    pub(super) fn append(&mut self, source: Source, to: u64) {
        match self.runs.back_mut() {
            Some(last) if last.source == source => last.to = to,
            Some(_) | None => self.runs.push_back(Run { source, to }),
        }
    }

    /// Drops runs from the front that `oldest` says are gone whole.
    pub(super) fn trim(&mut self, oldest: impl Fn(Source) -> u64) {
        while self.runs.front().is_some_and(|run| run.to <= oldest(run.source)) {
            self.runs.pop_front();
            self.first += 1;
        }
    }

    /// Gives memory back that is no longer needed.
    pub(super) fn shrink(&mut self) {
        self.runs.shrink_to_fit();
    }

    /// Bytes of memory in use.
    pub(super) fn allocated(&self) -> usize {
        self.runs.capacity() * size_of::<Run>()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }
}
