//! The bounds of this room, each with its reason. `config` fills them; nothing here reads a file.

use std::time::Duration;

use super::order::Runs;

/// Bounds of rings, queues and waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Ring of one output stream when the client asks for none, bytes. It is what a reconnecting client can be
    /// away for without a gap, and what `exited` may have to overtake.
    pub ring_bytes: u32,
    /// Largest ring a client may ask for, bytes; at most [`Settings::RING_LIMIT`]. Enters the declared memory bound.
    pub ring_bytes_max: u32,
    /// Bytes that the rings, their indexes and the stdin queues of all jobs may come to, running or ended and not yet read
    /// out. A job that does not fit is refused. With the tails of ended jobs, the declared memory bound.
    pub budget: u64,
    /// Queue of one job's stdin, bytes. As much as a pipe of its own takes, so that one is filled while the other
    /// drains.
    pub stdin_bytes: u32,
    /// Viewers of one job at once. Every chunk wakes each of them.
    pub viewers: usize,
    /// Under [`Overflow::Block`]: how long a pump waits before it overwrites what an observer that reads along has
    /// not taken; at most once a second for one that is too slow. Zero for not at all. Longer than a dozen tasks take
    /// turns on two processors, and short enough that a slow observer costs the job less than 5 %.
    ///
    /// [`Overflow::Block`]: super::Overflow::Block
    pub courtesy: Duration,
    /// Kept of each stream after the end of a job, bytes.
    pub tail_bytes: u32,
    /// After the leader's exit: how long a pipe that a descendant holds may stay silent.
    pub drain_idle: Duration,
    /// After the leader's exit: how long to wait for new bytes in all.
    pub drain_total: Duration,
}

/// A ring that is smaller or larger than allowed was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("ring of {asked} bytes is outside {least}..={most}")]
pub struct RingOutOfRange {
    /// What was asked for, bytes.
    pub asked: u64,
    /// Smallest allowed.
    pub least: u32,
    /// Largest allowed.
    pub most: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ring_bytes: 256 * 1024,
            ring_bytes_max: 1024 * 1024,
            budget: 256 * 1024 * 1024,
            stdin_bytes: 64 * 1024,
            viewers: 64,
            courtesy: Duration::from_millis(40),
            tail_bytes: 16 * 1024,
            drain_idle: Duration::from_millis(250),
            drain_total: Duration::from_secs(5),
        }
    }
}

impl Settings {
    /// Smallest ring, bytes: one page.
    pub const RING_LEAST: u32 = 4 * 1024;
    /// No setting may allow a ring above this, bytes.
    pub const RING_LIMIT: u32 = 16 * 1024 * 1024;
    /// Output streams of a job at most: stdout and stderr.
    const STREAMS: u64 = 2;

    /// The ring of a job that asked for `asked` bytes a stream.
    ///
    /// # Errors
    /// Below [`Settings::RING_LEAST`] or above [`Settings::ring_bytes_max`].
    pub fn ring_for(&self, asked: Option<u64>) -> Result<u32, RingOutOfRange> {
        let Some(asked) = asked else { return Ok(self.ring_bytes) };
        let most = self.ring_bytes_max.min(Self::RING_LIMIT);
        match u32::try_from(asked) {
            Ok(bytes) if (Self::RING_LEAST..=most).contains(&bytes) => Ok(bytes),
            Ok(_) | Err(_) => Err(RingOutOfRange { asked, least: Self::RING_LEAST, most }),
        }
    }

    /// What a job with rings of `ring_bytes` takes of the budget, whatever it prints and whoever stalls.
    pub const fn job(&self, ring_bytes: u32) -> u64 {
        Self::STREAMS * ring_bytes as u64 + Runs::BYTES_MAX + self.stdin_bytes as u64
    }

    /// Most bytes that this room can hold at once with the tails of `ended` jobs.
    pub const fn bound(&self, ended: u64) -> u64 {
        self.budget.saturating_add(ended.saturating_mul(Self::STREAMS * self.tail_bytes as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_given_only_within_its_range() {
        let settings = Settings::default();
        assert_eq!(settings.ring_for(None), Ok(settings.ring_bytes));
        assert_eq!(settings.ring_for(Some(4096)), Ok(4096));
        for asked in [0, 4095, u64::from(settings.ring_bytes_max) + 1, u64::MAX] {
            assert!(settings.ring_for(Some(asked)).is_err(), "{asked}");
        }
    }

    #[test]
    fn a_job_takes_both_its_rings_and_its_queue_and_the_bound_is_the_budget_and_the_tails() {
        let settings = Settings::default();
        assert!(settings.job(4096) >= 2 * 4096 + u64::from(settings.stdin_bytes));
        assert_eq!(settings.bound(10), settings.budget + 20 * u64::from(settings.tail_bytes));
        assert_eq!(settings.bound(u64::MAX), u64::MAX);
    }
}
