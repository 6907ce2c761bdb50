//! What this host can promise, found out by doing it: spawn into a fresh leaf, fork, setsid, kill, see it empty.
//!
//! Nothing is assumed from a version number or a mount. Runs once, before the first job.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::Signal;

use super::leaf::{self, Leaf, Root};
use super::proto::{WireContainment, WireTier};
use super::sys::{self, Forked};
use super::{reap, spawn};
use crate::domain::Tier;

/// How long each step of the trial may take; a sound kernel needs a millisecond.
const STEP: Duration = Duration::from_secs(2);

/// Names tried for the instance's group, each only when a sweep took the one before.
const NAMES: u32 = 16;

/// Where jobs live, and what that is worth.
#[derive(Debug)]
pub(super) struct Ground {
    /// The instance's group; `None` is best effort.
    pub(super) root: Option<Root>,
    pub(super) containment: WireContainment,
}

/// Finds the best tier, or the forced one.
///
/// # Errors
/// Why the forced tier is not to be had.
pub(super) fn establish(force: Option<Tier>, instance: &str) -> Result<Ground, String> {
    match force {
        Some(Tier::C) => Ok(best_effort("the configuration forces tier C")),
        Some(Tier::A) => {
            Err("tier A needs confinement of jobs to their leaf, which this build has not".into())
        }
        Some(Tier::B) => Err("tier B (PID namespaces) is not in this build".into()),
        Some(Tier::APrime) => grouped(instance).map_err(|why| format!("tier A' is not to be had: {why}")),
        None => Ok(grouped(instance).unwrap_or_else(|why| best_effort(&why))),
    }
}

fn best_effort(why: &str) -> Ground {
    let notes = vec![
        format!("no exact containment: {why}"),
        "a process that leaves its session and clears its environment is found only when no other job runs"
            .into(),
        "run as root on a host with cgroup2, or delegate a cgroup2 subtree (systemd: Delegate=yes)".into(),
    ];
    let containment = WireContainment {
        tier: WireTier(Tier::C),
        pause: "SIGSTOP to every process found; a job can undo it".into(),
        kill: "stop every process found until none is new, then SIGKILL; best effort".into(),
        notes,
    };
    Ground { root: None, containment }
}

fn grouped(instance: &str) -> Result<Ground, String> {
    let read = |file| fs::read_to_string(file).map_err(|e| format!("{file}: {e}"));
    let own = leaf::own_group(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?)
        .ok_or("no cgroup2 hierarchy with a group of ours is mounted")?;
    let found = sweep(&own);
    let mut root = (0..NAMES)
        .map(|n| Root::create(&own, &format!("{instance}{n:x}")))
        .find(|made| !matches!(made, Err(e) if e.raw_os_error() == Some(Errno::EBUSY as i32)))
        .ok_or("other instances that start at once keep taking ours for stale")?
        .map_err(|e| format!("cannot make a group in {}: {e}", own.display()))?;
    if let Err(why) = try_kill(&mut root) {
        let _ = root.kill();
        let _ = root.dissolve();
        return Err(why);
    }
    let mut notes =
        vec!["nothing yet stops a job running as root from leaving its leaf: tier A', not A".to_owned()];
    if found > 0 {
        notes.push(format!("{found} stale instance(s) of an earlier run were ended at start"));
    }
    let containment = WireContainment {
        tier: WireTier(Tier::APrime),
        pause: "cgroup.freeze, acknowledged by the kernel".into(),
        kill: format!("cgroup.kill of the job's own leaf below {}", root.path().display()),
        notes,
    };
    Ok(Ground { root: Some(root), containment })
}

fn sweep(own: &Path) -> u32 {
    let end = Instant::now() + STEP;
    leaf::sweep(own, || {
        let _ = poll(&mut [], PollTimeout::from(5_u8));
        Instant::now() < end
    })
}

/// A process and its grandchild in a session of its own must both die with their leaf.
fn try_kill(root: &mut Root) -> Result<(), String> {
    let leaf = root.leaf("trial", "trial").map_err(|e| format!("cannot make a leaf: {e}"))?;
    let outcome = kill_pair(&leaf);
    if outcome.is_err() {
        let _ = leaf.kill();
    }
    reap::orphans(&std::collections::HashSet::new());
    let removed = root.remove(leaf).map_err(|_| "the trial's leaf cannot be removed".to_owned());
    outcome.and(removed)
}

fn kill_pair(leaf: &Leaf) -> Result<(), String> {
    let leader =
        spawn::fork_into(Some(leaf), hold_out).map_err(|f| format!("cannot fork into a leaf: {f:?}"))?;
    wait_for(leaf, |leaf| leaf.members().len() == 2)
        .map_err(|()| "a grandchild did not appear in the leaf")?;
    leaf.kill().map_err(|e| format!("cgroup.kill: {e}"))?;
    wait_for(leaf, |leaf| !leaf.state().populated).map_err(|()| "cgroup.kill left processes alive")?;
    sys::reap(leader.pidfd.as_fd()).map_err(|e| format!("the trial's process was not ours to reap: {e}"))?;
    Ok(())
}

/// The trial's process: forks one that leaves its session and group, and both wait to be killed.
fn hold_out() {
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    if let Ok(Forked::Child) = sys::fork_plain() {
        let _ = nix::unistd::setsid();
    }
    loop {
        nix::unistd::pause();
    }
}

fn wait_for(leaf: &Leaf, reached: impl Fn(&Leaf) -> bool) -> Result<(), ()> {
    let end = Instant::now() + STEP;
    while !reached(leaf) {
        if Instant::now() >= end {
            return Err(());
        }
        let mut events = [PollFd::new(leaf.events(), PollFlags::POLLPRI)];
        let _ = poll(&mut events, PollTimeout::from(1_u8));
    }
    Ok(())
}
