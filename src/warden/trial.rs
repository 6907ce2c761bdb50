//! What this host can promise, found out by doing it: spawn, fork, setsid, kill, see that nobody is left.
//!
//! Nothing is assumed from a version number or a mount. Runs once, before the first job. The best tier that passes is
//! taken, or the forced one; why a better one did not pass, and what would give it, becomes a note (see `advice`).

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::unistd::{Pid, Uid};
use rustix::pipe::PipeFlags;
use rustix::process::PidfdFlags;

use super::confine::{self, Base};
use super::keeper::{Keeper, Kind};
use super::leaf::{self, Leaf, Root};
use super::proto::{Hello, WireContainment, WireTier};
use super::settings::Identity;
use super::spawn::{self, Leader};
use super::sys::{self, Forked};
use super::{advice, cgroup, delegated, reap};
use crate::domain::Tier;

/// How long each step of the trial may take; a sound kernel needs a millisecond.
const STEP: Duration = Duration::from_secs(2);
/// Identities whose power to leave a leaf is tried; with more of them, the others are taken to have it.
const MAX_TRIED: usize = 64;

/// Where jobs live, and what that is worth.
#[derive(Debug)]
pub(super) struct Ground {
    /// The instance's group; without it, each job has a keeper.
    pub(super) root: Option<Root>,
    pub(super) keeper: Option<Kind>,
    pub(super) containment: WireContainment,
}

/// Finds the best tier, or the forced one.
///
/// # Errors
/// Why the forced tier is not to be had, or why no process can be started at all.
pub(super) fn establish(hello: &Hello, base: &Base, instance: &str) -> Result<Ground, String> {
    let lacks = |tier: &str, why: &str, what: Vec<String>| {
        format!(
            "tier {tier} is not to be had: {why}{}",
            what.iter().map(|n| format!("; {n}")).collect::<String>()
        )
    };
    match hello.force.map(|tier| tier.0) {
        None => best(hello, base, instance),
        Some(Tier::A) => {
            let ground =
                grouped(hello, Some(base), instance).map_err(|why| lacks("A", &why, advice::groups(&why)))?;
            if ground.containment.tier.0 == Tier::A {
                return Ok(ground);
            }
            let why = ground.containment.notes.join("; ");
            let _ = ground.root.map(|root| root.dissolve());
            Err(lacks("A", &why, Vec::new()))
        }
        Some(Tier::APrime) => {
            grouped(hello, None, instance).map_err(|why| lacks("A'", &why, advice::groups(&why)))
        }
        Some(Tier::B) => namespaced(hello).map_err(|why| lacks("B", &why, advice::namespaces())),
        Some(Tier::C) => loose(),
    }
}

fn best(hello: &Hello, base: &Base, instance: &str) -> Result<Ground, String> {
    let no_groups = match grouped(hello, Some(base), instance) {
        Ok(ground) => return Ok(ground),
        Err(why) => why,
    };
    let mut lacking = vec![format!("not tier A, no cgroup2 group can be had: {no_groups}")];
    lacking.extend(advice::groups(&no_groups));
    let mut ground = match namespaced(hello) {
        Ok(ground) => ground,
        Err(why) => {
            lacking.push(format!("not tier B, no PID namespace can be had: {why}"));
            lacking.extend(advice::namespaces());
            loose()?
        }
    };
    ground.containment.notes.extend(lacking);
    Ok(ground)
}

/// Tier A or A': one leaf a job. Tier A only with `base`, where nobody confined by it can leave his leaf.
fn grouped(hello: &Hello, base: Option<&Base>, instance: &str) -> Result<Ground, String> {
    let read = |file| fs::read_to_string(file).map_err(|e| format!("{file}: {e}"));
    let own = cgroup::own_group(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?, None)
        .map(delegated::place)
        .ok_or("no cgroup2 hierarchy with a group of ours is mounted")?;
    let found = sweep(&own);
    let both = [Pid::this(), Pid::parent()].map(Pid::as_raw);
    let mut notes: Vec<String> = delegated::open(&own, &both).err().into_iter().collect();
    let mut root =
        Root::create(&own, instance).map_err(|e| format!("cannot make a group in {}: {e}", own.display()))?;
    let tried = in_leaf(&mut root, try_leaf);
    let leaves = tried.and_then(|()| base.map_or(Ok(None), |base| who_leaves(hello, base, &mut root, &own)));
    let tier = match leaves {
        Err(why) => {
            let _ = root.kill();
            let _ = root.dissolve();
            return Err(why);
        }
        Ok(None) if base.is_some() => Tier::A,
        Ok(None) => Tier::APrime,
        Ok(Some(who)) => {
            notes.push(advice::leaves(&who, base.is_some_and(Base::seals_groups)));
            Tier::APrime
        }
    };
    if found > 0 {
        notes.push(format!("{found} stale instance(s) of an earlier run were ended at start"));
    }
    let containment = WireContainment {
        tier: WireTier(tier),
        pause: "cgroup.freeze, acknowledged by the kernel".into(),
        kill: format!("cgroup.kill of the job's own leaf below {}", root.path().display()),
        notes,
    };
    Ok(Ground { root: Some(root), keeper: None, containment })
}

