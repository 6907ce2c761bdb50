//! Every session and job by id, and the ended jobs that can still be asked about.
//!
//! Another owner's id answers exactly as one that never was.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::domain::{Failure, JobId, Principal, SessionId};

use super::open::OpenKeys;
use super::{Job, Session};

/// What the caller wants to do with what it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Anything: only its owner may.
    Own,
    /// List, observe or kill: an admin may too.
    Administer,
}

/// The tables of a gateway.
#[derive(Debug)]
pub struct Registry {
    // One lock, held for one table operation: the tables must agree with each other, and a task would put a
    // queue before every look-up.
    tables: Mutex<Tables>,
    /// Notified when a job or session ends.
    ended: Notify,
}

/// Which ended jobs can still be asked about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// For how long.
    pub time: Duration,
    /// Most over the whole server; the oldest of the tenant that holds most goes first.
    pub most: usize,
    /// Most of one session; the oldest goes first.
    pub most_of_session: usize,
}

#[derive(Debug, Default)]
struct Tables {
    kept: Kept,
    sessions: HashMap<SessionId, Arc<Session>>,
    jobs: HashMap<JobId, Arc<Job>>,
    ended: VecDeque<Ended>,
    /// How many of `ended` each tenant has; none has 0.
    ended_of: HashMap<Arc<str>, usize>,
    open_keys: OpenKeys,
}

#[derive(Debug)]
struct Ended {
    job: JobId,
    session: SessionId,
    tenant: Arc<str>,
    at: Instant,
}

impl Registry {
    pub(super) fn new(kept: Kept) -> Self {
        Self { tables: Mutex::new(Tables { kept, ..Tables::default() }), ended: Notify::new() }
    }

    /// From now on, so many are kept.
    pub fn keep(&self, kept: Kept) {
        self.tables().kept = kept;
    }

    /// The session, as far as the caller reaches.
    ///
    /// # Errors
    /// [`Failure::NotFound`] when it never was, is gone, or is somebody else's.
    pub fn session(&self, id: SessionId, caller: &Principal, reach: Reach) -> Result<Arc<Session>, Failure> {
        let found = self.tables().sessions.get(&id).cloned();
        found.filter(|s| reaches(caller, &s.card.owner, reach)).ok_or(Failure::NotFound("session"))
    }

    /// The job, as far as the caller reaches.
    ///
    /// # Errors
    /// [`Failure::NotFound`] when it never was, is forgotten, or is somebody else's.
    pub fn job(&self, id: JobId, caller: &Principal, reach: Reach) -> Result<Arc<Job>, Failure> {
        let found = self.tables().jobs.get(&id).cloned();
        found.filter(|j| reaches(caller, &j.card.owner, reach)).ok_or(Failure::NotFound("job"))
    }

    /// Every session the caller may see, oldest first.
    pub fn sessions(&self, caller: &Principal) -> Vec<Arc<Session>> {
        let seen = |s: &&Arc<Session>| reaches(caller, &s.card.owner, Reach::Administer);
        let mut sessions: Vec<_> = self.tables().sessions.values().filter(seen).cloned().collect();
        sessions.sort_by_key(|session| session.card.opened_at);
        sessions
    }

    /// Every job the caller may see, ended ones included, oldest first.
    pub fn jobs(&self, caller: &Principal, session: Option<SessionId>) -> Vec<Arc<Job>> {
        let wanted = |job: &Job| {
            reaches(caller, &job.card.owner, Reach::Administer)
                && session.is_none_or(|id| id == job.card.session)
        };
        let mut jobs: Vec<_> = self.tables().jobs.values().filter(|j| wanted(j)).cloned().collect();
        jobs.sort_by_key(|job| job.card.started_at);
        jobs
    }

    /// Sessions and jobs alive.
    pub fn alive(&self) -> (usize, usize) {
        let tables = self.tables();
        (tables.sessions.len(), tables.jobs.len().saturating_sub(tables.ended.len()))
    }

    /// Completes when no job is alive.
    pub async fn no_job(&self) {
        loop {
            let ended = self.ended.notified();
            if self.running().is_empty() {
                return;
            }
            ended.await;
        }
    }

    /// Every job alive, for the shutdown.
    pub fn running(&self) -> Vec<Arc<Job>> {
        self.tables().jobs.values().filter(|job| job.state().closed.is_none()).cloned().collect()
    }

    /// Every session, for the shutdown.
    pub fn every_session(&self) -> Vec<Arc<Session>> {
        self.tables().sessions.values().cloned().collect()
    }

    pub(super) fn add_session(&self, session: Arc<Session>) {
        self.tables().sessions.insert(session.card.id, session);
    }

    pub(super) fn remove_session(&self, id: SessionId) {
        let mut tables = self.tables();
        tables.sessions.remove(&id);
        tables.open_keys.forget(id);
        drop(tables);
        self.ended.notify_waiters();
    }

    pub(super) fn add_job(&self, job: Arc<Job>) {
        self.tables().jobs.insert(job.card.id, job);
    }

    /// Keeps the job among the ended ones, and forgets what is over age or number.
    pub(super) fn retire_job(&self, job: &Job) {
        let mut tables = self.tables();
        let (id, session, tenant) = (job.card.id, job.card.session, job.card.owner.tenant.clone());
        *tables.ended_of.entry(tenant.clone()).or_default() += 1;
        tables.ended.push_back(Ended { job: id, session, tenant, at: Instant::now() });
        let kept = tables.ended.iter().filter(|e| e.session == session).count();
        // More than one where the limit was lowered.
        for _ in tables.kept.most_of_session..kept {
            tables.forget_oldest(|e| e.session == session);
        }
        tables.forget_surplus();
        drop(tables);
        self.ended.notify_waiters();
    }

    /// Forgets ended jobs over age or number. Called every few seconds by the server.
    pub fn prune(&self) {
        self.tables().forget_surplus();
    }

    /// Runs one step on the keys of `session.open`.
    pub(super) fn with_open_keys<T>(&self, step: impl FnOnce(&mut OpenKeys) -> T) -> T {
        step(&mut self.tables().open_keys)
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn forget_oldest(&mut self, wanted: impl Fn(&Ended) -> bool) {
        let Some(ended) = self.ended.iter().position(wanted).and_then(|at| self.ended.remove(at)) else {
            return;
        };
        if let Entry::Occupied(mut count) = self.ended_of.entry(ended.tenant) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        if let Some(job) = self.jobs.remove(&ended.job) {
            job.output.forgive();
        }
    }

    fn forget_surplus(&mut self) {
        let kept = self.kept;
        while self.ended.front().is_some_and(|e| e.at.elapsed() >= kept.time) {
            self.forget_oldest(|_| true);
        }
        while self.ended.len() > kept.most {
            // Whoever fills the tables pays with its own.
            let fullest = self.ended_of.iter().max_by_key(|(_, count)| **count);
            let Some(fullest) = fullest.map(|(tenant, _)| tenant.clone()) else { return };
            self.forget_oldest(|e| e.tenant == fullest);
        }
    }
}

fn reaches(caller: &Principal, owner: &Principal, reach: Reach) -> bool {
    match reach {
        Reach::Own => caller.is_same_owner(owner),
        Reach::Administer => caller.is_same_owner(owner) || caller.may_administer(owner),
    }
}
