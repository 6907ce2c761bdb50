//! What a leader does to itself before it becomes the job: confinement, identity, limits.
//!
//! Runs in the fork only, between birth and exec. Every step that fails ends the start; nothing is skipped.

mod base;
mod filter;
mod profile;

pub(super) use base::Base;
pub(super) use profile::{leave_network, put_on};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Gid, Pid, Uid, getppid, setgroups, setresgid, setresuid};
use rustix::fs::Mode;

use super::meter::Fallback;
use super::proto::WireLimits;
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
    // The kernel reads this number as "leave it": such a job would stay root.
    if [identity.uid, identity.gid].contains(&u32::MAX) {
        return Err(Errno::EINVAL);
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

/// Makes of this process one that the kernel, out of memory, ends before the warden and the gateway: [`LIKELIER`] points of
/// `oom_score_adj` (proc_pid_oom_score_adj(5)) above what it inherited, and never less than what nobody has touched has. Where it
/// cannot, it stays as it is.
pub(super) fn end_first() {
    const SCORE: &str = "/proc/self/oom_score_adj";
    let inherited = std::fs::read_to_string(SCORE).ok().and_then(|text| text.trim().parse::<i32>().ok());
    if let Some(inherited) = inherited {
        let own = inherited.saturating_add(LIKELIER).clamp(0, 1000);
        let _ = std::fs::write(SCORE, own.to_string());
    }
}

/// Points: a tenth of the host's memory.
const LIKELIER: i32 = 100;

/// Resource limits and niceness, each set explicitly. `descriptors` are the limits the warden itself was born with, of which
/// a job gets half at most: the kernel holds what a user has in flight over sockets against the limit of whoever sends
/// (unix(7), ETOOMANYREFS), and a job must not use up what gateway and warden send. `nice` is what every job gets added,
/// `fallback` says what no controller keeps.
pub(super) fn limit(
    limits: &WireLimits,
    fallback: Fallback,
    descriptors: (u64, u64),
    nice: i32,
) -> Result<(), Errno> {
    for none in [Resource::RLIMIT_CORE, Resource::RLIMIT_RTPRIO, Resource::RLIMIT_NICE] {
        setrlimit(none, 0, 0)?;
    }
    let (soft, hard) = (descriptors.0, descriptors.1 / 2);
    setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard)?;
    let seconds = |micros: u64| micros.div_ceil(1_000_000).max(1);
    let lowered = [
        (Resource::RLIMIT_FSIZE, limits.file_size),
        (Resource::RLIMIT_NOFILE, limits.open_files),
        (Resource::RLIMIT_AS, limits.memory.filter(|_| fallback.memory)),
        (Resource::RLIMIT_NPROC, limits.processes.filter(|_| fallback.processes).map(u64::from)),
    ];
    for (resource, value) in lowered {
        value.map_or(Ok(()), |value| lower(resource, value, value))?;
    }
    if let Some(cpu) = limits.cpu {
        // For each process; SIGXCPU tells it apart from a kill. The whole tree's time is the warden's to watch.
        lower(Resource::RLIMIT_CPU, seconds(cpu), seconds(cpu).saturating_add(1))?;
    }
    let nice = nice.saturating_add(i32::from(limits.nice));
    if nice > 0 {
        let own = rustix::process::getpriority_process(None).map_err(errno)?;
        rustix::process::setpriority_process(None, own.saturating_add(nice).min(19)).map_err(errno)?;
    }
    Ok(())
}

/// From here on exec gives no privileges: setuid bits and file capabilities are without effect.
pub(super) fn no_new_privileges() -> Result<(), Errno> {
    prctl::set_no_new_privs()
}

/// Lowers a limit, never raises it: raising a hard one takes a capability that root may lack.
fn lower(resource: Resource, soft: u64, hard: u64) -> Result<(), Errno> {
    let (_, most) = getrlimit(resource)?;
    setrlimit(resource, soft.min(most), hard.min(most))
}

/// rustix's error as nix's.
pub(super) fn errno(error: rustix::io::Errno) -> Errno {
    Errno::from_raw(error.raw_os_error())
}
