//! What happens to jobs: gate, leader, group, deadlines, and the order in which a job ends.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::super::job::{Job, Phase};
use super::super::keeper::{Heard, Kind};
use super::super::leaf::Leaf;
use super::super::link::{self, Received};
use super::super::proto::{self, FromWarden, LeaderSays, WireBreach, WireFacts, WireFailure, WireUsage};
use super::super::sys::Spent;
use super::super::walk::{self, Seen};
use super::super::{reap, sys, tree};
use super::{LINGER, MAX_NUMBER, Process, fault};
use crate::domain::{ExitStatus, SpawnStage};

impl Process {
    /// The leader spoke, or closed its gate by exec or by dying.
    pub(super) fn on_gate(&mut self, number: u64) {
        loop {
            let Some(gate) = self.jobs.get(&number).and_then(|job| job.gate.as_ref()) else { return };
            match link::receive(gate.as_fd(), &mut self.scratch) {
                Ok(Received::Packet(bytes, _)) => match proto::decode(&bytes) {
                    Some(LeaderSays::Facts(facts)) => self.park(number, facts),
                    Some(LeaderSays::Failed(failure)) => self.fail(number, failure),
                    None => self.fail(number, WireFailure::new(SpawnStage::Gate, Errno::EPROTO, "leader")),
                },
                Err(rustix::io::Errno::AGAIN) => return,
                // Told once, and before what it said last: it died with its errand unread.
                Err(rustix::io::Errno::CONNRESET) => {}
                Ok(Received::Garbage | Received::End) | Err(_) => return self.gate_closed(number),
            }
        }
    }

    fn park(&mut self, number: u64, facts: Box<WireFacts>) {
        let gate = Duration::from_millis(self.hello.gate_ms);
        let Some(job) = self.jobs.get_mut(&number) else { return };
        if job.phase == Phase::Resolving && job.failure.is_none() {
            job.phase = Phase::Parked;
            job.deadline = Some(Instant::now() + gate);
            self.tell(&FromWarden::Prepared { job: number, facts });
        }
    }

    fn gate_closed(&mut self, number: u64) {
        let Some(job) = self.jobs.get_mut(&number) else { return };
        if let Some(gate) = job.gate.take() {
            let _ = self.epoll.delete(&gate);
        }
        if job.failure.is_some() {
            return;
        }
        if job.phase != Phase::Starting || !job.has_executed() {
            return self.fail(number, WireFailure::new(SpawnStage::Gate, Errno::ECHILD, "leader died"));
        }
        let watched = std::iter::once(&job.leader.pidfd).chain(job.keeper.as_ref().map(|k| &k.pidfd));
        match watched.map(OwnedFd::try_clone).collect::<Result<Vec<_>, _>>() {
            Err(_) => self.fail(number, WireFailure::new(SpawnStage::Fork, Errno::EMFILE, "pidfd")),
            Ok(pidfds) => {
                job.phase = Phase::Running;
                job.deadline = None;
                let started = FromWarden::Started { job: number, pid: job.leader.pid.as_raw() };
                self.tell_with(&started, pidfds);
                self.job_started();
            }
        }
    }

    /// The start failed. It is told when nothing is left of it.
    pub(super) fn fail(&mut self, number: u64, failure: WireFailure) {
        let patience = self.patience();
        if number > MAX_NUMBER {
            self.lose_waiting(number);
        }
        if let Some(job) = self.jobs.get_mut(&number) {
            job.deadline = None;
            job.failure.get_or_insert(failure);
            tree::kill(job, patience);
        }
    }

    /// The leader is a zombie.
    pub(super) fn on_leader(&mut self, number: u64) {
        self.on_gate(number);
        let Some(job) = self.jobs.get_mut(&number) else { return };
        if job.keeper.is_some() {
            // Its keeper says how it ended.
            let _ = self.epoll.delete(&job.leader.pidfd);
            return job.expect_keeper();
        }
        // Told once: a leader that is traced is dead long before its tracer lets us see how it ended, and SIGCHLD tells of that.
        let _ = self.epoll.delete(&job.leader.pidfd);
        match job.peek_status() {
            Some(status) => self.leader_ended(number, status),
            None => job.traced = true,
        }
    }

