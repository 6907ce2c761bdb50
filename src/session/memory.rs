//! How near the gateway's memory is to its bound, and what is refused for it.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What is refused so that memory stays below its bound. What runs goes on in every case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Pressure {
    /// Nothing.
    None = 0,
    /// New sessions.
    NoSessions = 1,
    /// New connections too.
    NoConnections = 2,
}

/// The bound, and what is used of it.
#[derive(Debug, Default)]
pub struct Memory {
    /// Bytes that the gateway is held below.
    pub bound: AtomicU64,
    /// Resident bytes when last looked at.
    pub resident: AtomicU64,
    pressure: AtomicU8,
}

impl Memory {
    /// What is refused now.
    pub fn pressure(&self) -> Pressure {
        match self.pressure.load(Ordering::Relaxed) {
            0 => Pressure::None,
            1 => Pressure::NoSessions,
            _ => Pressure::NoConnections,
        }
    }

    /// From now on, this is.
    pub fn set_pressure(&self, pressure: Pressure) {
        self.pressure.store(pressure as u8, Ordering::Relaxed);
    }
}
