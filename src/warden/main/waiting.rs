//! Leaders forked ahead: each in a fresh leaf of its own, confined as every job is, nobody's until it gets its errand.
//!
//! They take fork and leaf off the way of a start. They are made when there is nothing else to do, only while jobs are being
//! started, and go soon after the last start; a host that cannot make them has none, and starts go their ordinary way. They
//! stand in the table of jobs under numbers that the gateway cannot use, so that whatever ends a job ends them, but
//! they count as none and nothing is told of them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::super::job::{Job, Phase};
use super::super::leaf::Leaf;
use super::super::proto::WireFailure;
use super::requests::sources;
use super::{LINGER, MAX_NUMBER, Process};
use crate::domain::SpawnStage;

/// Leaders that wait at most: starts at the same moment that find one. Each costs a process of some hundred KiB.
const MOST: usize = 4;
/// How long none is made after a job has started and has not ended: a short one ends within, and would have to wait for
/// the fork on a host with few processors.
const SETTLE: Duration = Duration::from_millis(2);
/// How long none is made after one could not be.
const REST: Duration = Duration::from_secs(1);
/// The group of their leaves. Whose they will be is not known, and a group cannot move; no tenant has this name.
const NOBODY: &str = "";

/// The leaders that wait.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    numbers: VecDeque<u64>,
    made: u64,
    /// Until when more starts are expected.
    until: Option<Instant>,
    /// Until when none is made, because one could not be.
    resting: Option<Instant>,
    /// Until when none is made, because a job has just started.
    settling: Option<Instant>,
}

impl Process {
    /// Jobs that are the gateway's.
    pub(super) fn working(&self) -> usize {
        self.jobs.keys().filter(|number| **number <= MAX_NUMBER).count()
    }

    /// A job was asked for: others will be.
    pub(super) fn expect_more(&mut self, now: Instant) {
        self.waiting.until = Some(now + LINGER);
        for number in &self.waiting.numbers {
            if let Some(job) = self.jobs.get_mut(number) {
                job.deadline = self.waiting.until;
            }
        }
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
        self.waiting.settling.filter(|at| self.waiting.numbers.len() < MOST && *at > Instant::now())
    }

    /// Whether to fork one, once there is nothing else to do. Not while a start is under way: it would have to wait.
    pub(super) fn wants_leader(&self, now: Instant) -> bool {
        let wanted = self.closing.is_none()
            && self.waiting.numbers.len() < MOST
            && self.waiting.until.is_some_and(|until| now < until)
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
        self.waiting.made += 1;
        let number = MAX_NUMBER + self.waiting.made;
        match self.fork_leader(number, NOBODY, NOBODY) {
            Err(_) => self.rest(),
            Ok(mut job) => {
                // What is known of the leaf is no news to the one who takes it.
                let _ = job.leaf.as_ref().map(Leaf::state);
                job.deadline = self.waiting.until;
                self.adopt(job);
                self.waiting.numbers.push_back(number);
            }
        }
    }

    /// Gives the errand to a leader that waits, which becomes the job of this number. False when there is none.
    pub(super) fn send_waiting(&mut self, number: u64, errand: &[u8]) -> bool {
        while let Some(waiting) = self.waiting.numbers.pop_front() {
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

    /// One that waited is being ended. If it was before its time, none is made for a while: what ends them all must not
    /// make the warden fork for ever.
    pub(super) fn lose_waiting(&mut self, number: u64) {
        self.waiting.numbers.retain(|waiting| *waiting != number);
        if self.waiting.until.is_some_and(|until| Instant::now() < until) {
            self.rest();
        }
    }

    fn rest(&mut self) {
        self.waiting.resting = Some(Instant::now() + REST);
    }
}