    fn leader_ended(&mut self, number: u64, status: ExitStatus) {
        let Some(job) = self.jobs.get_mut(&number).filter(|job| job.status.is_none()) else { return };
        job.status = Some(status);
        job.breach = job.breach.or_else(|| job.meter.ended(status));
        let breach = job.breach.map(WireBreach);
        if job.keeper.is_some() {
            job.look_now();
        }
        if job.phase == Phase::Running && job.failure.is_none() {
            self.tell(&FromWarden::Exited { job: number, status, breach });
            self.job_exited();
        }
        self.finish_if_empty(number);
    }

    /// A keeper spoke, or is gone.
    pub(super) fn on_keeper(&mut self, number: u64) {
        self.on_gate(number);
        loop {
            let Some(keeper) = self.jobs.get(&number).and_then(|job| job.keeper.as_ref()) else { return };
            match keeper.hear() {
                Heard::Exited(status) => self.leader_ended(number, status),
                Heard::Nothing => break,
                Heard::End => {
                    let _ = self.epoll.delete(&keeper.line);
                    break;
                }
            }
        }
        let Some(keeper) = self.jobs.get(&number).and_then(|job| job.keeper.as_ref()) else { return };
        if let Ok(Some(spent)) = sys::reap(keeper.pidfd.as_fd()) {
            self.keeper_gone(number, spent);
        }
    }

    /// A keeper is dead and reaped. Its job is too, unless somebody killed the keeper of a tree that only it held.
    fn keeper_gone(&mut self, number: u64, spent: Spent) {
        let Some(job) = self.jobs.get_mut(&number) else { return };
        let Some(keeper) = job.keeper.take() else { return };
        self.leaders.remove(&keeper.pid.as_raw());
        let _ = self.epoll.delete(&keeper.line);
        let _ = self.epoll.delete(&keeper.pidfd);
        let _ = self.epoll.delete(&job.leader.pidfd);
        job.thank_keeper();
        job.spent = spent.well.then_some(spent);
        if job.status.is_none() {
            let killed = ExitStatus::Signal { number: Signal::SIGKILL as i32, core: false };
            let otherwise = if job.killed.is_some() { killed } else { ExitStatus::Unknown };
            let status = sys::exit_of(job.leader.pidfd.as_fd()).map_or(otherwise, of_wait);
            self.leader_ended(number, status);
        }
        if matches!(keeper.kind, Kind::Init { .. }) || spent.well {
            return self.conclude(number);
        }
        fault("keeper", "a job killed or stopped its keeper; everything that no other keeper holds is ended");
        self.end_job(number);
        self.strays.get_or_insert_default();
    }

    /// The group became empty, frozen or thawed.
    pub(super) fn on_group(&mut self, number: u64) {
        self.settle_pause(number, Instant::now());
        self.finish_if_empty(number);
    }

    pub(super) fn settle_pause(&mut self, number: u64, now: Instant) {
        let settled = self.jobs.get_mut(&number).and_then(|job| tree::settled(job, now));
        if let Some((answer, asks)) = settled {
            for ask in asks {
                self.tell(&FromWarden::Answer { ask, answer });
            }
        }
    }

    pub(super) fn on_children(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        self.reap_again = true;
        let traced = self.jobs.values().filter(|job| job.traced && job.status.is_none());
        let traced: Vec<u64> = traced.map(|job| job.number).collect();
        traced.into_iter().for_each(|number| self.on_leader(number));
        // Also where there are leaves: the kernel holds back a second notice of `cgroup.events` for 10 ms.
        self.jobs.values_mut().filter(|job| job.status.is_some()).for_each(Job::look_now);
    }

