//! Limits, claims and charges: what policy grants and the host enforces.
//!
//! Where a limit is an `Option`, `None` is unlimited; 0 is none at all.

use std::time::Duration;

/// Limits of one job. The strictest of all that apply is in force.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobLimits {
    /// Wall-clock time while not paused.
    pub wall: Option<Duration>,
    /// CPU time of the whole tree.
    pub cpu: Option<Duration>,
    /// Memory of the whole tree, bytes.
    pub memory: Option<u64>,
    /// Processes and threads alive at once.
    pub processes: Option<u32>,
    /// Bytes of output over all streams.
    pub output: Option<u64>,
    /// Largest file it may write, bytes.
    pub file_size: Option<u64>,
    /// Open files a process.
    pub open_files: Option<u32>,
    /// Added to the niceness, 0..=19; the largest is the strictest.
    pub nice: Option<u8>,
}

impl JobLimits {
    /// The stricter of both, limit by limit.
    #[must_use]
    pub fn strictest(&self, other: &Self) -> Self {
        Self {
            wall: stricter(self.wall, other.wall),
            cpu: stricter(self.cpu, other.cpu),
            memory: stricter(self.memory, other.memory),
            processes: stricter(self.processes, other.processes),
            output: stricter(self.output, other.output),
            file_size: stricter(self.file_size, other.file_size),
            open_files: stricter(self.open_files, other.open_files),
            nice: self.nice.max(other.nice),
        }
    }
}

/// The smaller of two limits, where `None` is unlimited.
pub(crate) fn stricter<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
    }
}

/// What a session may do, as granted by policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionGrant {
    /// Jobs alive at once.
    pub max_jobs: Option<u32>,
    /// Longest life of the session.
    pub max_duration: Option<Duration>,
    /// Ended after this long without a request and without a job.
    pub idle: Option<Duration>,
    /// Longest time without a connection; when nobody names one, the session cannot detach.
    pub detach_ttl: Option<Duration>,
    /// Ceiling for the limits of every job.
    pub job_limits: JobLimits,
}

/// What a claim is counted over.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// The whole server.
    Server,
    /// The principal's tenant.
    Tenant,
    /// The principal's (tenant, subject).
    Subject,
    /// All members of the named group within the tenant.
    Group(String),
    /// The session at hand.
    Session,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Counted {
    /// Sessions alive.
    Sessions,
    /// Jobs whose tree is not yet empty.
    Jobs,
}

/// "No more than `max` of `what` in `scope`": taken atomically by the host, given back when the object ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Counted over what.
    pub scope: Scope,
    /// What is counted.
    pub what: Counted,
    /// Most at once, including this one; 0 is none.
    pub max: u32,
}

/// A rate: `count` cells every `period`, at most `burst` at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quota {
    /// Most cells at once.
    pub burst: u32,
    /// Cells that come back each period.
    pub count: u32,
    /// The period.
    pub period: Duration,
}

/// What a rate policy asks the limiter to take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    /// The bucket's name, within the policy and the tenant.
    pub bucket: String,
    /// Cells to take; 0 is free.
    pub cost: u32,
    /// The bucket's quota.
    pub quota: Quota,
    /// The rule that charged.
    pub rule: String,
}

/// How much is in use, shown to policies as advice; claims are what binds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UsageCounts {
    /// Sessions and jobs on the server.
    pub server: (u32, u32),
    /// Sessions and jobs of the tenant.
    pub tenant: (u32, u32),
    /// Sessions and jobs of the (tenant, subject).
    pub subject: (u32, u32),
    /// Jobs of the session.
    pub session_jobs: u32,
}
