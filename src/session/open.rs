//! Opening a session: charge, review, claims, and the task.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tracing::Instrument as _;

use crate::audit::RefusedBy;
use crate::domain::{self, CallMethod, Counted, Failure, SessionGrant, SessionId, Whose};
use crate::quota::LimitExceeded;

use super::core::{holder, random_bits};
use super::review::{self, Caller, Hearing};
use super::task::{self, Card};
use super::{Core, Link, Session};

/// What a client asks of a new session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionRequest {
    /// Free text for people and policies.
    pub labels: BTreeMap<String, String>,
    /// How long to live on without a connection: `None` not at all, `Some(None)` as long as granted.
    pub detach: Option<Option<Duration>>,
    /// Makes a retry safe.
    pub key: Option<String>,
}

/// A session that was opened, or found by its key.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The session.
    pub session: Arc<Session>,
}

type OpenCell = watch::Receiver<Option<Result<Arc<Session>, Failure>>>;

/// The keys of `session.open`: one entry for each open in flight or alive that named one.
#[derive(Debug, Default)]
pub(super) struct OpenKeys {
    by_key: HashMap<OpenKey, (SessionRequest, OpenCell)>,
}

/// Tenant, subject, key.
type OpenKey = (Arc<str>, Arc<str>, String);

impl OpenKeys {
    /// Forgets a key whose opening failed, unless it has been used anew since.
    fn forget_failed(&mut self, key: &OpenKey) {
        if self.by_key.get(key).is_some_and(|(_, cell)| !is_of_use(cell)) {
            self.by_key.remove(key);
        }
    }

    /// Forgets the key of a session that is gone.
    pub(super) fn forget(&mut self, id: SessionId) {
        self.by_key.retain(|_, (_, cell)| match &*cell.borrow() {
            Some(Ok(session)) => session.card.id != id,
            Some(Err(_)) => false,
            None => true,
        });
    }
}

/// Whether a repeat under the key is answered by this opening: it is under way, or its session is open still.
fn is_of_use(cell: &OpenCell) -> bool {
    match &*cell.borrow() {
        Some(outcome) => outcome.as_ref().is_ok_and(|session| session.state().is_open()),
        None => cell.has_changed().is_ok(),
    }
}

impl Core {
    /// Opens a session for the connection, or finds the one that the same key opened.
    ///
    /// # Errors
    /// Whatever refuses or breaks it; [`Failure::Conflict`] for a key used with other parameters.
    pub async fn open(
        self: &Arc<Self>,
        caller: &Caller,
        request: SessionRequest,
        link: &Arc<Link>,
    ) -> Result<Opened, Failure> {
        let session = self.opened(caller, request.clone(), link).await?;
        // Another connection's that was gone before it was open: this one asks anew.
        let gone = request.key.is_some() && !session.state().is_open();
        let session = if gone { self.opened(caller, request, link).await? } else { session };
        Ok(Opened { session })
    }

    async fn opened(
        self: &Arc<Self>,
        caller: &Caller,
        request: SessionRequest,
        link: &Arc<Link>,
    ) -> Result<Arc<Session>, Failure> {
        let mut cell = self.open_cell(caller, request, link)?;
        let outcome = cell.wait_for(Option::is_some).await;
        match outcome.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            Ok(None) | Err(_) => Err(Failure::Internal("the opening broke off".to_owned())),
        }
    }

    /// The opening in flight or done under this key, else a new one. It runs in a task of its own: once begun it
    /// is not undone by a caller that goes away, else a retry could open a second session.
    fn open_cell(
        self: &Arc<Self>,
        caller: &Caller,
        request: SessionRequest,
        link: &Arc<Link>,
    ) -> Result<OpenCell, Failure> {
        let Some(key) = request.key.clone() else { return Ok(self.begin_open(caller, request, link)) };
        let key = (caller.principal.tenant.clone(), caller.principal.subject.clone(), key);
        self.registry.with_open_keys(|keys| {
            if let Some((earlier, cell)) = keys.by_key.get(&key)
                && is_of_use(cell)
            {
                return match *earlier == request {
                    true => Ok(cell.clone()),
                    false => {
                        Err(Failure::Conflict(format!("key {:?} was used with other parameters", key.2)))
                    }
                };
            }
            let cell = self.begin_open(caller, request.clone(), link);
            keys.by_key.insert(key, (request, cell.clone()));
            Ok(cell)
        })
    }

    fn begin_open(self: &Arc<Self>, caller: &Caller, request: SessionRequest, link: &Arc<Link>) -> OpenCell {
        let (outcome, cell) = watch::channel(None);
        let (core, caller, link) = (self.clone(), caller.clone(), link.clone());
        let opening = async move {
            let key = request.key.clone();
            let opened = open(&core, &caller, request, &link).await;
            let failed = opened.as_ref().map_or(true, |session| !session.state().is_open());
            outcome.send_replace(Some(opened));
            if let Some(key) = key.filter(|_| failed) {
                let Caller { principal, .. } = &caller;
                let key = (principal.tenant.clone(), principal.subject.clone(), key);
                core.registry.with_open_keys(|keys| keys.forget_failed(&key));
            }
        };
        self.tracker.spawn(opening.in_current_span());
        cell
    }
}

