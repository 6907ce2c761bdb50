//! The only place where programs and processes start: the warden from the gateway, leaders from the warden.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use rustix::process::{WaitId, WaitIdOptions};

use super::WARDEN_ARGUMENT;
use super::leaf::Leaf;
use super::proto::WireFailure;
use super::sys::{self, Forked};
use crate::domain::SpawnStage;

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

/// Forks a process into its leaf; `live` is what the copy does; when it returns, the copy ends.
///
/// Where the kernel cannot give birth inside a group, the child joins it, before it is told anything.
pub(super) fn fork_into(leaf: Option<&Leaf>, live: impl FnOnce()) -> Result<Leader, WireFailure> {
    let fork_failed = |errno| WireFailure::new(SpawnStage::Fork, errno, "leader");
    let (forked, inside) = match sys::fork(leaf.map(Leaf::directory)) {
        Err(Errno::ENOSYS | Errno::EINVAL | Errno::EOPNOTSUPP) => (sys::fork_plain(), leaf.is_none()),
        other => (other, true),
    };
    let leader = match forked.map_err(fork_failed)? {
        Forked::Child => {
            live();
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
