//! What the gateway asks, checked against what its hello allowed.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Uid;
use rustix::net::SocketFlags;

use super::super::job::{Job, Phase};
use super::super::keeper::Keeper;
use super::super::leader::{self, Orders};
use super::super::leaf::Leaf;
use super::super::link::{self, Received};
use super::super::proto::{self, Answer, FromWarden, PrepareJob, ToWarden, WireFailure, WireLimits};
use super::super::settings::Identity;
use super::super::spawn::{self, Leader, errno_of};
use super::super::tree;
use super::{MAX_NUMBER, Process, REQUESTS_A_TURN, Source, bounded, errno, fault};
use crate::domain::{SignalTarget, SpawnStage};

/// How often the gateway's faults are told.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);

/// A leader that was just forked, and its keeper where there are no groups.
struct Held {
    leader: Leader,
    keeper: Option<Keeper>,
}

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
        let (job, name) = (wanted.job, wanted.name.clone());
        match self.fork_leader(&wanted) {
            Ok((held, leaf, gate, owner)) => {
                let mut entry = Job::new(job, name, held.leader, leaf, gate);
                entry.keeper = held.keeper;
                self.leaders.insert(entry.child());
                entry.owner = owner;
                entry.deadline = Some(Instant::now() + Duration::from_millis(self.hello.gate_ms));
                self.adopt(entry);
            }
            Err(failure) => self.tell(&FromWarden::Failed { job, failure }),
        }
    }

    /// Everything before there is a job. What it made is gone again when it fails.
    fn fork_leader(
        &mut self,
        wanted: &PrepareJob,
    ) -> Result<(Held, Option<Leaf>, OwnedFd, Option<u32>), WireFailure> {
        let (identity, home) = self.admit(wanted)?;
        let owner = identity.as_ref().map(|i| i.uid).filter(|_| Uid::effective().is_root());
        let leaf = match &mut self.ground.root {
            None => None,
            Some(root) => Some(
                root.leaf(&wanted.tenant, &wanted.session)
                    .map_err(|error| WireFailure::new(SpawnStage::Leaf, errno_of(&error), "leaf"))?,
            ),
        };
        let forked = self.fork_into(wanted, identity.as_ref(), &home, leaf.as_ref());
        match forked {
            Ok((held, gate)) => Ok((held, leaf, gate, owner)),
            Err(failure) => {
                if let Some(leaf) = leaf {
                    self.remove_leaf(leaf);
                }
                Err(failure)
            }
        }
    }

    /// Whether the hello allows this request, as whom, and where it starts by default.
    fn admit(&self, wanted: &PrepareJob) -> Result<(Option<Identity>, std::path::PathBuf), WireFailure> {
        let refuse = |stage, errno, subject| Err(WireFailure::new(stage, errno, subject));
        let texts = [Some(&wanted.name), Some(&wanted.tenant), Some(&wanted.session)];
        let optional = [wanted.program.as_ref(), wanted.cwd.as_ref()];
        if !texts.into_iter().chain(optional).flatten().all(|text| bounded(text)) {
            return refuse(SpawnStage::Exec, Errno::ENAMETOOLONG, "request");
        }
        if self.closing.is_some() {
            return refuse(SpawnStage::Fork, Errno::ESHUTDOWN, "warden");
        }
        if self.jobs.len() >= self.hello.max_jobs as usize {
            return refuse(SpawnStage::Fork, Errno::EAGAIN, "most jobs at once");
        }
        match (wanted.identity, &wanted.program, &self.hello.invoker) {
            (Some(index), _, _) => match self.hello.identities.get(index as usize) {
                Some(identity) => Ok((Some(identity.clone()), identity.home.clone())),
                None => refuse(SpawnStage::Identity, Errno::EPERM, "an identity that is not configured"),
            },
            (None, None, _) => Ok((None, "/".into())),
            (None, Some(_), Some(home)) => Ok((None, home.clone())),
            (None, Some(_), None) => refuse(SpawnStage::Identity, Errno::EPERM, "no identity"),
        }
    }

    fn fork_into(
        &self,
        wanted: &PrepareJob,
        identity: Option<&Identity>,
        home: &std::path::Path,
        leaf: Option<&Leaf>,
    ) -> Result<(Held, OwnedFd), WireFailure> {
        let fork_failed = |e| WireFailure::new(SpawnStage::Fork, errno(e), "gate");
        let (ours, theirs) = link::pair(SocketFlags::empty()).map_err(fork_failed)?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(fork_failed)?;
        let orders = Orders {
            gate: theirs,
            program: wanted.program.as_deref(),
            own: &self.own,
            base: &self.base,
            cwd: wanted.cwd.as_deref(),
            home,
            identity,
            profiles: &self.hello.profiles,
            confine: &wanted.confine,
            fallback: self.controllers.fallback(leaf),
            path: &self.hello.path,
            nice: self.hello.nice,
            descriptors: self.descriptors,
            warden: self.pid,
        };
        let live = |parent| leader::live(&Orders { warden: parent, ..orders });
        let held = match self.ground.keeper {
            Some(kind) => {
                let (keeper, leader) = spawn::fork_kept(kind, live)?;
                Held { leader, keeper: Some(keeper) }
            }
            None => Held { leader: spawn::fork_into(leaf, live)?, keeper: None },
        };
        Ok((held, ours))
    }

    /// Enters a forked job in the table and the epoll set.
    fn adopt(&mut self, job: Job) {
        let number = job.number;
        let watched = self.watch(number, Source::Leader, job.leader.pidfd.as_fd()).and_then(|()| {
            job.gate.as_ref().map_or(Ok(()), |gate| self.watch(number, Source::Gate, gate.as_fd()))?;
            job.leaf.as_ref().map_or(Ok(()), |leaf| self.watch(number, Source::Group, leaf.events()))?;
            job.keeper.as_ref().map_or(Ok(()), |keeper| {
                self.watch(number, Source::Keeper, keeper.line.as_fd())?;
                self.watch(number, Source::Keeper, keeper.pidfd.as_fd())
            })
        });
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
        let ([_, stdin, _, _], Some(gate)) = (fds.as_slice(), &job.gate) else {
            return self.fail(number, WireFailure::new(SpawnStage::Stdio, Errno::EBADF, "release"));
        };
        let given = match job.owner.filter(|_| terminal) {
            Some(uid) => tree::give_terminal(stdin, uid),
            None => Ok(()),
        };
        if let Err(errno) = given {
            return self.fail(number, WireFailure::new(SpawnStage::Terminal, errno, "owner"));
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
        if let Some(answer) = answer {
            self.tell(&FromWarden::Answer { ask, answer });
        }
    }

    fn census(&mut self, ask: u64) {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let orphans = count(super::super::reap::orphans(&self.leaders, Some).living.len());
        let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        let answer = Answer::Census {
            jobs: count(self.jobs.len()),
            groups: self.ground.root.as_ref().map_or(0, super::super::leaf::Root::count),
            orphans,
            descriptors: count(descriptors),
        };
        self.tell(&FromWarden::Answer { ask, answer });
    }
}
