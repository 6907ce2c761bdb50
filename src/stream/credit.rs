//! How far one viewer may be ahead of what it acknowledged, per stream.
//!
//! Acks are absolute and cumulative, so a lost, repeated or reordered one changes nothing that a later one does not
//! put right. A gap is not data: what is in flight is counted without the gaps announced above the highest ack.

use std::collections::VecDeque;

/// Bytes of a stream that may be in flight to a viewer: 4 KiB to 16 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Window(u32);

impl Window {
    /// Smallest window, bytes.
    pub const LEAST: u32 = 4 * 1024;
    /// Largest window, bytes.
    pub const MOST: u32 = 16 * 1024 * 1024;

    /// A window within 4 KiB..=16 MiB, else `None`.
    pub fn new(bytes: u32) -> Option<Self> {
        (Self::LEAST..=Self::MOST).contains(&bytes).then_some(Self(bytes))
    }

    /// The window, bytes.
    pub const fn bytes(self) -> u32 {
        self.0
    }
}

/// An ack of bytes that were never sent: the peer is broken or lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("acknowledged up to {offset}, sent up to {sent}")]
pub struct BeyondSent {
    /// What was acknowledged.
    pub offset: u64,
    /// What was sent.
    pub sent: u64,
}

/// One viewer's place in one stream.
#[derive(Debug)]
pub(super) struct Credit {
    window: Option<Window>,
    acked: u64,
    sent: u64,
    /// How far the viewer was sent before it was moved: it may still acknowledge that.
    reached: u64,
    /// Gaps announced above `acked`, oldest first.
    skips: VecDeque<Skip>,
}

/// A range of which `bytes` were a gap.
#[derive(Debug, Clone, Copy)]
struct Skip {
    from: u64,
    to: u64,
    bytes: u64,
}

/// Most gaps remembered above an ack. Only a peer that acks a few bytes at a time under a flood makes more; further
/// ones are then remembered together with the data between them.
const MAX_SKIPS: usize = 64;

impl Credit {
    pub(super) const fn new(from: u64, window: Option<Window>) -> Self {
        Self { window, acked: from, sent: from, reached: 0, skips: VecDeque::new() }
    }

    /// Credit from another offset on, for a viewer that is moved there.
    pub(super) fn moved(&self, from: u64, window: Option<Window>) -> Self {
        Self { reached: self.reached.max(self.sent), ..Self::new(from, window) }
    }

    /// Everything below this was handed out or announced as a gap.
    pub(super) const fn sent(&self) -> u64 {
        self.sent
    }

    /// Something was sent of which a viewer that acknowledges has not said that it got it.
    pub(super) const fn is_open(&self) -> bool {
        self.window.is_some() && self.acked < self.sent
    }

    /// How many bytes may be handed out now.
    pub(super) fn available(&self) -> u64 {
        match self.window {
            None => u64::MAX,
            Some(window) => u64::from(window.bytes()).saturating_sub(self.in_flight()),
        }
    }

    /// `bytes` were handed out.
    pub(super) fn deliver(&mut self, bytes: u64) {
        self.sent += bytes;
    }

    /// A gap from `sent` to `to` was announced.
    pub(super) fn skip(&mut self, to: u64) {
        let skip = Skip { from: self.sent, to, bytes: to - self.sent };
        self.sent = to;
        let full = self.skips.len() >= MAX_SKIPS;
        match self.skips.back_mut() {
            Some(last) if full || last.to == skip.from => {
                last.to = skip.to;
                last.bytes += skip.bytes;
            }
            Some(_) | None => self.skips.push_back(skip),
        }
    }

    /// The peer consumed everything below `offset`. What it says of bytes from before it was moved changes nothing.
    pub(super) fn ack(&mut self, offset: u64, window: Option<Window>) -> Result<(), BeyondSent> {
        if offset > self.sent.max(self.reached) {
            return Err(BeyondSent { offset, sent: self.sent });
        }
        self.window = window.or(self.window);
        if offset > self.sent {
            return Ok(());
        }
        self.acked = self.acked.max(offset);
        while self.skips.front().is_some_and(|skip| skip.to <= self.acked) {
            self.skips.pop_front();
        }
        Ok(())
    }

