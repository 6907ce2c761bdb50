//! The keeper: the process between the warden and a job where there are no groups.
//!
//! ```text
//! warden ── keeper ── leader ── …          the keeper is the only parent an orphan of this job can get
//!   line: born(leader's pidfd) ──> exited(status) ──> end of file
//!         <── shut down by the warden, or by its death: everything below is ended, then the keeper itself
//! ```
//!
//! It is either the first process of a PID namespace, which can kill everybody in it at once, and whose end the kernel turns
//! into the end of whoever is left, or it is a subreaper that stops and kills whatever descends from it until nothing is new. Either way a job's processes
//! are exactly the descendants of its keeper: nothing they do to sessions, groups or environments changes that.
//!
//! Runs in a fork of the warden that never executes anything and never returns. It reaps every orphan at once and the
//! leader only at the very end, so that the leader's number stays its own. It knows nothing of plans and paths.

use std::collections::HashSet;
use std::convert::Infallible;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Gid, Pid, Uid};
use rustix::process::{WaitId, WaitIdOptions};

use super::link::{self, Received};
use super::proto::{self, KeeperSays, MAX_MESSAGE, WireFailure};
use super::spawn::{self, Leader};
use super::walk::{self, Hunt};
use super::{reap, sys};
use crate::domain::{ExitStatus, SpawnStage};

/// Between two rounds of the hunt, milliseconds: long enough for a stopped process to stop.
const ROUND: u8 = 1;
/// The best niceness there is.
const FIRST_SERVED: i32 = -20;
/// How often the keeper looks at its children although nothing told it to: a bound on what a lost notice costs.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Longest message on a line, bytes.
const MAX_SAID: usize = 512;

/// How a keeper holds its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first process of a PID namespace. `user`: of a user namespace too, for who may not have the one without.
    Init { user: bool },
    /// A subreaper.
    Reaper,
}

impl Kind {
    /// What clone3 is asked for.
    pub(super) fn namespaces(self) -> CloneFlags {
        match self {
            Self::Init { user: false } => CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS,
            Self::Init { user: true } => {
                CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS
            }
            Self::Reaper => CloneFlags::empty(),
        }
    }
}

/// A keeper as the warden knows it.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    pub(super) line: OwnedFd,
    pub(super) kind: Kind,
    /// It mounted a /proc of its own, which shows the job nothing but itself.
    pub(super) private: bool,
    /// It was told to end everything.
    pub(super) ending: bool,
}

/// What the line brought.
#[derive(Debug)]
pub(super) enum Heard {
    Exited(ExitStatus),
    Nothing,
    End,
}

impl Keeper {
    /// Has the keeper end the whole job as soon as it reads the end of its line.
    pub(super) fn end(&mut self) {
        self.ending = true;
        let _ = rustix::net::shutdown(&self.line, rustix::net::Shutdown::Write);
    }

    /// Kills the keeper itself.
    pub(super) fn slay(&self) {
        let _ = sys::signal_pidfd(self.pidfd.as_fd(), Signal::SIGKILL as i32);
    }

    /// The next message.
    pub(super) fn hear(&self) -> Heard {
        match link::receive(self.line.as_fd(), &mut [0; MAX_SAID]) {
            Ok(Received::Packet(bytes, _)) => match proto::decode(&bytes) {
                Some(KeeperSays::Exited { status }) => Heard::Exited(status),
                Some(KeeperSays::Born { .. } | KeeperSays::Failed(_)) | None => Heard::Nothing,
            },
            Err(rustix::io::Errno::AGAIN) => Heard::Nothing,
            Ok(Received::Garbage | Received::End) | Err(_) => Heard::End,
        }
    }

    /// Whether somebody stopped it: a job of the same user, where nothing denies it that.
    pub(super) fn is_stopped(&self) -> bool {
        walk::look(self.pid.as_raw()).is_some_and(|seen| seen.stopped)
    }

    /// Whether nobody is left but the leader, whom the caller knows to be dead: then nobody can fork either.
    pub(super) fn holds_only(&self, leader: Pid) -> bool {
        let pid = self.pid;
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        children.is_ok_and(|list| list.split_ascii_whitespace().all(|child| child == leader.to_string()))
    }
}

/// Lives the keeper's life, with `leader` as what the leader does. `own` is who the warden is, outside of any namespace
/// that was just made.
pub(super) fn live(kind: Kind, line: &OwnedFd, own: (Uid, Gid), leader: impl FnOnce(Pid)) -> ! {
    let private = match settle(kind, own) {
        Ok(private) => private,
        Err(errno) => give_up(line, WireFailure::new(SpawnStage::Fork, errno, "namespace")),
    };
    let leader = match spawn::fork_into(None, leader) {
        Ok(leader) => leader,
        Err(failure) => give_up(line, failure),
    };
    let Ok(line) = line.try_clone() else { sys::exit_now(1) };
    let Ok([line, pidfd]) = sys::keep_only([line, leader.pidfd]) else { sys::exit_now(1) };
    let leader = Leader { pid: leader.pid, pidfd };
    say(&line, &KeeperSays::Born { private }, &[&leader.pidfd]);
    let Err(errno) = watch(kind, &line, &leader, private);
    give_up(&line, WireFailure::new(SpawnStage::Fork, errno, "keeper"))
}

