//! The only place where programs and processes start: the warden from the gateway, leaders from the warden.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getegid, geteuid};
use rustix::net::SocketFlags;
use rustix::process::{WaitId, WaitIdOptions};

use super::confine::errno;
use super::keeper::{self, Keeper, Kind};
use super::leaf::Leaf;
use super::link::{self, Received};
use super::proto::{self, KeeperSays, MAX_MESSAGE, WireFailure};
use super::sys::{self, Forked};
use super::{WARDEN_ARGUMENT, walk};
use crate::domain::{ExitStatus, SpawnStage};

/// How long a keeper may take until it has forked its leader: a few system calls of our own, none of which waits for
/// anybody.
const BIRTH: Duration = Duration::from_secs(2);

/// A leader as the warden knows it. Its number stays its own until it is reaped through the pidfd.
#[derive(Debug)]
pub(super) struct Leader {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
}

/// Starts the warden: this same binary anew, with no environment, the link as its stdin and our stderr.
///
/// No `pre_exec`: std then uses vfork, whose cost does not grow with this process.
pub(super) fn start_warden(exe: &Path, link: OwnedFd) -> io::Result<Child> {
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    let mut command = Command::new(exe);
    command.arg(WARDEN_ARGUMENT).env_clear().stdin(Stdio::from(link)).stdout(Stdio::null());
    command.spawn()
}

/// Forks a process into its leaf; `live` is what the copy does, told its parent's number; when it returns, the copy
/// ends.
///
/// Where the kernel cannot give birth inside a group, the child joins it, before it is told anything.
pub(super) fn fork_into(leaf: Option<&Leaf>, live: impl FnOnce(Pid)) -> Result<Leader, WireFailure> {
    let parent = Pid::this();
    let fork_failed = |errno| WireFailure::new(SpawnStage::Fork, errno, "leader");
    let (forked, inside) = match sys::fork(leaf.map(Leaf::directory), CloneFlags::empty()) {
        Err(Errno::ENOSYS | Errno::EINVAL | Errno::EOPNOTSUPP) => (sys::fork_plain(), leaf.is_none()),
        other => (other, true),
    };
    let leader = match forked.map_err(fork_failed)? {
        Forked::Child => {
            live(parent);
            sys::exit_now(127)
        }
        Forked::Parent(pid, pidfd) => Leader { pid, pidfd },
    };
    if let (Some(leaf), false) = (leaf, inside)
        && let Err(error) = leaf.join(leader.pid)
    {
        leader.discard();
        return Err(WireFailure::new(SpawnStage::Leaf, errno_of(&error), "join"));
    }
    Ok(leader)
}

/// Forks a keeper, which forks the leader; `live` is what the leader does.
///
/// Waits for the keeper's word, at most [`BIRTH`]: until then only code of ours runs.
pub(super) fn fork_kept(kind: Kind, live: impl FnOnce(Pid)) -> Result<(Keeper, Leader), WireFailure> {
    let fail = |errno| WireFailure::new(SpawnStage::Fork, errno, "keeper");
    let (ours, theirs) = link::pair(SocketFlags::empty()).map_err(|e| fail(errno(e)))?;
    let own = (geteuid(), getegid());
    let forked = match (sys::fork(None, kind.namespaces()), kind) {
        (Err(Errno::ENOSYS), Kind::Reaper) => sys::fork_plain(),
        (forked, _) => forked,
    };
    let (pid, pidfd) = match forked.map_err(fail)? {
        Forked::Child => keeper::live(kind, &theirs, own, live),
        Forked::Parent(pid, pidfd) => (pid, pidfd),
    };
    drop(theirs);
    let born = await_birth(&ours);
    let keeper = Keeper { pid, pidfd, line: ours, kind, private: false, ending: false };
    match born {
        Ok((leader, private)) => Ok((Keeper { private, ..keeper }, leader)),
        Err(failure) => {
            // It is reaped like any orphan, as soon as it is dead.
            keeper.slay();
            Err(failure)
        }
    }
}

/// The leader as the keeper hands it over, and whether it has a /proc of its own. The line never blocks afterwards.
fn await_birth(line: &OwnedFd) -> Result<(Leader, bool), WireFailure> {
    let fail = |errno| WireFailure::new(SpawnStage::Fork, errno, "keeper");
    let mut wait = [PollFd::new(line.as_fd(), PollFlags::POLLIN)];
    let ready = poll(&mut wait, PollTimeout::try_from(BIRTH).unwrap_or(PollTimeout::ZERO)).map_err(fail)?;
    rustix::io::ioctl_fionbio(line, true).map_err(|e| fail(errno(e)))?;
    if ready == 0 {
        return Err(fail(Errno::ETIMEDOUT));
    }
    let received = link::receive(line.as_fd(), &mut [0; MAX_MESSAGE]).map_err(|e| fail(errno(e)))?;
    let Received::Packet(bytes, fds) = received else { return Err(fail(Errno::ECHILD)) };
    match (proto::decode(&bytes), <[OwnedFd; 1]>::try_from(fds)) {
        (Some(KeeperSays::Born { private }), Ok([pidfd])) => {
            let pid = walk::number_of(pidfd.as_fd()).ok_or_else(|| fail(Errno::ESRCH))?;
            Ok((Leader { pid, pidfd }, private))
        }
        (Some(KeeperSays::Failed(failure)), _) => Err(failure),
        (Some(KeeperSays::Born { .. } | KeeperSays::Exited { .. }) | None, _) => Err(fail(Errno::EPROTO)),
    }
}

/// How a child ended, once it has; it stays a zombie.
pub(super) fn peek(pidfd: BorrowedFd<'_>) -> Option<ExitStatus> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    let status = rustix::process::waitid(WaitId::PidFd(pidfd), options).ok()??;
    if let Some(code) = status.exit_status() {
        return Some(u8::try_from(code).map_or(ExitStatus::Unknown, ExitStatus::Code));
    }
    Some(match status.terminating_signal() {
        Some(number) => ExitStatus::Signal { number, core: status.dumped() },
        None => ExitStatus::Unknown,
    })
}

impl Leader {
    /// Kills and reaps a child that has run no program yet, and so dies at once.
    fn discard(&self) {
        let _ = sys::signal_pidfd(self.pidfd.as_fd(), Signal::SIGKILL as i32);
        let id = WaitId::PidFd(self.pidfd.as_fd());
        let _ = rustix::process::waitid(id, WaitIdOptions::EXITED);
    }
}

/// The system's number of an IO error.
pub(super) fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// What this binary does under the name [`super::PROBE_NAME`]: says `ok`.
pub fn answer_probe() -> ExitCode {
    match io::stdout().write_all(b"ok") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