    /// Below this a ring of `capacity` bytes need keep nothing for this viewer.
    ///
    /// Without a window: what was handed out. With one: what was acknowledged, so that a client that comes back
    /// finds what it never got. But where the window is larger than the ring, holding on to all unacknowledged
    /// bytes would stop the pump before a client that acks once a window has reason to ack: it would wedge. Then
    /// half the ring is kept for coming back, and the other half goes on taking bytes in.
    pub(super) fn passed(&self, capacity: usize) -> u64 {
        let capacity = capacity as u64;
        match self.window {
            None => self.sent,
            Some(window) if u64::from(window.bytes()) <= capacity => self.acked,
            Some(_) => self.acked.max(self.sent.saturating_sub(capacity / 2)),
        }
    }

    fn in_flight(&self) -> u64 {
        let above = |skip: &Skip| {
            if self.acked <= skip.from { skip.bytes } else { skip.bytes.min(skip.to - self.acked) }
        };
        let skipped: u64 = self.skips.iter().map(above).sum();
        (self.sent - self.acked).saturating_sub(skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credit() -> Credit {
        Credit::new(0, Window::new(4096))
    }

    #[test]
    fn at_most_a_window_is_in_flight() {
        let mut credit = credit();
        credit.deliver(4000);
        assert_eq!(credit.available(), 96);
        credit.deliver(96);
        assert_eq!(credit.available(), 0);
        credit.ack(1, None).unwrap();
        assert_eq!(credit.available(), 1);
    }

    #[test]
    fn old_and_repeated_acks_change_nothing() {
        let mut credit = credit();
        credit.deliver(4096);
        for offset in [3000, 2000, 3000, 0] {
            credit.ack(offset, None).unwrap();
            assert_eq!(credit.available(), 3000);
        }
    }

    #[test]
    fn an_ack_of_what_was_never_sent_is_an_error() {
        let mut credit = credit();
        credit.deliver(10);
        assert_eq!(credit.ack(11, None), Err(BeyondSent { offset: 11, sent: 10 }));
        assert_eq!(credit.available(), 4086);
    }

    #[test]
    fn a_gap_is_never_counted_wherever_the_ack_falls() {
        let mut credit = credit();
        credit.deliver(100);
        credit.skip(1_000_000);
        assert_eq!(credit.available(), 3996);
        credit.deliver(50);
        assert_eq!(credit.available(), 3946);
        credit.ack(90, None).unwrap();
        assert_eq!(credit.available(), 4036);
        credit.ack(500_000, None).unwrap();
        assert_eq!(credit.available(), 4046);
        credit.ack(1_000_050, None).unwrap();
        assert_eq!(credit.available(), 4096);
    }

    #[test]
    fn countless_gaps_take_bounded_memory_and_never_wedge() {
        let mut credit = credit();
        for _ in 0..1000 {
            credit.deliver(1);
            credit.skip(credit.sent() + 10);
        }
        assert!(credit.skips.len() <= MAX_SKIPS);
        assert_eq!(credit.available(), 3096);
        credit.ack(credit.sent(), None).unwrap();
        assert_eq!((credit.available(), credit.skips.len()), (4096, 0));
    }

    #[test]
    fn a_window_can_grow_and_shrink() {
        let mut credit = credit();
        credit.deliver(4096);
        credit.ack(0, Window::new(8192)).unwrap();
        assert_eq!(credit.available(), 4096);
        credit.ack(0, Window::new(4096)).unwrap();
        assert_eq!(credit.available(), 0);
    }

    #[test]
    fn a_ring_smaller_than_the_window_is_not_held_by_unacknowledged_bytes() {
        let mut credit = Credit::new(0, Window::new(1 << 20));
        credit.deliver(5000);
        assert_eq!(credit.passed(4096), 5000 - 2048);
        assert_eq!(credit.passed(1 << 20), 0);
    }
}
