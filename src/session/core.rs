//! What every session and job shares: the rooms below, the tables, and the state of the drain.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::audit::Audit;
use crate::domain::{EndReason, Failure, Principal, SessionId, UsageCounts};
use crate::policy::Policies;
use crate::quota::{Breaker, Holder, Limiter, Slots, Turns};
use crate::stream::Budget;
use crate::warden::Warden;

use super::{Ceilings, Memory, Pressure, Registry, Settings};

/// When to come back to a gateway that is short of memory.
pub const MEMORY_RETRY: Duration = Duration::from_secs(5);

/// The rooms a session stands on.
#[derive(Debug)]
pub struct Rooms {
    /// Decides.
    pub policies: Policies,
    /// Counts over time.
    pub limiter: Limiter,
    /// Counts at once.
    pub slots: Slots,
    /// Whose start is decided and made next.
    pub turns: Turns,
    /// Stops trying when spawning is broken.
    pub breaker: Breaker,
    /// Stops deciding when decisions cannot be recorded.
    pub audit_breaker: Breaker,
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
    /// It does, and says that it is not ready, so that others stop sending clients.
    Leaving,
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
    /// How much there may be; replaced whole by a reload.
    pub ceilings: ArcSwap<Ceilings>,
    /// Every session and job, by id.
    pub registry: Registry,
    /// Every task of this room, so that the server can wait for all of them.
    pub tracker: TaskTracker,
    /// Bytes for the streams of all jobs.
    pub budget: Budget,
    /// Tells one start of the server from another.
    pub epoch: String,
    drain: watch::Sender<Drain>,
    drain_wanted: Notify,
    /// How near the gateway is to its memory bound.
    pub memory: Memory,
    reloads: mpsc::Sender<ReloadWish>,
    // Held by the one server that serves them, for as long as it does.
    reload_wishes: Mutex<mpsc::Receiver<ReloadWish>>,
}

/// Where the outcome of a reload that an admin wants is told.
pub type ReloadWish = oneshot::Sender<Result<String, String>>;

/// Reloads that wait; each is one call of an admin's.
const RELOADS: usize = 4;

impl Core {
    /// Puts the rooms together.
    ///
    /// # Errors
    /// [`Failure::Internal`] when the kernel gives no randomness.
    pub fn new(
        rooms: Rooms,
        settings: Settings,
        ceilings: Ceilings,
        tracker: TaskTracker,
    ) -> Result<Arc<Self>, Failure> {
        let registry = Registry::new(settings.kept);
        let epoch = format!("{:032x}", random_bits()?);
        let budget = Budget::new(settings.streams.budget);
        let (drain, drain_wanted) = (watch::Sender::new(Drain::Open), Notify::new());
        let (reloads, wishes) = mpsc::channel(RELOADS);
        Ok(Arc::new(Self {
            rooms,
            settings,
            ceilings: ArcSwap::from_pointee(ceilings),
            registry,
            tracker,
            budget,
            epoch,
            drain,
            drain_wanted,
            memory: Memory::default(),
            reloads,
            reload_wishes: Mutex::new(wishes),
        }))
    }

    /// An admin wants the server drained.
    pub fn request_drain(&self) {
        self.drain_wanted.notify_one();
    }

    /// Completes when an admin wants the server drained.
    pub async fn drain_requested(&self) {
        self.drain_wanted.notified().await;
    }

    /// Has the configuration read again; says what changed.
    ///
    /// # Errors
    /// [`Failure::Conflict`] with what is wrong: then nothing has changed. [`Failure::Unavailable`] when reloads queue up.
    pub async fn request_reload(&self) -> Result<String, Failure> {
        if self.is_leaving() {
            return Err(Failure::Draining);
        }
        let (wish, outcome) = oneshot::channel();
        let busy = || Failure::Unavailable { what: "a reload".to_owned(), retry_after: MEMORY_RETRY };
        self.reloads.try_send(wish).map_err(|_| busy())?;
        outcome.await.map_err(|_| busy())?.map_err(Failure::Conflict)
    }

    /// The next reload that an admin wants.
    pub async fn reload_requested(&self) -> Option<ReloadWish> {
        self.reload_wishes.lock().await.recv().await
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
            Drain::Open | Drain::Leaving => Ok(()),
            Drain::Draining { .. } | Drain::Ending => Err(Failure::Draining),
        }
    }

    /// Why a job that starts now is ended at once, if it is.
    pub(super) fn ending(&self) -> Option<EndReason> {
        (*self.drain.borrow() == Drain::Ending).then_some(EndReason::Shutdown)
    }

    /// Whether the server takes leave: it should get no new clients.
    pub fn is_leaving(&self) -> bool {
        *self.drain.borrow() != Drain::Open
    }

    /// # Errors
    /// [`Failure::Unavailable`] while memory is short: a session less is memory given back.
    pub fn roomy(&self) -> Result<(), Failure> {
        match self.memory.pressure() {
            Pressure::None => Ok(()),
            Pressure::NoSessions | Pressure::NoConnections => Err(Failure::Unavailable {
                what: "memory for another session".to_owned(),
                retry_after: MEMORY_RETRY,
            }),
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
