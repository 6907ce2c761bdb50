//! What every session and job shares: the rooms below, the tables, and the state of the drain.

use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::audit::Audit;
use crate::domain::{Failure, Principal, SessionId, UsageCounts};
use crate::policy::Policies;
use crate::quota::{Breaker, Holder, Limiter, Slots};
use crate::warden::Warden;

use super::{Registry, Settings};

/// The rooms a session stands on.
#[derive(Debug)]
pub struct Rooms {
    /// Decides.
    pub policies: Policies,
    /// Counts over time.
    pub limiter: Limiter,
    /// Counts at once.
    pub slots: Slots,
    /// Stops trying when spawning is broken.
    pub breaker: Breaker,
    /// Runs.
    pub warden: Warden,
    /// Remembers decisions.
    pub audit: Audit,
}

/// Whether the server still admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drain {
    /// It does.
    Open,
    /// It does not; jobs have until then.
    Draining {
        /// When jobs are told to end.
        deadline: Instant,
    },
    /// Jobs are being ended.
    Ending,
}

/// Everything a session or a job needs; one per gateway.
#[derive(Debug)]
pub struct Core {
    /// The rooms below.
    pub rooms: Rooms,
    /// The operator's decisions.
    pub settings: Settings,
    /// Every session and job, by id.
    pub registry: Registry,
    /// Every task of this room, so that the server can wait for all of them.
    pub tracker: TaskTracker,
    /// Tells one start of the server from another.
    pub epoch: String,
    drain: watch::Sender<Drain>,
    drain_wanted: Notify,
}

impl Core {
    /// Puts the rooms together.
    ///
    /// # Errors
    /// [`Failure::Internal`] when the kernel gives no randomness.
    pub fn new(rooms: Rooms, settings: Settings, tracker: TaskTracker) -> Result<Arc<Self>, Failure> {
        let registry = Registry::new(&settings);
        let epoch = format!("{:032x}", random_bits()?);
        let (drain, drain_wanted) = (watch::Sender::new(Drain::Open), Notify::new());
        Ok(Arc::new(Self { rooms, settings, registry, tracker, epoch, drain, drain_wanted }))
    }

    /// An admin wants the server drained.
    pub fn request_drain(&self) {
        self.drain_wanted.notify_one();
    }

    /// Completes when an admin wants the server drained.
    pub async fn drain_requested(&self) {
        self.drain_wanted.notified().await;
    }

    /// Follows the drain.
    pub fn drain(&self) -> watch::Receiver<Drain> {
        self.drain.subscribe()
    }

    /// Moves the drain on; it never goes back.
    pub fn set_drain(&self, to: Drain) {
        self.drain.send_replace(to);
    }

    /// # Errors
    /// [`Failure::Draining`] once the drain has begun.
    pub fn admitting(&self) -> Result<(), Failure> {
        match *self.drain.borrow() {
            Drain::Open => Ok(()),
            Drain::Draining { .. } | Drain::Ending => Err(Failure::Draining),
        }
    }

    /// What the principal, and the session if any, use now.
    pub(super) fn usage(&self, principal: &Principal, session: Option<SessionId>) -> UsageCounts {
        self.rooms.slots.usage(&holder(principal, session))
    }
}

/// Whom slots are counted for.
pub(super) fn holder(principal: &Principal, session: Option<SessionId>) -> Holder {
    Holder {
        tenant: principal.tenant.clone(),
        subject: principal.subject.clone(),
        groups: principal.groups.clone(),
        session,
    }
}

/// 128 bits from the kernel for an id.
pub(super) fn random_bits() -> Result<u128, Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|e| Failure::Internal(format!("the kernel gave no randomness: {e}")))?;
    Ok(u128::from_ne_bytes(bytes))
}
