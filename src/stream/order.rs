//! In which order the bytes of several streams were read.
//!
//! A run is a stretch of one stream. `at` counts the bytes of all streams before it, so that one number says how far a
//! viewer has come in the order, and stays true when runs at the front are forgotten.

use std::collections::VecDeque;

/// Most runs kept: a job that alternates between its streams byte by byte fills the index before the rings, and a full
/// index counts as a full ring.
pub(super) const MAX_RUNS: usize = 8192;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) at: u64,
    pub(super) stream: usize,
    pub(super) from: u64,
    pub(super) to: u64,
}

impl Run {
    pub(super) const fn end(&self) -> u64 {
        self.at + (self.to - self.from)
    }
}

#[derive(Debug, Default)]
pub(super) struct Order {
    runs: VecDeque<Run>,
    total: u64,
}

impl Order {
    /// Bytes of all streams so far.
    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    /// Whether `stream` can be added to without a new run, or there is place for one.
    pub(super) fn has_room(&self, stream: usize) -> bool {
        self.runs.len() < MAX_RUNS || self.runs.back().is_some_and(|last| last.stream == stream)
    }

    pub(super) fn front(&self) -> Option<&Run> {
        self.runs.front()
    }

    pub(super) fn pop_front(&mut self) -> Option<Run> {
        self.runs.pop_front()
    }

    pub(super) fn push(&mut self, stream: usize, from: u64, n: u64) {
        match self.runs.back_mut() {
            Some(last) if last.stream == stream && last.to == from => last.to += n,
            Some(_) | None => self.runs.push_back(Run { at: self.total, stream, from, to: from + n }),
        }
        self.total += n;
    }

    /// The first run that reaches beyond `at`.
    pub(super) fn beyond(&self, at: u64) -> Option<Run> {
        let index = self.runs.partition_point(|run| run.end() <= at);
        self.runs.get(index).copied()
    }
}
