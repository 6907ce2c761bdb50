//! What the gateway asks, checked against what its hello allowed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Uid;
use rustix::net::SocketFlags;

use super::super::job::{Job, Phase};
use super::super::leader::{self, Orders};
use super::super::leaf::Leaf;
use super::super::link::{self, Received};
use super::super::proto::{
    self, Answer, Errand, FromWarden, MAX_MESSAGE, PrepareJob, ToWarden, WireFailure, WireLimits,
};
use super::super::spawn::{self, errno_of};
use super::super::tree;
use super::waiting::Session;
use super::{MAX_NUMBER, Process, REQUESTS_A_TURN, Source, bounded, errno, fault};
use crate::domain::{SignalTarget, SpawnStage};

/// Descriptors that a waiting leader takes: its gate and its pidfd, and two of its leaf or two of its keeper.
const WAITING_DESCRIPTORS: usize = 4;

/// How often the gateway's faults are told.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);

impl Process {
    /// Takes a bounded number of requests; the rest is still readable next turn.
    pub(super) fn read_requests(&mut self) {
        for _ in 0..REQUESTS_A_TURN {
            match link::receive(self.gateway.as_fd(), &mut self.scratch) {
                Ok(Received::Packet(bytes, fds)) => match proto::decode(&bytes) {
                    Some(request) => self.handle(request, fds),
                    None => self.complain("a packet that is no message"),
                },
                Ok(Received::Garbage) => self.complain("a packet too long or with too many descriptors"),
                Err(rustix::io::Errno::AGAIN) => return,
                Ok(Received::End) | Err(_) => return self.lose_gateway(),
            }
        }
    }

