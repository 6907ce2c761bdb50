//! How much there may be, per server and per tenant: looked at anew for every call, so that a reload can change it while
//! sessions and jobs go on. And the slot of a start, which is taken before anything is made
//! for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::audit::RefusedBy;
use crate::domain::{Claim, Counted, Failure, JobLimits, Principal, Scope};
use crate::quota::Slot;

use super::core::holder;
use super::review::Caller;
use super::start::{Asked, JobRequest};
use super::task::Card;
use super::{Core, Job, Link, Session};

/// The operator's ceilings. What is beyond them is refused; nothing that runs is ended when they are lowered.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ceilings {
    /// Most sessions on the server: each costs a task and a table entry.
    pub sessions: u32,
    /// Most jobs on the server: each costs a leaf, its processes, two rings and a task.
    pub jobs: u32,
    /// Ceilings for every job, by tenant; the tenant `*` stands for every other.
    pub of_job: BTreeMap<Arc<str>, JobLimits>,
    /// How many a tenant may have, by tenant; the tenant `*` stands for every other.
    pub of_tenant: BTreeMap<Arc<str>, TenantCounts>,
    /// Profiles that confine every job, by tenant; the tenant `*` stands for every other.
    pub confine: BTreeMap<Arc<str>, Vec<String>>,
}

/// How many a tenant may have of all its subjects together; `None` is as many as the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TenantCounts {
    /// Connections, one HTTP request that runs a command counted as one.
    pub connections: Option<u32>,
    /// Sessions.
    pub sessions: Option<u32>,
    /// Jobs.
    pub jobs: Option<u32>,
}

impl Ceilings {
    /// How many the principal's tenant may have.
    pub fn counts(&self, principal: &Principal) -> TenantCounts {
        by_tenant(&self.of_tenant, principal).copied().unwrap_or_default()
    }

    /// The profiles that confine the principal's jobs, beside `base`.
    pub(super) fn confine(&self, principal: &Principal) -> &[String] {
        by_tenant(&self.confine, principal).map_or(&[], Vec::as_slice)
    }

    /// The operator's ceilings for the principal's jobs.
    pub(super) fn of_job(&self, principal: &Principal) -> JobLimits {
        by_tenant(&self.of_job, principal).cloned().unwrap_or_default()
    }

    /// How many sessions there may be, before policy is asked.
    pub(super) fn session_claims(&self, principal: &Principal) -> Vec<Claim> {
        let most = |scope, max| Claim { scope, what: Counted::Sessions, max };
        let of_tenant = self.counts(principal).sessions.map(|max| most(Scope::Tenant, max));
        std::iter::once(most(Scope::Server, self.sessions)).chain(of_tenant).collect()
    }

    /// How many jobs there may be for one more of the session, before policy is asked.
    pub(super) fn job_claims(&self, principal: &Principal, session: &Card) -> Vec<Claim> {
        let most = |scope, max| Claim { scope, what: Counted::Jobs, max };
        let mut claims = vec![most(Scope::Server, self.jobs)];
        claims.extend(self.counts(principal).jobs.map(|max| most(Scope::Tenant, max)));
        claims.extend(session.job_claims.iter().cloned());
        claims.extend(session.grant.max_jobs.map(|max| most(Scope::Session, max)));
        claims
    }
}

impl Core {
    /// Starts a job in the session, reviewed as what the caller is now; only the owning connection may.
    ///
    /// Under overload most starts have no chance, and what is made for one — its task, its cell, its place in the session's
    /// mailbox — costs more than all else of a refusal, so its slot is taken before. A repeat under a key must find what
    /// it asks for, however full the server is.
    ///
    /// # Errors
    /// Whatever refuses or breaks the start.
    pub async fn start_job(
        &self,
        session: &Session,
        request: JobRequest,
        caller: &Caller,
        link: &Arc<Link>,
    ) -> Result<Arc<Job>, Failure> {
        let slot = match &request.key {
            None => Some(self.slot_at_once(session, &caller.principal)?),
            Some(_) => None,
        };
        session.start(Asked { request, slot, caller: caller.clone(), asker: link.id() }).await
    }

    fn slot_at_once(&self, session: &Session, principal: &Principal) -> Result<Slot, Failure> {
        self.admitting()?;
        self.rooms.breaker.look()?;
        self.rooms.audit_breaker.look()?;
        self.rooms.turns.look(&principal.tenant)?;
        self.start_slot(principal, &session.card)
    }

    /// A place for one more job of the session; where there is none, the decision log is told.
    pub(super) fn start_slot(&self, principal: &Principal, session: &Card) -> Result<Slot, Failure> {
        self.job_slot(principal, session)
            .inspect_err(|_| self.rooms.audit.refused(principal, RefusedBy::Slots))
    }

    /// A place for one more job of the session.
    pub(super) fn job_slot(&self, principal: &Principal, session: &Card) -> Result<Slot, Failure> {
        let claims = self.ceilings.load().job_claims(principal, session);
        Ok(self.rooms.slots.claim(&holder(principal, Some(session.id)), Counted::Jobs, &claims)?)
    }
}

fn by_tenant<'a, T>(table: &'a BTreeMap<Arc<str>, T>, principal: &Principal) -> Option<&'a T> {
    table.get(&principal.tenant).or_else(|| table.get("*"))
}
