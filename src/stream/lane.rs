//! What was read of a job and is still here: a ring per stream and the order across them.

use bytes::BufMut;
use tokio::time::Instant;

use super::order::Runs;
use super::ring::Ring;
use super::source::{PerSource, Plumbing, Source};

/// One stream.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) ring: Ring,
    pub(super) flow: Flow,
    /// Since when the pump waits for observers that read along.
    pub(super) polite_since: Option<Instant>,
}

/// What a stream's pump is doing.
///
/// ```text
/// Reading <──> Blocked ──> Ended
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// It waits for bytes or takes them in.
    Reading,
    /// It waits for room.
    Blocked,
    /// No byte will come any more.
    Ended,
}

/// All streams of a job.
#[derive(Debug)]
pub(super) struct Stock {
    pub(super) plumbing: Plumbing,
    pub(super) lanes: PerSource<Lane>,
    pub(super) runs: Runs,
}

impl Stock {
    pub(super) fn new(plumbing: Plumbing, capacity: usize) -> Self {
        let lane = |_| Lane { ring: Ring::new(capacity), flow: Flow::Reading, polite_since: None };
        Self { plumbing, lanes: PerSource::new(lane), runs: Runs::default() }
    }

    pub(super) const fn ring(&self, source: Source) -> &Ring {
        &self.lanes.get(source).ring
    }

    /// Bytes of memory that the rings take now.
    pub(super) fn rings(&self) -> usize {
        self.plumbing.sources().iter().map(|source| self.ring(*source).allocated()).sum()
    }

    pub(super) fn ended(&self, source: Source) -> bool {
        self.lanes.get(source).flow == Flow::Ended
    }

    /// Bytes of `source` were taken into its ring: notes their place in the order and forgets what that pushed out.
    pub(super) fn appended(&mut self, source: Source) {
        while let Some(run) = self.runs.in_the_way(source) {
            self.lanes.get_mut(run.source).ring.evict(run.to);
            self.trim();
        }
        self.runs.append(source, self.ring(source).next());
        self.trim();
    }

    fn trim(&mut self) {
        let Self { lanes, runs, .. } = self;
        runs.trim(|source| lanes.get(source).ring.oldest());
    }

    /// Keeps the newest `bytes` of each stream.
    pub(super) fn shrink(&mut self, bytes: usize) {
        for source in self.plumbing.sources() {
            self.lanes.get_mut(*source).ring.shrink(bytes);
        }
        self.trim();
        self.runs.shrink();
    }

    pub(super) fn copy(&self, source: Source, from: u64, count: u64, out: &mut impl BufMut) {
        self.ring(source).copy(from, usize::try_from(count).unwrap_or_default(), out);
    }
}
