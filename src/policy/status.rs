//! How the policies fare: which generation is in force, and what became of the last attempt to replace it.

use std::time::SystemTime;

/// A generation that did not come into force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReloadFailure {
    /// When it was tried.
    pub at: SystemTime,
    /// What was wrong with it, for the operator.
    pub why: String,
}

/// What is in force, and what should have been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The generation in force, from 1.
    pub generation: u64,
    /// Since when.
    pub since: SystemTime,
    /// How many reloads failed since the start.
    pub failures: u64,
    /// Why the last reload failed; `None` when it did not.
    pub failed: Option<ReloadFailure>,
}
