//! One job as the warden process knows it: what it holds in each state, and when it must be looked at next.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::{WaitId, WaitIdOptions};

use super::leaf::Leaf;
use super::proto::WireFailure;
use super::spawn::Leader;
use super::walk::{self, Hunt, Seen};
use crate::domain::ExitStatus;

/// How often a tree without a leaf is looked at while it is being ended.
pub(super) const HUNT_EVERY: Duration = Duration::from_millis(2);
/// How often a tree without a leaf is looked at after its leader exited.
const WATCH_EVERY: Duration = Duration::from_millis(25);
/// How often a tree that should be dead is tried again.
const JANITOR_EVERY: Duration = Duration::from_millis(100);

/// Where a job stands. What follows `Running` is told by `status` and `killed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The leader takes its identity and opens its program.
    Resolving,
    /// It has told its facts and waits to be released.
    Parked,
    /// It is released and on its way to exec.
    Starting,
    /// It is the program.
    Running,
}

/// A job from fork to the removal of its leaf.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) number: u64,
    pub(super) name: String,
    pub(super) leader: Leader,
    /// `None` where there are no groups.
    pub(super) leaf: Option<Leaf>,
    /// The warden's end of the leader's gate, until exec.
    pub(super) gate: Option<OwnedFd>,
    /// Owner of a terminal handed to it: the uid it runs as, when that is not ours.
    pub(super) owner: Option<u32>,
    pub(super) phase: Phase,
    /// When the phase must have ended.
    pub(super) deadline: Option<Instant>,
    /// Set once the leader is a zombie.
    pub(super) status: Option<ExitStatus>,
    /// The start failed; told when nothing is left of it.
    pub(super) failure: Option<WireFailure>,
    pub(super) killed: Option<Killed>,
    pub(super) pause: Pause,
    look_at: Option<Instant>,
    hunt: Hunt,
}

/// A tree that was killed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Killed {
    /// When it is reported as living on.
    pub(super) overdue: Instant,
    /// It was.
    pub(super) told: bool,
}

/// Whether a job is paused.
#[derive(Debug, Default)]
pub(super) struct Pause {
    /// What was asked for last.
    pub(super) wanted: bool,
    /// Those who wait for the kernel's acknowledgement.
    pub(super) asks: Vec<u64>,
    pub(super) deadline: Option<Instant>,
}

impl Job {
    pub(super) fn new(number: u64, name: String, leader: Leader, leaf: Option<Leaf>, gate: OwnedFd) -> Self {
        Self {
            number,
            name,
            leader,
            leaf,
            gate: Some(gate),
            owner: None,
            phase: Phase::Resolving,
            deadline: None,
            status: None,
            failure: None,
            killed: None,
            pause: Pause::default(),
            look_at: None,
            hunt: Hunt::default(),
        }
    }

    /// When it must be looked at without an event.
    pub(super) fn wake(&self) -> Option<Instant> {
        let overdue = self.killed.filter(|k| !k.told).map(|k| k.overdue);
        [self.deadline, overdue, self.look_at, self.pause.deadline].into_iter().flatten().min()
    }

    /// Asks to be looked at now.
    pub(super) fn look_now(&mut self) {
        self.look_at = Some(Instant::now());
    }

    /// Whether the time has come to look at the whole tree; sets the next time.
    pub(super) fn take_look(&mut self, now: Instant) -> bool {
        if self.look_at.is_none_or(|at| at > now) {
            return false;
        }
        let every = match self.killed {
            Some(killed) if killed.told => JANITOR_EVERY,
            Some(_) if self.leaf.is_none() => HUNT_EVERY,
            Some(_) => JANITOR_EVERY,
            None => WATCH_EVERY,
        };
        let again = self.killed.is_some() || (self.leaf.is_none() && self.status.is_some());
        self.look_at = again.then(|| now + every);
        true
    }

    /// Its living processes, in a tree without a leaf.
    pub(super) fn members(&self, around: &[Seen], leaders: &HashSet<i32>) -> Vec<Seen> {
        let warden = std::process::id().cast_signed();
        walk::members(around, self.leader.pid.as_raw(), &self.name, warden, leaders)
    }

    /// One more round of ending a tree without a leaf.
    pub(super) fn hunt(&mut self, members: &[Seen]) {
        self.hunt.step(members);
    }

    /// How the leader ended, once it has; it stays a zombie.
    pub(super) fn peek_status(&self) -> Option<ExitStatus> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let status = rustix::process::waitid(WaitId::PidFd(self.leader.pidfd.as_fd()), options).ok()??;
        if let Some(code) = status.exit_status() {
            return Some(u8::try_from(code).map_or(ExitStatus::Unknown, ExitStatus::Code));
        }
        Some(match status.terminating_signal() {
            Some(number) => ExitStatus::Signal { number, core: status.dumped() },
            None => ExitStatus::Unknown,
        })
    }

    /// Whether the leader has become the program. Its last gate message alone cannot tell: it closes also when
    /// the leader is killed on the way.
    pub(super) fn has_executed(&self) -> bool {
        walk::look(self.leader.pid.as_raw()).is_some_and(|seen| seen.executed)
    }
}
