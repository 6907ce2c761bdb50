//! The closed list of what a client may be told went wrong.
//!
//! Rooms have error types of their own; what reaches a client is one of these. `rpc::code` holds the one table
//! that maps them to numbers.

use std::fmt;
use std::time::Duration;

use super::ids::DecisionId;

/// Whose a limit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// All tenants share it: who meets it has not asked for too much, the server is full.
    Server,
    /// The caller's own: its tenant's, its session's, down to that of one request.
    Caller,
}

/// A failure as a client sees it: a kind for programs and facts for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The text is not JSON, or not within the structural bounds.
    Parse(String),
    /// The JSON is not a JSON-RPC 2.0 request.
    InvalidRequest(String),
    /// No such method.
    MethodNotFound(String),
    /// The parameters are not those of the method.
    InvalidParams(String),
    /// A fault of ours.
    Internal(String),
    /// The credential expired or was revoked in mid-connection.
    Unauthenticated,
    /// A method for admins.
    Forbidden(&'static str),
    /// Policy refused.
    PolicyDenied(Box<Denied>),
    /// No such session or job, or it belongs to somebody else.
    NotFound(&'static str),
    /// Owned elsewhere, or a key used with other parameters.
    Conflict(String),
    /// A hard limit or a claim.
    LimitExceeded {
        /// Whose limit.
        whose: Whose,
        /// Which limit, e.g. `jobs of the session`.
        limit: String,
        /// Its value.
        value: u64,
    },
    /// The limiter refused a charge.
    RateLimited {
        /// The bucket that is empty.
        bucket: String,
        /// When the same charge would pass.
        retry_after: Duration,
    },
    /// The job could not be started.
    SpawnFailed {
        /// Where it failed.
        stage: SpawnStage,
        /// The system's error number.
        errno: i32,
        /// What it happened to.
        subject: String,
    },
    /// The server is shutting down.
    Draining,
    /// Something is exhausted or a circuit is open.
    Unavailable {
        /// What.
        what: String,
        /// When to try again.
        retry_after: Duration,
    },
    /// The job has ended.
    Finished,
    /// The stdin queue is full; nothing of the call was accepted.
    Busy {
        /// Bytes free in the queue now.
        free: u64,
    },
    /// A policy broke: denied.
    PolicyFailed {
        /// The policy that broke.
        policy: String,
        /// How: `trap`, `deadline`, `memory`, `bad_answer`, `changes_conflict`, `unavailable`.
        fault: String,
        /// The decision.
        decision: DecisionId,
    },
}

/// What a client is told of a denial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// The policy that denied; empty when none allowed.
    pub policy: String,
    /// The denial's code, e.g. `no_policy_allowed`.
    pub code: String,
    /// For people.
    pub message: String,
    /// The rules that denied.
    pub rules: Vec<String>,
    /// What to do next.
    pub remedy: Option<String>,
    /// The decision.
    pub decision: DecisionId,
}

/// Where the start of a job failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpawnStage {
    /// Making the leaf.
    Leaf,
    /// Forking the leader.
    Fork,
    /// Taking the identity.
    Identity,
    /// Opening or entering the working directory.
    Chdir,
    /// Session, group and terminal.
    Terminal,
    /// Standard streams.
    Stdio,
    /// Resource limits.
    Limits,
    /// Confinement profiles.
    Confine,
    /// Finding, opening or executing the program.
    Exec,
    /// The leader waited too long at the gate, or died there.
    Gate,
}

impl SpawnStage {
    /// The word of the protocol.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Leaf => "leaf",
            Self::Fork => "fork",
            Self::Identity => "identity",
            Self::Chdir => "chdir",
            Self::Terminal => "terminal",
            Self::Stdio => "stdio",
            Self::Limits => "limits",
            Self::Confine => "confine",
            Self::Exec => "exec",
            Self::Gate => "gate",
        }
    }
}

impl fmt::Display for SpawnStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
