//! What policy said, folded into one decision.
//!
//! Absence means deny: a decision without an allowing policy is a denial. Strictest wins: any denial denies, and
//! limits and claims take the smallest value named. [`Cleared`] is the permission as a value; its fields are
//! private to this room and only the folds below make one, so running something that policy has not cleared
//! does not compile.

mod change;
mod fold;

pub use change::Change;
pub use fold::{Changed, Folded, fold_charges, fold_command, fold_session};

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::{Claim, DecisionId, Denied, Failure, JobLimits, SessionGrant};

/// One policy's answer. `P` is what it permits: [`Permission`] or [`Admission`].
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<P> {
    /// Not my business. Abstaining is not allowing.
    Abstain,
    /// Allowed on these terms.
    Allow(P),
    /// Refused.
    Deny(Denial),
}

/// Why a policy refuses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Denial {
    /// For programs, e.g. `program_not_allowed`.
    pub code: String,
    /// For people.
    pub message: String,
    /// What to do next.
    pub remedy: Option<String>,
    /// The rules that refused.
    pub rules: Vec<String>,
}

/// The terms on which a command policy allows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permission {
    /// The rules that allowed.
    pub rules: Vec<String>,
    /// Changes to the command, applied in order.
    pub changes: Vec<Change>,
    /// Limits of the job.
    pub limits: JobLimits,
    /// Slots the host must take.
    pub claims: Vec<Claim>,
    /// Names of confinement profiles to add.
    pub confine: Vec<String>,
}

/// The terms on which a session policy admits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Admission {
    /// The rules that admitted.
    pub rules: Vec<String>,
    /// Slots the host must take.
    pub claims: Vec<Claim>,
    /// What the session may do.
    pub grant: SessionGrant,
}

/// Whether a policy's verdict binds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It binds.
    Enforce,
    /// It is evaluated, logged and counted, never enforced.
    Monitor,
}

/// How a policy broke. Every one denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It trapped: panic, unreachable, stack overflow, division by zero.
    Trap,
    /// It ran past its budget.
    Deadline,
    /// It asked for more memory than its cap.
    Memory,
    /// Its answer makes no sense or is too large.
    BadAnswer,
    /// It changed a command that had already been changed and reviewed anew.
    ChangesConflict,
    /// There was no place to run it in time.
    Unavailable,
}

impl Fault {
    /// The word of the protocol.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Deadline => "deadline",
            Self::Memory => "memory",
            Self::BadAnswer => "bad_answer",
            Self::ChangesConflict => "changes_conflict",
            Self::Unavailable => "unavailable",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A policy that gave no verdict: how it broke, and the detail for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The kind of fault.
    pub fault: Fault,
    /// For the operator's log, never for clients.
    pub detail: String,
}

/// Which code under which settings gave a verdict: enough to ask the same again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Author {
    /// The module's own version.
    pub version: String,
    /// SHA-256 of the module, hexadecimal.
    pub module: String,
    /// SHA-256 of the settings' text, hexadecimal.
    pub settings: String,
}

/// One policy's part in a decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ballot<P> {
    /// The policy's configured name.
    pub policy: Arc<str>,
    /// What exactly answered.
    pub author: Arc<Author>,
    /// Whether it binds.
    pub mode: Mode,
    /// What it said, or how it broke.
    pub outcome: Result<Verdict<P>, Broken>,
    /// How long the guest took.
    pub took: Duration,
}

/// A decision that ran against the caller.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Policy refused.
    Denied(Box<Denied>),
    /// A policy broke.
    Failed {
        /// The policy.
        policy: Arc<str>,
        /// How it broke.
        fault: Fault,
        /// The decision.
        decision: DecisionId,
    },
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Denied(denied) => Self::PolicyDenied(denied),
            Refusal::Failed { policy, fault, decision } => {
                Self::PolicyFailed { policy: policy.to_string(), fault: fault.to_string(), decision }
            }
        }
    }
}

/// The terms of a decision that allows: the strictest of all that were named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The decision.
    pub decision: DecisionId,
    /// Every allowing rule, as `policy/rule`.
    pub rules: Vec<String>,
    /// Limits of the job.
    pub limits: JobLimits,
    /// Slots to take, all or none.
    pub claims: Vec<Claim>,
    /// Confinement profiles to add.
    pub confine: Vec<String>,
}

/// Something policy has cleared, on these terms. Only the folds of this room make one.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleared<T> {
    value: T,
    terms: Terms,
}

impl<T> Cleared<T> {
    /// What was cleared.
    pub const fn value(&self) -> &T {
        &self.value
    }

    /// On what terms.
    pub const fn terms(&self) -> &Terms {
        &self.terms
    }
}
