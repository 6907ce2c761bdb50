//! What may be used at once and over time: slots, turns, the limiter, and the circuit breakers.
//!
//! Guests keep no counters, because counting in a guest would race; everything that is counted is counted here.

mod breaker;
mod limiter;
mod slots;
mod turns;

pub use breaker::{Breaker, Kept, Open};
pub use limiter::{LimitRefusal, Limiter};
pub use slots::{Holder, LimitExceeded, Slot, Slots};
pub use turns::{NoTurn, Turn, Turns};

use std::time::Duration;

/// Bounds of the counters.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Most rate buckets alive; each is a few hundred bytes. A tenant may have as many as are free; who finds no room is
    /// refused, and nothing forgotten.
    pub max_buckets: usize,
    /// Failures of ours within `breaker_window` that open the breaker.
    pub breaker_failures: usize,
    /// The window they are counted over.
    pub breaker_window: Duration,
    /// How long it stays open before it tries one start.
    pub breaker_rest: Duration,
    /// Decisions, with the starts behind them, that go on at once: as many as the policies' pool has places.
    pub turns: usize,
    /// Calls of one tenant that may wait for a turn; each is a task.
    pub waiting_per_tenant: usize,
    /// How long a call may wait for its turn.
    pub turn_wait: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_buckets: 65_536,
            breaker_failures: 5,
            breaker_window: Duration::from_secs(10),
            breaker_rest: Duration::from_secs(5),
            turns: 4,
            waiting_per_tenant: 256,
            turn_wait: Duration::from_secs(5),
        }
    }
}