    fn finish_if_empty(&mut self, number: u64) {
        let Some(job) = self.jobs.get(&number) else { return };
        if job.status.is_none() {
            return;
        }
        if job.leaf.as_ref().is_some_and(|leaf| !leaf.state().populated) {
            return self.conclude(number);
        }
        let alone = job.keeper.as_ref().is_some_and(|k| !k.ending && k.holds_only(job.leader.pid));
        if let (true, Some(job)) = (alone, self.jobs.get_mut(&number)) {
            job.dismiss_keeper();
        }
    }

    /// The tree is empty and the leader a zombie: reap it, remove the leaf, say so.
    fn conclude(&mut self, number: u64) {
        let Some(job) = self.jobs.remove(&number) else { return };
        if let Some(gate) = &job.gate {
            let _ = self.epoll.delete(gate);
        }
        let cpu = job.leaf.as_ref().filter(|_| job.failure.is_none()).and_then(Leaf::cpu);
        let spent = job.spent.or_else(|| {
            self.leaders.remove(&job.leader.pid.as_raw());
            sys::reap(job.leader.pidfd.as_fd()).ok().flatten()
        });
        let usage = WireUsage {
            user: cpu.map(|c| c.0).or(spent.map(|s| s.user)),
            system: cpu.map(|c| c.1).or(spent.map(|s| s.system)),
            max_rss: spent.map(|s| s.max_rss),
            processes_peak: job.meter.peak(),
        };
        let Job { failure, killed, pause, leaf, meter, .. } = job;
        self.controllers.remove(meter);
        if let Some(leaf) = leaf {
            self.remove_leaf(leaf);
        }
        for ask in pause.asks {
            self.tell(&FromWarden::Answer { ask, answer: proto::Answer::Finished });
        }
        self.reap_again = true;
        self.look_for_strays = true;
        if number > MAX_NUMBER {
            return;
        }
        self.tell(&match failure {
            _ if killed.is_some_and(|k| k.told) => FromWarden::Swept { job: number },
            Some(failure) => FromWarden::Failed { job: number, failure },
            None => FromWarden::Emptied { job: number, survivors: 0, usage },
        });
    }

    pub(super) fn remove_leaf(&mut self, leaf: Leaf) {
        let _ = self.epoll.delete(leaf.events());
        if let Some(root) = &mut self.ground.root
            && let Err(leaf) = root.remove(leaf)
        {
            self.residue.push(leaf);
        }
    }

    /// Everything that time, not a descriptor, brings.
    pub(super) fn tick(&mut self, now: Instant) {
        for leaf in std::mem::take(&mut self.residue) {
            self.remove_leaf(leaf);
        }
        let due: Vec<u64> =
            self.jobs.values().filter(|j| j.wake().is_some_and(|at| at <= now)).map(|j| j.number).collect();
        for number in due {
            self.settle_pause(number, now);
            self.check_deadline(number, now);
            self.check_limits(number, now);
            self.look(number, now);
            self.check_overdue(number, now);
        }
        if let Some(root) = &mut self.ground.root {
            let linger = if self.closing.is_some() { Duration::ZERO } else { LINGER };
            root.prune(now, linger, |what| fault("group", what));
        }
        self.reap_orphans();
        self.hunt_strays();
    }

    fn check_deadline(&mut self, number: u64, now: Instant) {
        let Some(job) = self.jobs.get(&number).filter(|j| j.deadline.is_some_and(|at| at <= now)) else {
            return;
        };
        let (stage, subject) = match job.phase {
            Phase::Waiting | Phase::Resolving => (SpawnStage::Gate, "leader"),
            Phase::Parked => (SpawnStage::Gate, "the decision took longer than jobs.gate"),
            Phase::Starting | Phase::Running => (SpawnStage::Exec, "leader"),
        };
        self.fail(number, WireFailure::new(stage, Errno::ETIMEDOUT, subject));
    }

