//! Leaders forked ahead: each in a fresh leaf of its session's group, confined as every job is, nobody's until it gets its errand.
//!
//! They take fork and leaf off the way of a start. A leaf cannot move, so a leader waits for one session, and only a start of that
//! session gets it. They are made when there is nothing else to do, for sessions that start one job after the other, and go soon
//! after the last start; a host that cannot make them has none, and starts go their ordinary way. They stand in the table of
//! jobs under numbers that the gateway cannot use, so that whatever ends a job ends them, but they count as none and nothing is
//! told of them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::super::job::{Job, Phase};
use super::super::leaf::Leaf;
use super::super::proto::WireFailure;
use super::requests::sources;
use super::{LINGER, MAX_NUMBER, Process};
use crate::domain::SpawnStage;

/// Leaders that wait at most. Each costs a process of some hundred KiB.
const MOST: usize = 8;
/// Leaders that wait for one session at most: one for the next start, one for a start at the same moment.
const MOST_OF_A_SESSION: usize = 2;
/// Sessions whose last start is remembered at most; beyond it the oldest is forgotten, and forks as before.
const SESSIONS: usize = 64;
/// Starts of a session, none longer than [`LINGER`] after the one before, from which on more are expected: a session of one
/// command must not cost a second fork.
const STARTS: u32 = 2;
/// How long none is made after a job has started and has not ended: a short one ends within, and would have to wait for
/// the fork on a host with few processors.
const SETTLE: Duration = Duration::from_millis(2);
/// How long none is made after one could not be.
const REST: Duration = Duration::from_secs(1);

/// The leaders that wait, and for whom.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    leaders: VecDeque<(u64, Session)>,
    /// Sessions that have started jobs, the one that did so last at the end.
    starting: VecDeque<Expected>,
    made: u64,
    /// Until when none is made, because one could not be.
    resting: Option<Instant>,
    /// Until when none is made, because a job has just started.
    settling: Option<Instant>,
}

/// A session of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) tenant: String,
    pub(super) session: String,
}

/// A session that may start more jobs.
#[derive(Debug)]
struct Expected {
    session: Session,
    starts: u32,
    until: Instant,
}

impl Waiting {
    /// Those that wait for this session.
    fn of(&self, session: &Session) -> impl Iterator<Item = u64> {
        self.leaders.iter().filter(move |(_, of)| of == session).map(|(number, _)| *number)
    }

    /// The session that one is to be made for.
    fn next(&self, now: Instant) -> Option<&Expected> {
        if self.leaders.len() >= MOST {
            return None;
        }
        let lacks = |expected: &&Expected| {
            let more = expected.starts >= STARTS && now < expected.until;
            more && self.of(&expected.session).count() < MOST_OF_A_SESSION
        };
        self.starting.iter().rev().find(lacks)
    }
}

impl Process {
    /// Jobs that are the gateway's.
    pub(super) fn working(&self) -> usize {
        self.jobs.keys().filter(|number| **number <= MAX_NUMBER).count()
    }

    /// A session starts a job: it may start others.
    pub(super) fn expect_more(&mut self, session: Session, now: Instant) {
        let until = now + LINGER;
        self.waiting.starting.retain(|expected| now < expected.until);
        let known = self.waiting.starting.iter().position(|expected| expected.session == session);
        let starts =
            known.and_then(|place| self.waiting.starting.remove(place)).map_or(0, |found| found.starts);
        if self.waiting.starting.len() >= SESSIONS {
            self.waiting.starting.pop_front();
        }
        for number in self.waiting.of(&session).collect::<Vec<_>>() {
            if let Some(job) = self.jobs.get_mut(&number) {
                job.deadline = Some(until);
            }
        }
        self.waiting.starting.push_back(Expected { session, starts: starts.saturating_add(1), until });
    }

    /// A job's program runs.
    pub(super) fn job_started(&mut self) {
        self.waiting.settling = Some(Instant::now() + SETTLE);
    }

    /// A job's program has ended.
    pub(super) fn job_exited(&mut self) {
        self.waiting.settling = None;
    }

    /// When to ask again whether to fork one.
    pub(super) fn next_leader(&self) -> Option<Instant> {
        let now = Instant::now();
        self.waiting.settling.filter(|at| *at > now && self.waiting.next(now).is_some())
    }

    /// Whether to fork one, once there is nothing else to do. Not while a start is under way: it would have to wait.
    pub(super) fn wants_leader(&self, now: Instant) -> bool {
        let wanted = self.closing.is_none()
            && self.waiting.next(now).is_some()
            && self.waiting.resting.is_none_or(|until| until <= now)
            && self.waiting.settling.is_none_or(|until| until <= now);
        let starting = |job: &Job| match job.phase {
            Phase::Resolving | Phase::Parked | Phase::Starting => job.failure.is_none(),
            Phase::Waiting | Phase::Running => false,
        };
        wanted && !self.jobs.values().any(starting)
    }

    /// Forks one.
    pub(super) fn fork_ahead(&mut self) {
        let Some(next) = self.waiting.next(Instant::now()) else { return };
        let (session, until) = (next.session.clone(), next.until);
        self.waiting.made += 1;
        let number = MAX_NUMBER + self.waiting.made;
        match self.fork_leader(number, &session, true) {
            Err(_) => self.rest(),
            Ok(mut job) => {
                // What is known of the leaf is no news to the one who takes it.
                let _ = job.leaf.as_ref().map(Leaf::state);
                job.deadline = Some(until);
                self.waiting.leaders.push_back((number, session));
                self.adopt(job);
            }
        }
    }

    /// Gives the errand to a leader that waits for this session, which becomes the job of this number. False when there is none.
    pub(super) fn send_waiting(&mut self, number: u64, session: &Session, errand: &[u8]) -> bool {
        while let Some(waiting) = self.take(session) {
            if !self.send_out(waiting, errand) {
                continue;
            }
            let Some(mut job) = self.jobs.remove(&waiting) else { continue };
            job.number = number;
            let renamed = sources(&job).try_for_each(|(source, fd)| self.rename(number, source, fd));
            self.jobs.insert(number, job);
            if let Err(errno) = renamed {
                self.fail(number, WireFailure::new(SpawnStage::Fork, errno, "epoll"));
            }
            return true;
        }
        false
    }

    fn take(&mut self, session: &Session) -> Option<u64> {
        let place = self.waiting.leaders.iter().position(|(_, of)| of == session)?;
        self.waiting.leaders.remove(place).map(|(number, _)| number)
    }

    /// One that waited is being ended. If it was before its time, none is made for a while: what ends them all must not
    /// make the warden fork for ever.
    pub(super) fn lose_waiting(&mut self, number: u64) {
        self.waiting.leaders.retain(|(waiting, _)| *waiting != number);
        let now = Instant::now();
        if self.jobs.get(&number).and_then(|job| job.deadline).is_some_and(|until| now < until) {
            self.rest();
        }
    }

    fn rest(&mut self) {
        self.waiting.resting = Some(Instant::now() + REST);
    }
}