async fn open(
    core: &Arc<Core>,
    caller: &Caller,
    request: SessionRequest,
    link: &Arc<Link>,
) -> Result<Arc<Session>, Failure> {
    core.admitting()?;
    core.roomy()?;
    let id = SessionId::from_bits(random_bits()?);
    let slot = core.rooms.slots.claim(
        &holder(&caller.principal, Some(id)),
        Counted::Sessions,
        &core.ceilings.load().session_claims(&caller.principal),
    );
    let no_slot = |_: &LimitExceeded| core.rooms.audit.refused(&caller.principal, RefusedBy::Slots);
    let mut slot = slot.inspect_err(no_slot)?;
    core.rooms.audit_breaker.admit()?;
    let _turn = core.rooms.turns.take(&caller.principal.tenant).await?;
    let mut hearing = Hearing::begin(core)?;
    hearing.charge(core, caller, CallMethod::SessionOpen, None).await?;
    let cleared = review::admit(core, &hearing, asked(core, caller, &hearing, id, &request)).await?;
    slot.grant(&cleared.terms().claims).inspect_err(no_slot)?;
    let grant = cleared.value().clone();
    let for_jobs = cleared.terms().claims.iter().filter(|claim| claim.what == Counted::Jobs);
    let card = Card {
        id,
        owner: caller.principal.clone(),
        labels: request.labels,
        job_claims: for_jobs.cloned().collect(),
        detach: granted_detach(request.detach, &grant)?,
        grant,
        opened_at: SystemTime::now(),
        decision: cleared.terms().decision,
    };
    core.admitting()?;
    tracing::info!(session = %id, tenant = %card.owner.tenant, subject = %card.owner.subject, decision = %card.decision, "session opened");
    let session = task::spawn(core, card, link.clone(), slot);
    if !link.own(session.clone()) {
        session.disconnect(link).await;
        session.left().await;
    }
    Ok(session)
}

fn asked(
    core: &Core,
    caller: &Caller,
    hearing: &Hearing,
    id: SessionId,
    request: &SessionRequest,
) -> domain::SessionRequest {
    domain::SessionRequest {
        principal: caller.principal.clone(),
        origin: caller.origin.clone(),
        when: hearing.when.clone(),
        session: id,
        labels: request.labels.clone(),
        usage: core.usage(&caller.principal, Some(id)),
    }
}

/// What was asked for, as far as it was granted.
fn granted_detach(
    asked: Option<Option<Duration>>,
    grant: &SessionGrant,
) -> Result<Option<Duration>, Failure> {
    match (asked, grant.detach_ttl) {
        (None, _) => Ok(None),
        (Some(_), None | Some(Duration::ZERO)) => {
            let limit = "detach_ttl_ms of the session".to_owned();
            Err(Failure::LimitExceeded { whose: Whose::Caller, limit, value: 0 })
        }
        (Some(ttl), Some(most)) => Ok(Some(ttl.map_or(most, |ttl| ttl.min(most)))),
    }
}
