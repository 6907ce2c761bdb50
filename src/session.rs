//! Sessions and jobs: who owns what, from admission to the last process gone.
//!
//! ```text
//! session   opening ──admitted──> attached <──attach──> detached ──ttl──┐
//!                                    └──close, disconnect, expiry───────┴──> closing ──every tree empty──> gone
//! job       starting ──released──> running <──> paused ──leader dead──> exited ──> draining ──tree empty──> closed
//! ```
//!
//! One task owns each session and one each job; others hold handles. The session task never awaits a guest, a
//! child or a socket, so it can always cancel. A job's task is one straight function ([`start`], then [`run`]);
//! dropping it at any point kills the tree, because the warden's handles kill on drop. What happens to a job is
//! kept as state, not sent as messages: every viewer compares what it has told its client with what is so now,
//! and nobody can be made to wait, or to buffer, for somebody slow.
//!
//! This room knows policy, quota, warden and streams; it must never name a socket, JSON or WebAssembly.

mod core;
mod environment;
mod explain;
mod job;
mod link;
mod memory;
mod open;
mod registry;
mod review;
mod run;
mod start;
mod streams;
mod task;

pub use self::core::{Core, Drain, ReloadWish, Rooms};
pub use environment::Home;
pub use explain::{Explanation, Round};
pub use job::{Card as JobCard, Closed, Ending, Exited, Job, JobState, Pause, Stopped};
pub use link::{Link, News};
pub use memory::{Memory, Pressure};
pub use open::{Opened, SessionRequest};
pub use registry::{Reach, Registry};
pub use review::Caller;
pub use start::{JobRequest, StdinMode};
pub use task::{Attached, Card as SessionCard, Session, SessionClosed, SessionState};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::{JobLimits, Principal};

/// What the operator decides about sessions and jobs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Most sessions on the server: each costs a task and a table entry.
    pub max_sessions: u32,
    /// Most jobs on the server: each costs a leaf, its processes, two rings and a task.
    pub max_jobs: u32,
    /// The PATH that names are looked up on and that jobs see.
    pub path: String,
    /// Variables every job gets.
    pub env: BTreeMap<String, String>,
    /// Names a client may set; `*` at the end stands for any rest.
    pub env_allow: Vec<String>,
    /// What jobs run as, by tenant; the tenant `*` stands for every other.
    pub identities: BTreeMap<Arc<str>, Identity>,
    /// Ceilings for every job, by tenant; the tenant `*` stands for every other.
    pub job_limits: BTreeMap<Arc<str>, JobLimits>,
    /// How many sessions and jobs a tenant may have, by tenant; the tenant `*` stands for every other.
    pub tenant_counts: BTreeMap<Arc<str>, TenantCounts>,
    /// Profiles that confine every job, by tenant; the tenant `*` stands for every other.
    pub confine: BTreeMap<Arc<str>, Vec<String>>,
    /// From TERM to KILL at shutdown.
    pub kill_grace: Duration,
    /// How long an ended job can still be asked about.
    pub keep_ended: Duration,
    /// Most ended jobs kept over the whole server; the oldest goes first.
    pub max_ended: usize,
    /// Most ended jobs kept of one session; the oldest goes first.
    pub max_ended_per_session: usize,
    /// Streams and their bounds.
    pub streams: crate::stream::Settings,
}

/// How many a tenant may have of all its subjects together; `None` is as many as the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TenantCounts {
    /// Sessions.
    pub sessions: Option<u32>,
    /// Jobs.
    pub jobs: Option<u32>,
}

/// What a tenant's jobs run as.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its place among the warden's identities; `None` is the user who started the gateway.
    pub place: Option<u32>,
    /// What the job sees of it.
    pub home: Home,
}

impl Settings {
    /// What the principal's jobs run as; `None` when the operator gave the tenant no identity.
    pub(crate) fn identity(&self, principal: &Principal) -> Option<&Identity> {
        by_tenant(&self.identities, principal)
    }

    /// How many the principal's tenant may have.
    pub(crate) fn counts(&self, principal: &Principal) -> TenantCounts {
        by_tenant(&self.tenant_counts, principal).copied().unwrap_or_default()
    }

    /// The profiles that confine the principal's jobs, beside `base`.
    pub(crate) fn confine(&self, principal: &Principal) -> &[String] {
        by_tenant(&self.confine, principal).map_or(&[], Vec::as_slice)
    }

    /// The operator's ceilings for the principal's jobs.
    pub(crate) fn ceilings(&self, principal: &Principal) -> JobLimits {
        by_tenant(&self.job_limits, principal).cloned().unwrap_or_default()
    }
}

fn by_tenant<'a, T>(table: &'a BTreeMap<Arc<str>, T>, principal: &Principal) -> Option<&'a T> {
    table.get(&principal.tenant).or_else(|| table.get("*"))
}
