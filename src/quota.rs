//! What may be used at once and over time: slots, the limiter, and the circuit breaker on spawning.
//!
//! Guests keep no counters, because counting in a guest would race; everything that is counted is counted here.

mod breaker;
mod limiter;
mod slots;

pub use breaker::{Breaker, Open};
pub use limiter::{LimitRefusal, Limiter};
pub use slots::{Holder, LimitExceeded, Slot, Slots};

use std::time::Duration;

/// Bounds of the counters.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Most rate buckets alive; each is a few hundred bytes. A full table refuses rather than forgets.
    pub max_buckets: usize,
    /// Failures of ours within `breaker_window` that open the breaker.
    pub breaker_failures: usize,
    /// The window they are counted over.
    pub breaker_window: Duration,
    /// How long it stays open before it tries one start.
    pub breaker_rest: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_buckets: 65_536,
            breaker_failures: 5,
            breaker_window: Duration::from_secs(10),
            breaker_rest: Duration::from_secs(5),
        }
    }
}