/// Tier B: a PID namespace for each job.
fn namespaced(hello: &Hello) -> Result<Ground, String> {
    let plain = Kind::Init { user: false };
    let (kind, private) = match try_kept(plain) {
        Ok(private) => (plain, private),
        Err(why) if !hello.identities.is_empty() => {
            return Err(format!(
                "{why} (jobs take other identities, which a user namespace cannot give them)"
            ));
        }
        Err(why) => {
            let user = Kind::Init { user: true };
            (user, try_kept(user).map_err(|other| format!("{why}; in a user namespace: {other}"))?)
        }
    };
    let mut notes = Vec::new();
    if !private {
        notes.push(advice::SHARED_PROC.to_owned());
    }
    let containment = WireContainment {
        tier: WireTier(Tier::B),
        pause: "SIGSTOP to every process of the job; a process of the job can undo it".into(),
        kill: "SIGKILL to everybody in the job's own PID namespace at once".into(),
        notes,
    };
    Ok(Ground { root: None, keeper: Some(kind), containment })
}

/// Tier C: a subreaper for each job.
fn loose() -> Result<Ground, String> {
    try_kept(Kind::Reaper).map_err(|why| format!("no job can be started here: {why}"))?;
    let containment = WireContainment {
        tier: WireTier(Tier::C),
        pause: "SIGSTOP to every process found; a process of the job can undo it".into(),
        kill: "stop every descendant until none is new, then SIGKILL; best effort".into(),
        notes: vec![advice::BEST_EFFORT.to_owned()],
    };
    Ok(Ground { root: None, keeper: Some(Kind::Reaper), containment })
}

fn sweep(own: &Path) -> u32 {
    let end = Instant::now() + STEP;
    leaf::sweep(own, || {
        let _ = poll(&mut [], PollTimeout::from(5_u8));
        Instant::now() < end
    })
}

/// Tries something in a leaf of its own, which is gone afterwards.
fn in_leaf<T>(root: &mut Root, trial: impl FnOnce(&Leaf) -> Result<T, String>) -> Result<T, String> {
    let leaf = root.leaf("trial", "trial").map_err(|e| format!("cannot make a leaf: {e}"))?;
    let outcome = trial(&leaf);
    let _ = leaf.kill();
    let emptied = wait_for(&leaf);
    reap::orphans(&HashSet::new(), Some);
    let removed = root.remove(leaf).map_err(|_| "the trial's leaf cannot be removed".to_owned());
    let outcome = outcome?;
    emptied.map_err(|()| "cgroup.kill left processes alive".to_owned()).and(removed).map(|()| outcome)
}

fn try_leaf(leaf: &Leaf) -> Result<(), String> {
    let (reading, writing) = pipe()?;
    let leader = spawn::fork_into(Some(leaf), |_| hold_out(&writing));
    drop(writing);
    let leader = leader.map_err(|f| format!("cannot fork into a leaf: {f:?}"))?;
    let reading = pair_lives(reading)?;
    if leaf.members().len() != 2 {
        return Err("a grandchild did not appear in the leaf".into());
    }
    leaf.kill().map_err(|e| format!("cgroup.kill: {e}"))?;
    nobody_holds(&reading).map_err(|()| "cgroup.kill left processes alive")?;
    reap_leader(&leader).map(drop)
}

/// A leader and its grandchild must die with their keeper. True when the keeper has a /proc of its own.
fn try_kept(kind: Kind) -> Result<bool, String> {
    let (reading, writing) = pipe()?;
    let forked = spawn::fork_kept(kind, |_| hold_out(&writing));
    drop(writing);
    let (mut keeper, _leader) =
        forked.map_err(|f| format!("cannot start a keeper: {}", Errno::from_raw(f.errno).desc()))?;
    let outcome = pair_lives(reading).and_then(|reading| {
        keeper.end();
        nobody_holds(&reading).map_err(|()| "the end of a keeper left processes alive".to_owned())
    });
    keeper.end();
    let gone = keeper_gone(&keeper);
    reap::orphans(&HashSet::new(), Some);
    outcome.and(gone).map(|()| keeper.private)
}

fn keeper_gone(keeper: &Keeper) -> Result<(), String> {
    if !readable(keeper.pidfd.as_fd()) {
        keeper.slay();
        return Err("a keeper did not end".into());
    }
    sys::reap(keeper.pidfd.as_fd()).map(drop).map_err(|e| format!("a keeper was not ours to reap: {e}"))
}

fn reap_leader(leader: &Leader) -> Result<bool, String> {
    if !readable(leader.pidfd.as_fd()) {
        return Err("the trial's process did not end".into());
    }
    match sys::reap(leader.pidfd.as_fd()) {
        Ok(spent) => Ok(spent.is_some_and(|spent| spent.well)),
        Err(errno) => Err(format!("the trial's process was not ours to reap: {errno}")),
    }
}