    /// Says what is wrong with a request; at most once a second, however many are sent.
    fn complain(&mut self, detail: &str) {
        self.complaints += 1;
        if self.complained.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY) {
            fault("request", &format!("{detail}; {} refused so far", self.complaints));
            self.complained = Some(Instant::now());
        }
    }

    fn lose_gateway(&mut self) {
        self.gateway_gone = true;
        self.outbox.clear();
        let _ = self.epoll.delete(&self.gateway);
        self.close();
    }

    fn handle(&mut self, request: ToWarden, fds: Vec<OwnedFd>) {
        match request {
            ToWarden::Hello(_) => self.complain("a second hello"),
            ToWarden::Kill { job } if job > MAX_NUMBER => self.complain("a job number out of range"),
            ToWarden::Prepare(wanted) => self.prepare(*wanted),
            ToWarden::Release { job, terminal, limits } => self.release(job, terminal, &limits, fds),
            ToWarden::Kill { job } => self.end_job(job),
            ToWarden::Signal { ask, job, signal, target } => self.signal(ask, job, signal, target),
            ToWarden::Pause { ask, job } => self.pause(ask, job, true),
            ToWarden::Resume { ask, job } => self.pause(ask, job, false),
            ToWarden::Census { ask } => self.census(ask),
            ToWarden::Shutdown => self.close(),
        }
    }

    fn prepare(&mut self, wanted: PrepareJob) {
        if wanted.job > MAX_NUMBER || self.jobs.contains_key(&wanted.job) {
            return self.complain("a job number out of range or in use");
        }
        let job = wanted.job;
        if let Err(failure) = self.engage(wanted) {
            self.tell(&FromWarden::Failed { job, failure });
        }
    }

    /// Sends a leader out for this job: one that waits for its session, or a new one. A probe always has a new one: it is to show that there
    /// can be one.
    fn engage(&mut self, wanted: PrepareJob) -> Result<(), WireFailure> {
        let owner = self.admit(&wanted)?.filter(|_| Uid::effective().is_root());
        let PrepareJob { job: number, name, tenant, session, program, cwd, identity, confine } = wanted;
        let (session, is_probe) = (Session { tenant, session }, program.is_none());
        let errand = proto::encode(&Errand { program, cwd, identity, confine }, MAX_MESSAGE);
        let errand = errand.ok_or_else(|| WireFailure::new(SpawnStage::Exec, Errno::E2BIG, "errand"))?;
        if is_probe || !self.send_waiting(number, &session, &errand) {
            let job = self.fork_leader(number, &session, false)?;
            self.adopt(job);
            self.send_out(number, &errand);
        }
        if !is_probe {
            self.expect_more(session, Instant::now());
        }
        if let Some(job) = self.jobs.get_mut(&number) {
            (job.name, job.owner) = (name, owner);
        }
        Ok(())
    }

    /// Gives a leader its errand; false when it is not there to take it.
    pub(super) fn send_out(&mut self, number: u64, errand: &[u8]) -> bool {
        let gate = Duration::from_millis(self.hello.gate_ms);
        let Some(job) = self.jobs.get_mut(&number).filter(|job| job.failure.is_none()) else { return false };
        let sent = job.gate.as_ref().map(|ours| link::send(ours.as_fd(), errand, &[]));
        match sent {
            Some(Ok(())) => {
                job.phase = Phase::Resolving;
                job.deadline = Some(Instant::now() + gate);
                true
            }
            Some(Err(_)) | None => {
                // What it said last is why.
                self.on_gate(number);
                self.fail(number, WireFailure::new(SpawnStage::Gate, Errno::ECHILD, "leader died"));
                false
            }
        }
    }

    /// A leader in a fresh leaf of this session, perhaps ahead of its errand. What it made is gone again when it fails.
    pub(super) fn fork_leader(
        &mut self,
        number: u64,
        session: &Session,
        ahead: bool,
    ) -> Result<Job, WireFailure> {
        let leaf = match &mut self.ground.root {
            None => None,
            Some(root) => Some(
                root.leaf(&session.tenant, &session.session)
                    .map_err(|error| WireFailure::new(SpawnStage::Leaf, errno_of(&error), "leaf"))?,
            ),
        };
        self.fork_into(number, leaf, ahead).map_err(|(failure, leaf)| {
            if let Some(leaf) = leaf {
                self.remove_leaf(leaf);
            }
            failure
        })
    }

    /// Whether the hello allows this request; the uid that it names.
    fn admit(&self, wanted: &PrepareJob) -> Result<Option<u32>, WireFailure> {
        let refuse = |stage, errno, subject| Err(WireFailure::new(stage, errno, subject));
        let texts = [Some(&wanted.name), Some(&wanted.tenant), Some(&wanted.session)];
        let optional = [wanted.program.as_ref(), wanted.cwd.as_ref()];
        if !texts.into_iter().chain(optional).flatten().all(|text| bounded(text)) {
            return refuse(SpawnStage::Exec, Errno::ENAMETOOLONG, "request");
        }
        if self.closing.is_some() {
            return refuse(SpawnStage::Fork, Errno::ESHUTDOWN, "warden");
        }
        if self.working() >= self.hello.max_jobs as usize {
            return refuse(SpawnStage::Fork, Errno::EAGAIN, "most jobs at once");
        }
        match (wanted.identity, &wanted.program, &self.hello.invoker) {
            (Some(index), _, _) => match self.hello.identities.get(index as usize) {
                Some(identity) => Ok(Some(identity.uid)),
                None => refuse(SpawnStage::Identity, Errno::EPERM, "an identity that is not configured"),
            },
            (None, None, _) | (None, Some(_), Some(_)) => Ok(None),
            (None, Some(_), None) => refuse(SpawnStage::Identity, Errno::EPERM, "no identity"),
        }
    }

    fn fork_into(
        &mut self,
        number: u64,
        leaf: Option<Leaf>,
        ahead: bool,
    ) -> Result<Job, (WireFailure, Option<Leaf>)> {
        let pair = link::pair(SocketFlags::empty()).and_then(|(ours, theirs)| {
            rustix::io::ioctl_fionbio(&ours, true)?;
            Ok((ours, theirs))
        });
        let (ours, theirs) = match pair {
            Ok(pair) => pair,
            Err(e) => return Err((WireFailure::new(SpawnStage::Fork, errno(e), "gate"), leaf)),
        };
        let orders = Orders {
            gate: theirs,
            own: &self.own,
            base: &self.base,
            hello: &self.hello,
            fallback: self.controllers.fallback(leaf.as_ref()),
            descriptors: self.descriptors,
            warden: self.pid,
            ahead,
        };
        let live = |parent| leader::live(&Orders { warden: parent, ..orders });
        let forked = match self.ground.keeper {
            Some(kind) => spawn::fork_kept(kind, live).map(|(keeper, leader)| (leader, Some(keeper))),
            None => spawn::fork_into(leaf.as_ref(), live).map(|leader| (leader, None)),
        };
        let (leader, keeper) = match forked {
            Ok(forked) => forked,
            Err(failure) => return Err((failure, leaf)),
        };
        let mut job = Job::new(number, leader, leaf, ours);
        job.keeper = keeper;
        self.leaders.insert(job.child());
        Ok(job)
    }

    /// Enters a forked job in the table and the epoll set.
    pub(super) fn adopt(&mut self, job: Job) {
        let number = job.number;
        let watched = sources(&job).try_for_each(|(source, fd)| self.watch(number, source, fd));
        self.jobs.insert(number, job);
        if let Err(errno) = watched {
            self.fail(number, WireFailure::new(SpawnStage::Fork, errno, "epoll"));
        }
    }

    fn release(&mut self, number: u64, terminal: bool, limits: &WireLimits, fds: Vec<OwnedFd>) {
        let exec = Duration::from_millis(self.hello.exec_ms);
        let Some(job) =
            self.jobs.get_mut(&number).filter(|j| j.phase == Phase::Parked && j.failure.is_none())
        else {
            return;
        };
        let ([_, stdin, stdout, stderr], Some(gate)) = (fds.as_slice(), &job.gate) else {
            return self.fail(number, WireFailure::new(SpawnStage::Stdio, Errno::EBADF, "release"));
        };
        let given = match job.owner.filter(|_| terminal) {
            Some(uid) => tree::give_terminal(stdin, uid),
            None => Ok(()),
        };
        if let Err(errno) = given {
            return self.fail(number, WireFailure::new(SpawnStage::Terminal, errno, "owner"));
        }
        if let Some(uid) = job.owner.filter(|_| !terminal) {
            [stdin, stdout, stderr].into_iter().for_each(|stream| tree::give_pipe(stream, uid));
        }
        match self.controllers.meter(job.leaf.as_ref(), job.leader.pid, limits) {
            Ok(meter) => job.meter = meter,
            Err(failure) => return self.fail(number, failure),
        }
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        match link::send(gate.as_fd(), &[1], &borrowed) {
            Ok(()) => {
                job.phase = Phase::Starting;
                job.deadline = Some(Instant::now() + exec);
            }
            Err(error) => self.fail(number, WireFailure::new(SpawnStage::Gate, errno(error), "release")),
        }
    }

    /// Ends a job in whatever phase it is: a start fails, a running tree is killed.
    pub(super) fn end_job(&mut self, number: u64) {
        let patience = self.patience();
        match self.jobs.get_mut(&number) {
            None => {}
            Some(job) if job.phase == Phase::Running => tree::kill(job, patience),
            Some(_) => self.fail(number, WireFailure::new(SpawnStage::Gate, Errno::ECANCELED, "abandoned")),
        }
    }

    fn signal(&mut self, ask: u64, number: u64, signal: i32, target: SignalTarget) {
        let answer = match self.jobs.get(&number) {
            None => Answer::Finished,
            Some(job) => tree::signal(job, signal, target),
        };
        self.tell(&FromWarden::Answer { ask, answer });
    }

    fn pause(&mut self, ask: u64, number: u64, wanted: bool) {
        let patience = Duration::from_millis(self.hello.pause_ms);
        let answer = match self.jobs.get_mut(&number) {
            None => Some(Answer::Finished),
            Some(job) => tree::pause(job, ask, wanted, patience),
        };
        match answer {
            Some(answer) => self.tell(&FromWarden::Answer { ask, answer }),
            None => self.settle_pause(number, Instant::now()),
        }
    }

    fn census(&mut self, ask: u64) {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let waiting = self.jobs.len() - self.working();
        let orphans = count(super::super::reap::orphans(&self.leaders, Some).living.len());
        let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let answer = Answer::Census {
            jobs: count(self.working()),
            groups: self.ground.root.as_ref().map_or(0, |root| root.count().saturating_sub(count(waiting))),
            orphans,
            descriptors: count(descriptors.saturating_sub(waiting * WAITING_DESCRIPTORS)),
        };
        self.tell(&FromWarden::Answer { ask, answer });
    }
}

/// What of a job is watched. A keeper's line and pidfd are told apart by looking at both.
pub(super) fn sources(job: &Job) -> impl Iterator<Item = (Source, BorrowedFd<'_>)> {
    let gate = job.gate.as_ref().map(|gate| (Source::Gate, gate.as_fd()));
    let group = job.leaf.as_ref().map(|leaf| (Source::Group, leaf.events()));
    let keeper = job.keeper.iter().flat_map(|keeper| [&keeper.line, &keeper.pidfd]);
    let keeper = keeper.map(|fd| (Source::Keeper, fd.as_fd()));
    std::iter::once((Source::Leader, job.leader.pidfd.as_fd())).chain(gate).chain(group).chain(keeper)
}
