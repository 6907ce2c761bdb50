//! What a leader does to itself before it becomes the job: confinement, identity, limits.
//!
//! Runs in the fork only, between birth and exec. Every step that fails ends the start; nothing is skipped.

mod base;
mod filter;

pub(super) use base::Base;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Gid, Pid, Uid, getppid, setgroups, setresgid, setresuid};
use rustix::fs::Mode;

use super::proto::Plan;
use super::settings::Identity;
use super::sys;

/// Largest signal number.
pub(super) const LAST_SIGNAL: i32 = 64;
/// What the warden ignores and a job must not; the warden has every other signal at its default.
pub(super) const IGNORED: [Signal; 5] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGPIPE];

/// Becomes the identity, all three ids of user and group and exactly its groups.
///
/// An unprivileged warden can only stay who it is: then nothing is changed and anything else is EPERM.
pub(super) fn take_identity(identity: &Identity) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    if !Uid::effective().is_root() && Uid::effective() == uid && Gid::effective() == gid {
        return Ok(());
    }
    let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)
}

/// Makes sure that this process dies with the warden. Call after the identity is taken, which clears it.
pub(super) fn die_with(warden: Pid) -> Result<(), Errno> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    if getppid() == warden { Ok(()) } else { Err(Errno::ESRCH) }
}

/// A new session and group, default signals, an empty mask, umask 022.
pub(super) fn fresh_state() -> Result<(), Errno> {
    nix::unistd::setsid()?;
    sys::default_signals(IGNORED.map(|s| s as i32));
    SigSet::empty().thread_set_mask()?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    Ok(())
}

/// Resource limits and niceness. `descriptors` are the limits the warden itself was born with.
pub(super) fn limit(plan: &Plan, descriptors: (u64, u64), nice: i32) -> Result<(), Errno> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    if let Some(bytes) = plan.file_size {
        lower(Resource::RLIMIT_FSIZE, bytes)?;
    }
    let (soft, hard) = descriptors;
    setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard)?;
    if let Some(files) = plan.open_files {
        lower(Resource::RLIMIT_NOFILE, files)?;
    }
    if nice > 0 {
        let own = rustix::process::getpriority_process(None).map_err(errno)?;
        rustix::process::setpriority_process(None, own.saturating_add(nice)).map_err(errno)?;
    }
    Ok(())
}

/// From here on exec gives no privileges: setuid bits and file capabilities are without effect.
pub(super) fn no_new_privileges() -> Result<(), Errno> {
    prctl::set_no_new_privs()
}

fn lower(resource: Resource, value: u64) -> Result<(), Errno> {
    let (_, hard) = getrlimit(resource)?;
    setrlimit(resource, value.min(hard), value.min(hard))
}

/// rustix's error as nix's.
pub(super) fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}
