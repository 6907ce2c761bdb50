//! What policies are asked, as plain values: exactly this is shown to guests, written to the decision log, and replayed from it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Origin, Principal, Resolved, SessionId, UsageCounts};

/// When a decision is made. One decision has one moment, whatever time it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct When {
    /// Milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
    /// In the zone: 1 is Monday, 7 is Sunday.
    pub weekday: u8,
    /// In the zone: minutes since midnight, 0 to 1439.
    pub minute_of_day: u16,
    /// The zone's name, e.g. `UTC`.
    pub zone: Arc<str>,
}

/// A call that rate policies are asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Who.
    pub principal: Arc<Principal>,
    /// From where.
    pub origin: Origin,
    /// When.
    pub when: When,
    /// Which.
    pub method: CallMethod,
    /// For a start: the program, as the client wrote it.
    pub program: Option<String>,
}

/// The calls that cost something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallMethod {
    /// Opening a session.
    SessionOpen,
    /// Starting a job.
    JobStart,
}

impl CallMethod {
    /// The word of the protocol.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SessionOpen => "session.open",
            Self::JobStart => "job.start",
        }
    }
}

/// A command that command policies are asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandRequest {
    /// Who.
    pub principal: Arc<Principal>,
    /// From where.
    pub origin: Origin,
    /// When.
    pub when: When,
    /// In which session.
    pub session: SessionId,
    /// What, with its facts.
    pub resolved: Resolved,
    /// The session's labels with the job's on top.
    pub labels: BTreeMap<String, String>,
    /// What is in use; advice.
    pub usage: UsageCounts,
}

impl CommandRequest {
    /// The call that brought it, as rate policies are asked about it.
    pub fn call(&self) -> Call {
        Call {
            principal: self.principal.clone(),
            origin: self.origin.clone(),
            when: self.when.clone(),
            method: CallMethod::JobStart,
            program: Some(self.resolved.command.program().to_owned()),
        }
    }
}

/// A session that session policies are asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRequest {
    /// Who.
    pub principal: Arc<Principal>,
    /// From where.
    pub origin: Origin,
    /// When.
    pub when: When,
    /// The id it would have.
    pub session: SessionId,
    /// The client's labels.
    pub labels: BTreeMap<String, String>,
    /// What is in use; advice.
    pub usage: UsageCounts,
}
