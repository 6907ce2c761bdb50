//! How far ahead of its acknowledgements one stream of a viewer may be sent.
//!
//! Acknowledgements are cumulative absolute offsets, so lost, repeated and reordered ones cannot wedge anything. A gap
//! costs nothing.

use std::collections::VecDeque;

/// Gaps remembered apart; beyond that the oldest two are remembered as one, which can only allow a little more.
const MAX_GAPS: usize = 32;

#[derive(Debug)]
pub(super) struct Credit {
    window: u64,
    acked: u64,
    /// Announced gaps that reach beyond `acked`: where each ends, and its length.
    gaps: VecDeque<(u64, u64)>,
}

impl Credit {
    pub(super) const fn new(window: u64, from: u64) -> Self {
        Self { window, acked: from, gaps: VecDeque::new() }
    }

    pub(super) const fn acked(&self) -> u64 {
        self.acked
    }

    /// Bytes that may be sent from `sent` on.
    pub(super) fn left(&self, sent: u64) -> u64 {
        let gaps: u64 = self.gaps.iter().map(|(_, length)| length).sum();
        let limit = self.acked.saturating_add(self.window).saturating_add(gaps);
        limit.saturating_sub(sent)
    }

    pub(super) fn gap(&mut self, from: u64, to: u64) {
        self.gaps.push_back((to, to - from.max(self.acked)));
        if self.gaps.len() > MAX_GAPS
            && let (Some((_, a)), Some((end, b))) = (self.gaps.pop_front(), self.gaps.pop_front())
        {
            self.gaps.push_front((end, a + b));
        }
    }

    pub(super) fn ack(&mut self, offset: u64, window: Option<u64>) {
        self.window = window.unwrap_or(self.window);
        self.acked = self.acked.max(offset);
        while self.gaps.front().is_some_and(|(end, _)| *end <= self.acked) {
            self.gaps.pop_front();
        }
    }
}