/// Who of those that jobs can run as is able to leave a leaf, found out by trying: `None` when nobody is.
fn who_leaves(hello: &Hello, base: &Base, root: &mut Root, own: &Path) -> Result<Option<String>, String> {
    let mut tried = HashSet::new();
    let invoker = hello.invoker.is_some().then_some(None);
    for identity in invoker.into_iter().chain(hello.identities.iter().map(Some)) {
        let uid = identity.map_or(Uid::effective().as_raw(), |identity| identity.uid);
        if !tried.insert(uid) {
            continue;
        }
        if tried.len() > MAX_TRIED {
            return Ok(Some(format!(
                "more than {MAX_TRIED} identities are configured, and not all were tried: one of them"
            )));
        }
        let ways = [root.path().to_owned(), own.to_owned(), own.join(delegated::SELF)];
        if in_leaf(root, |leaf| leaves(leaf, base, identity, &ways))? {
            return Ok(Some(identity.map_or_else(|| format!("uid {uid}"), |identity| identity.user.clone())));
        }
    }
    Ok(None)
}

/// Whether a process confined as a job of this identity is can leave its leaf.
fn leaves(leaf: &Leaf, base: &Base, identity: Option<&Identity>, ways: &[PathBuf]) -> Result<bool, String> {
    let leader = spawn::fork_into(Some(leaf), |_| {
        let confined =
            base.put_on(base.ruleset()).and_then(|()| identity.map_or(Ok(()), confine::take_identity));
        let made = escape(std::process::id());
        let out = |way: &PathBuf| {
            fs::write(way.join("cgroup.procs"), "0").is_ok()
                || fs::create_dir(way.join(&made)).is_ok()
                || has_child_in(way)
        };
        let left = confined.is_ok() && ways.iter().any(out);
        sys::exit_now(i32::from(!left))
    });
    let leader = leader.map_err(|f| format!("cannot fork into a leaf: {f:?}"))?;
    let left = reap_leader(&leader);
    for way in ways {
        let _ = fs::remove_dir(way.join(escape(leader.pid.as_raw().unsigned_abs())));
    }
    left
}

/// Whether a child can be born in this group; it ends at once.
fn has_child_in(group: &Path) -> bool {
    let fork = |group: File| match sys::fork(Some(group.as_fd()), CloneFlags::empty()) {
        Ok(Forked::Child) => sys::exit_now(0),
        Ok(Forked::Parent(..)) => true,
        Err(_) => false,
    };
    File::open(group).is_ok_and(fork)
}

/// A group that the trial's process may succeed in making.
fn escape(pid: u32) -> String {
    format!("execgate-escape-{pid}")
}

/// The trial's process: forks one that leaves its session and group, and both wait to be killed. Both hold the pipe.
fn hold_out(pipe: &OwnedFd) {
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
    let parent = rustix::process::getppid();
    let parent = parent.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
    if let Ok(Forked::Child) = sys::fork_plain() {
        let _ = nix::unistd::setsid();
        let _ = rustix::io::write(pipe, b"2");
        // A warden that dies during its trial must not leave it behind: no signal of its death reaches a grandchild.
        if let Some(parent) = &parent {
            let mut wait = [PollFd::new(parent.as_fd(), PollFlags::POLLIN)];
            while poll(&mut wait, PollTimeout::NONE) == Err(Errno::EINTR) {}
            sys::exit_now(0);
        }
    }
    loop {
        nix::unistd::pause();
    }
}

fn pipe() -> Result<(File, OwnedFd), String> {
    let (reading, writing) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| format!("pipe: {e}"))?;
    Ok((File::from(reading), writing))
}

/// Waits for the grandchild's word.
fn pair_lives(mut reading: File) -> Result<File, String> {
    let said = readable(reading.as_fd()) && matches!(reading.read(&mut [0; 1]), Ok(1));
    if said { Ok(reading) } else { Err("a grandchild did not appear".into()) }
}

/// Waits until no process holds the other end.
fn nobody_holds(mut reading: &File) -> Result<(), ()> {
    let ended = readable(reading.as_fd()) && matches!(reading.read(&mut [0; 1]), Ok(0));
    if ended { Ok(()) } else { Err(()) }
}

fn readable(fd: std::os::fd::BorrowedFd<'_>) -> bool {
    let end = Instant::now() + STEP;
    loop {
        let left = PollTimeout::try_from(end.saturating_duration_since(Instant::now()));
        match poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], left.unwrap_or(PollTimeout::ZERO)) {
            Err(Errno::EINTR) => {}
            other => return matches!(other, Ok(1)),
        }
    }
}

fn wait_for(leaf: &Leaf) -> Result<(), ()> {
    let end = Instant::now() + STEP;
    while leaf.state().populated {
        if Instant::now() >= end {
            return Err(());
        }
        let mut events = [PollFd::new(leaf.events(), PollFlags::POLLPRI)];
        let _ = poll(&mut events, PollTimeout::from(1_u8));
    }
    Ok(())
}