    /// Ends a job that met a limit of its whole tree.
    fn check_limits(&mut self, number: u64, now: Instant) {
        let patience = self.patience();
        let Some(job) = self.jobs.get_mut(&number).filter(|job| job.phase == Phase::Running) else { return };
        if job.killed.is_some() || job.status.is_some() {
            return;
        }
        if let Some(breach) = job.meter.look(now, job.leaf.as_ref()) {
            job.breach = Some(breach);
            tree::kill(job, patience);
        }
    }

    /// Looks at a tree that no event tells of.
    fn look(&mut self, number: u64, now: Instant) {
        let Some(job) = self.jobs.get_mut(&number) else { return };
        if job.must_take_over(now)
            && let Some(keeper) = &job.keeper
        {
            keeper.slay();
        }
        if !job.take_look(now) {
            return;
        }
        match &job.leaf {
            Some(leaf) if job.is_due(now) && leaf.state().populated => leaf.put_down(),
            None if job.keeper.is_none() => drop(self.strays.get_or_insert_default()),
            Some(_) | None => {}
        }
        self.finish_if_empty(number);
    }

    /// A tree that should be dead and is not is told once, and tried on.
    fn check_overdue(&mut self, number: u64, now: Instant) {
        let Some(job) = self.jobs.get_mut(&number) else { return };
        let Some(killed) = job.killed.as_mut().filter(|k| !k.told && k.overdue <= now) else { return };
        killed.told = true;
        job.look_now();
        let survivors = tree::survivors(job, &walk::look_around());
        fault("kill", &format!("{} lives on with {survivors} process(es)", job.name));
        let told = match job.failure.clone() {
            Some(failure) => FromWarden::Failed { job: number, failure },
            None => FromWarden::Emptied { job: number, survivors, usage: WireUsage::default() },
        };
        self.tell(&told);
    }

    /// Reaps orphans; those that live when no job does belong to nobody and are ended.
    fn reap_orphans(&mut self) {
        if !std::mem::take(&mut self.reap_again) {
            return;
        }
        let turn = reap::orphans(&self.leaders, Some);
        self.reap_again = turn.more;
        let root = self.ground.root.as_ref();
        let held = |pid: &i32| root.is_some_and(|root| root.holds(*pid));
        if std::mem::take(&mut self.look_for_strays) && !turn.living.iter().all(held) {
            self.strays.get_or_insert_default();
        }
    }

    /// Ends whoever descends from the warden although no leaf, keeper or leader holds it: a process that left its leaf,
    /// or one whose keeper was killed. Orphans of living jobs that are in their leaf are left alone.
    fn hunt_strays(&mut self) {
        let Some(hunt) = &mut self.strays else { return };
        let root = self.ground.root.as_ref();
        let held = |pid| root.is_some_and(|root| root.holds(pid));
        let nobody = reap::chase(&self.leaders, held).proves_empty(held);
        let (own, around) = (self.pid.as_raw(), walk::look_around());
        let stray = |seen: &&Seen| {
            let orphan = seen.parent == own && !self.leaders.contains(&seen.pid);
            orphan && !seen.ended && !held(seen.pid)
        };
        let living = walk::below(&around, around.iter().filter(stray).map(|seen| seen.pid));
        hunt.step(&living);
        if nobody {
            self.strays = None;
            let lost = |job: &&Job| job.leaf.is_none() && job.keeper.is_none();
            let lost: Vec<u64> = self.jobs.values().filter(lost).map(|job| job.number).collect();
            lost.into_iter().for_each(|number| self.conclude(number));
        } else if hunt.is_hopeless() {
            self.strays = None;
            fault("strays", &format!("{} orphan(s) cannot be ended", living.len()));
        }
    }
}

/// A status in the form of wait(2).
fn of_wait(status: i32) -> ExitStatus {
    match (status & 0x7f, u8::try_from(status >> 8 & 0xff)) {
        (0, Ok(code)) => ExitStatus::Code(code),
        (0, Err(_)) => ExitStatus::Unknown,
        (number, _) => ExitStatus::Signal { number, core: status & 0x80 != 0 },
    }
}
