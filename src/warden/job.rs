//! One job as the warden process knows it: what it holds in each state, and when it must be looked at next.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::keeper::Keeper;
use super::leaf::Leaf;
use super::meter::Meter;
use super::proto::WireFailure;
use super::spawn::{self, Leader};
use super::sys::Spent;
use super::walk::{self, Seen};
use crate::domain::{Breach, ExitStatus};

/// How often a tree without a leaf is looked at after its leader exited.
const WATCH_EVERY: Duration = Duration::from_millis(25);
/// How often a group that is to freeze or thaw is looked at: the kernel holds back a second notice for 10 ms.
pub(super) const LOOK_FROZEN: Duration = Duration::from_millis(1);
/// How often a tree that was killed is looked at: a thousand processes in a leaf take about as long to die.
pub(super) const LOOK_SOON: Duration = Duration::from_millis(20);
/// How often a tree that should have died in time is tried again.
const JANITOR_EVERY: Duration = Duration::from_millis(100);
/// How long a keeper may take to end its job, or to say how the leader ended, before the warden looks whether it was
/// stopped, as a job of the same user may have done.
const TAKEOVER: Duration = Duration::from_secs(1);
/// Such looks before the warden does without a keeper that is at work. Hunting down a tree of the largest size that can be
/// hunted takes less.
const TAKEOVER_LOOKS: u32 = 10;

/// Where a job stands. What follows `Running` is told by `status` and `killed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The leader waits for its errand.
    Waiting,
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
    /// `None` where there are no groups: then it has a keeper.
    pub(super) leaf: Option<Leaf>,
    pub(super) keeper: Option<Keeper>,
    /// The warden's end of the leader's gate, until exec.
    pub(super) gate: Option<OwnedFd>,
    /// Owner of a terminal handed to it: the uid it runs as, when that is not ours.
    pub(super) owner: Option<u32>,
    pub(super) phase: Phase,
    /// When the phase must have ended.
    pub(super) deadline: Option<Instant>,
    /// Set once the leader is a zombie.
    pub(super) status: Option<ExitStatus>,
    /// The leader is dead, and somebody who traces it keeps its status from us.
    pub(super) traced: bool,
    /// The start failed; told when nothing is left of it.
    pub(super) failure: Option<WireFailure>,
    pub(super) killed: Option<Killed>,
    /// What a keeper that is gone and its tree used, where it reaped all of it.
    pub(super) spent: Option<Spent>,
    /// Its limits, from its release on.
    pub(super) meter: Meter,
    /// The limit that ended it.
    pub(super) breach: Option<Breach>,
    pub(super) pause: Pause,
    look_at: Option<Instant>,
    /// When the keeper must have done what is its to do, and looks left.
    patience: Option<(Instant, u32)>,
}

/// A tree that was killed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Killed {
    /// When it is no longer expected to die by itself.
    pub(super) due: Instant,
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
    /// When they are told that it did not come.
    pub(super) deadline: Option<Instant>,
    /// When the group is looked at for it next.
    pub(super) look_at: Option<Instant>,
}

impl Job {
    pub(super) fn new(number: u64, leader: Leader, leaf: Option<Leaf>, gate: OwnedFd) -> Self {
        Self {
            number,
            name: String::new(),
            leader,
            leaf,
            keeper: None,
            gate: Some(gate),
            owner: None,
            phase: Phase::Waiting,
            deadline: None,
            status: None,
            traced: false,
            failure: None,
            killed: None,
            spent: None,
            meter: Meter::default(),
            breach: None,
            pause: Pause::default(),
            look_at: None,
            patience: None,
        }
    }

    /// When it must be looked at without an event.
    pub(super) fn wake(&self) -> Option<Instant> {
        let overdue = self.killed.filter(|k| !k.told).map(|k| k.overdue);
        let limits = self.meter.wake().filter(|_| self.status.is_none() && self.killed.is_none());
        let all = [
            self.deadline,
            overdue,
            self.look_at,
            self.pause.deadline,
            self.pause.look_at,
            self.patience.map(|(at, _)| at),
            limits,
        ];
        all.into_iter().flatten().min()
    }

    /// Asks to be looked at now.
    pub(super) fn look_now(&mut self) {
        self.look_at = Some(Instant::now());
    }

    /// Whether its leaf should be empty by now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.killed.is_some_and(|killed| killed.due <= now)
    }

    /// Asks to be looked at soon, unless it is going to be sooner.
    pub(super) fn look_soon(&mut self) {
        let soon = Instant::now() + LOOK_SOON;
        self.look_at = Some(self.look_at.map_or(soon, |at| at.min(soon)));
    }

    /// Whether the time has come to look at the whole tree; sets the next time.
    pub(super) fn take_look(&mut self, now: Instant) -> bool {
        if self.look_at.is_none_or(|at| at > now) {
            return false;
        }
        let every = match self.killed {
            Some(killed) if !killed.told => LOOK_SOON,
            Some(_) => JANITOR_EVERY,
            None => WATCH_EVERY,
        };
        let again = self.killed.is_some() || (self.leaf.is_none() && self.status.is_some());
        self.look_at = again.then(|| now + every);
        true
    }

    /// Its living processes, in a tree with a keeper.
    pub(super) fn members(&self, around: &[Seen]) -> Vec<Seen> {
        let Some(keeper) = self.keeper.as_ref().map(|keeper| keeper.pid.as_raw()) else { return Vec::new() };
        let mut members = walk::below(around, std::iter::once(keeper));
        members.retain(|seen| seen.pid != keeper);
        members
    }

    /// The warden's own child of this job: its number is not to be reaped like an orphan's.
    pub(super) fn child(&self) -> i32 {
        self.keeper.as_ref().map_or(self.leader.pid, |keeper| keeper.pid).as_raw()
    }

    /// Expects something of the keeper soon.
    pub(super) fn expect_keeper(&mut self) {
        if self.keeper.is_some() {
            self.patience.get_or_insert((Instant::now() + TAKEOVER, TAKEOVER_LOOKS));
        }
    }

    /// Lets the keeper of an empty tree go.
    pub(super) fn dismiss_keeper(&mut self) {
        if let Some(keeper) = &mut self.keeper {
            keeper.end();
        }
        self.expect_keeper();
    }

    /// The keeper did what was expected.
    pub(super) fn thank_keeper(&mut self) {
        self.patience = None;
    }

    /// Whether a keeper is stopped, or had its time, and must be done without. Tells it once.
    pub(super) fn must_take_over(&mut self, now: Instant) -> bool {
        let Some((_, looks)) = self.patience.filter(|(at, _)| *at <= now) else { return false };
        let late = looks <= 1 || self.keeper.as_ref().is_some_and(Keeper::is_stopped);
        self.patience = (!late).then(|| (now + TAKEOVER, looks.saturating_sub(1)));
        late
    }

    /// How the leader ended, once it has and is ours to wait for; it stays a zombie.
    pub(super) fn peek_status(&self) -> Option<ExitStatus> {
        spawn::peek(self.leader.pidfd.as_fd())
    }

    /// Whether the leader has become the program. Its last gate message alone cannot tell: it closes also when
    /// the leader is killed on the way.
    pub(super) fn has_executed(&self) -> bool {
        walk::look(self.leader.pid.as_raw()).is_some_and(|seen| seen.executed)
    }
}