fn give_up(line: &OwnedFd, failure: WireFailure) -> ! {
    say(line, &KeeperSays::Failed(failure), &[]);
    sys::exit_now(1)
}

/// Becomes what holds the job. True when it has a /proc of its own.
fn settle(kind: Kind, (uid, gid): (Uid, Gid)) -> Result<bool, Errno> {
    nix::unistd::setsid()?;
    match kind {
        Kind::Init { user } => {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            if user {
                map_identity(uid, gid)?;
            }
            Ok(own_proc().is_ok())
        }
        Kind::Reaper => prctl::set_child_subreaper(true).map(|()| false),
    }
}

/// Maps the warden's own user and group, and no other, to themselves. The files that say so belong to root for as long
/// as this process may not be dumped.
fn map_identity(uid: Uid, gid: Gid) -> Result<(), Errno> {
    let write = |file: &str, text: String| {
        fs::write(format!("/proc/self/{file}"), text).map_err(|error| spawn::errno_of(&error))
    };
    prctl::set_dumpable(true)?;
    let mapped = write("setgroups", "deny".to_owned())
        .and_then(|()| write("uid_map", format!("{uid} {uid} 1")))
        .and_then(|()| write("gid_map", format!("{gid} {gid} 1")));
    prctl::set_dumpable(false)?;
    mapped
}

/// Mounts a /proc that shows this namespace, where that is allowed. Mounts below are no longer propagated to the host.
fn own_proc() -> Result<(), Errno> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, none)
}

/// Tells the leader's exit, reaps orphans, and ends everything when the line ends.
fn watch(kind: Kind, line: &OwnedFd, leader: &Leader, private: bool) -> Result<Infallible, Errno> {
    SigSet::all().thread_set_mask()?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&SigSet::from(Signal::SIGCHLD), flags)?;
    let known = HashSet::from([leader.pid.as_raw()]);
    let number = |pid| if private || kind == Kind::Reaper { Some(pid) } else { reap::inner_number(pid) };
    let mut told = false;
    loop {
        if !told && let Some(status) = spawn::peek(leader.pidfd.as_fd()) {
            told = true;
            say(line, &KeeperSays::Exited { status }, &[]);
        }
        let more = reap::orphans(&known, number).more;
        let mut wait =
            [PollFd::new(line.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let timeout = if more { Duration::ZERO } else { LOOK_AGAIN };
        match poll(&mut wait, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::ZERO)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        while let Ok(Some(_)) = signals.read_signal() {}
        let [spoken, _] = wait;
        if spoken.any() == Some(true) {
            match kind {
                Kind::Init { .. } => finish_namespace(),
                Kind::Reaper => finish(leader, &signals),
            }
        }
    }
}

/// Kills everybody in the namespace at once, reaps them, and leaves. Their end could be left to the kernel, which throws away
/// what they used: then the exit code would not be 0.
fn finish_namespace() -> ! {
    let _ = nix::sys::signal::kill(Pid::from_raw(-1), Signal::SIGKILL);
    loop {
        match nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::__WALL)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => sys::exit_now(0),
        }
    }
}

/// Stops and kills everybody below, reaps all of them, the leader last, and leaves. Only the kernel's word that there is no
/// child any more counts as empty: then the exit code is 0.
fn finish(leader: &Leader, signals: &SignalFd) -> ! {
    let own = Pid::this().as_raw();
    let known = HashSet::from([leader.pid.as_raw()]);
    let mut hunt = Hunt::default();
    // Best effort: whoever may, outruns what it hunts.
    let _ = rustix::process::setpriority_process(None, FIRST_SERVED);
    while !hunt.is_hopeless() {
        while let Ok(Some(_)) = signals.read_signal() {}
        let ended = spawn::peek(leader.pidfd.as_fd()).is_some();
        let turn = reap::chase(&known, |_| false);
        if ended && turn.proves_empty(|_| false) {
            let _ = rustix::process::waitid(WaitId::PidFd(leader.pidfd.as_fd()), WaitIdOptions::EXITED);
            if reap::is_childless() {
                sys::exit_now(0)
            }
        }
        let mut living = walk::below(&walk::look_around(), std::iter::once(own));
        living.retain(|seen| seen.pid != own);
        hunt.step(&living);
        let _ = poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], PollTimeout::from(ROUND));
    }
    sys::exit_now(1)
}

fn say(line: &OwnedFd, said: &KeeperSays, fds: &[&OwnedFd]) {
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    if let Some(bytes) = proto::encode(said, MAX_MESSAGE) {
        let _ = link::send(line.as_fd(), &bytes, &fds);
    }
}
