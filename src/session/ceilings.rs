//! How much there may be, per server and per tenant: looked at anew for every call, so that a reload can change it while
//! sessions and jobs go on. And the cheap look that turns an overload away before anything is made for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::audit::RefusedBy;
use crate::domain::{Claim, Counted, Failure, JobLimits, Principal, Scope};
use crate::quota::LimitExceeded;

use super::core::holder;
use super::task::Card;
use super::{Core, Session};

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
    /// Whether a start in the session has a chance now. Under overload most have none, and what is made for a start — its
    /// task, its cell, its place in the session's mailbox — costs more than all else of a refusal. Nothing is taken, so
    /// what passes may still be refused.
    ///
    /// # Errors
    /// What the start would answer: draining, an open breaker, no slot, too many of the tenant's waiting.
    pub fn has_room_for_job(&self, session: &Session) -> Result<(), Failure> {
        self.admitting()?;
        self.rooms.breaker.look()?;
        self.rooms.audit_breaker.look()?;
        let owner = &session.card.owner;
        let claims = self.ceilings.load().job_claims(owner, &session.card);
        let room = self.rooms.slots.look(&holder(owner, Some(session.card.id)), Counted::Jobs, &claims);
        room.inspect_err(|_: &LimitExceeded| self.rooms.audit.refused(owner, RefusedBy::Slots))?;
        Ok(self.rooms.turns.look(&owner.tenant)?)
    }
}

fn by_tenant<'a, T>(table: &'a BTreeMap<Arc<str>, T>, principal: &Principal) -> Option<&'a T> {
    table.get(&principal.tenant).or_else(|| table.get("*"))
}
