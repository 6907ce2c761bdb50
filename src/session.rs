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

mod ceilings;
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

pub use self::ceilings::{Ceilings, TenantCounts};
pub use self::core::{Core, Drain, MEMORY_RETRY, ReloadWish, Rooms};
pub use environment::Home;
pub use explain::{Explanation, Round};
pub use job::{Card as JobCard, Closed, Ending, Excerpt, Exited, Job, JobState, Pause, Stopped};
pub use link::{Admission, Leash, Link, News};
pub use memory::{Memory, Pressure};
pub use open::{Opened, SessionRequest};
pub use registry::{Kept, Reach, Registry};
pub use review::Caller;
pub use start::{JobRequest, Reading, StdinMode};
pub use task::{Attached, Card as SessionCard, Session, SessionClosed, SessionState};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::{Principal, Secret};

/// What the operator decides about sessions and jobs, for as long as the server runs; [`Ceilings`] is what can change.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The PATH that names are looked up on and that jobs see.
    pub path: String,
    /// Variables every job gets.
    pub env: BTreeMap<String, Secret>,
    /// Names a client may set; `*` at the end stands for any rest.
    pub env_allow: Vec<String>,
    /// What jobs run as, by tenant; the tenant `*` stands for every other.
    pub identities: BTreeMap<Arc<str>, Identity>,
    /// From TERM to KILL at shutdown.
    pub kill_grace: Duration,
    /// Which ended jobs can still be asked about, at first.
    pub kept: Kept,
    /// Streams and their bounds.
    pub streams: crate::stream::Settings,
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
        self.identities.get(&principal.tenant).or_else(|| self.identities.get("*"))
    }
}
