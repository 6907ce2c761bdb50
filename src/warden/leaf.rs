//! Groups: the instance's root, the groups of tenants and sessions below it, and one fresh leaf for each job.
//!
//! Names are server-made numbers that are never used again, because below a group that was ever written
//! `cgroup.kill` every newborn dies at birth. An empty session or tenant group is removed soon after its last job,
//! and its next use makes a new number. Controllers that our own group has are handed down to the leaves.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::process::PidfdFlags;

use super::{delegated, sys, walk};

/// Deepest nesting that is walked below a leaf.
const MAX_DEPTH: u32 = 32;
/// Most processes read from one leaf at a time.
pub(super) const MAX_MEMBERS: usize = 4096;

/// The instance's own group. Its lock says that the instance lives.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    _lock: Flock<File>,
    branches: HashMap<String, Branch>,
    made: u64,
}

#[derive(Debug)]
struct Branch {
    path: PathBuf,
    twigs: HashMap<String, Twig>,
}

#[derive(Debug)]
struct Twig {
    path: PathBuf,
    leaves: u32,
    /// Since when it has had no leaf.
    idle: Option<Instant>,
}

/// The group of exactly one job. Removed by [`Root::remove`], not by drop: the kernel may not be ready.
#[derive(Debug)]
pub(super) struct Leaf {
    path: PathBuf,
    directory: OwnedFd,
    events: File,
    tenant: String,
    session: String,
}

/// What `cgroup.events` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    pub(super) populated: bool,
    pub(super) frozen: bool,
}

impl Root {
    /// Makes `execgate-<instance>` below `parent` and locks it.
    ///
    /// # Errors
    /// `EBUSY` when the sweep of another instance that starts took it before it was locked: use another name.
    pub(super) fn create(parent: &Path, instance: &str) -> io::Result<Self> {
        let path = parent.join(format!("execgate-{instance}"));
        // Closed to others, who could hold the lock of a stale instance and so keep it from being swept.
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        let lock = lock(&path).ok_or_else(|| io::Error::from(Errno::EBUSY))?;
        delegated::hand_down(&path)?;
        Ok(Self { path, _lock: lock, branches: HashMap::new(), made: 0 })
    }

    /// Its path, for people.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What the gateway needs to end everything without the warden: `cgroup.kill` and `cgroup.events`.
    pub(super) fn emergency(&self) -> io::Result<[OwnedFd; 2]> {
        let kill = File::options().write(true).open(self.path.join("cgroup.kill"))?;
        let events = File::open(self.path.join("cgroup.events"))?;
        Ok([kill.into(), events.into()])
    }

    /// A fresh leaf for one job of this session of this tenant.
    pub(super) fn leaf(&mut self, tenant: &str, session: &str) -> io::Result<Leaf> {
        if !self.branches.contains_key(tenant) {
            let number = self.next();
            let path = self.path.join(number);
            make(&path)?;
            self.branches.insert(tenant.to_owned(), Branch { path, twigs: HashMap::new() });
        }
        let made = self.make_leaf(tenant, session);
        if made.is_err() {
            self.prune(Instant::now(), Duration::ZERO);
        }
        made
    }

    fn make_leaf(&mut self, tenant: &str, session: &str) -> io::Result<Leaf> {
        let (twig_number, leaf_number) = (self.next(), self.next());
        let branch = self.branches.get_mut(tenant).ok_or(Errno::ENOENT)?;
        if !branch.twigs.contains_key(session) {
            let path = branch.path.join(twig_number);
            make(&path)?;
            branch.twigs.insert(session.to_owned(), Twig { path, leaves: 0, idle: None });
        }
        let twig = branch.twigs.get_mut(session).ok_or(Errno::ENOENT)?;
        let path = twig.path.join(leaf_number);
        fs::create_dir(&path)?;
        let leaf = Leaf::open(path, tenant, session)?;
        twig.leaves += 1;
        twig.idle = None;
        Ok(leaf)
    }

    fn next(&mut self) -> String {
        self.made += 1;
        self.made.to_string()
    }

    /// Removes an empty leaf with everything below it. The groups above it are left for [`Self::prune`].
    ///
    /// # Errors
    /// The leaf back, when the kernel would not let go of it yet.
    pub(super) fn remove(&mut self, leaf: Leaf) -> Result<(), Leaf> {
        if remove_tree(&leaf.path, MAX_DEPTH).is_err() {
            return Err(leaf);
        }
        if let Some(twig) = self.branches.get_mut(&leaf.tenant).and_then(|b| b.twigs.get_mut(&leaf.session)) {
            twig.leaves = twig.leaves.saturating_sub(1);
            twig.idle = (twig.leaves == 0).then(Instant::now);
        }
        Ok(())
    }

    /// Removes the groups of sessions without a job for `linger`, and of tenants without such a session: a
    /// session that runs one short command after the other keeps its group between them.
    pub(super) fn prune(&mut self, now: Instant, linger: Duration) {
        self.branches.retain(|_, branch| {
            branch.twigs.retain(|_, twig| {
                let over = twig.leaves == 0 && twig.idle.is_none_or(|since| now >= since + linger);
                !(over && fs::remove_dir(&twig.path).is_ok())
            });
            !(branch.twigs.is_empty() && fs::remove_dir(&branch.path).is_ok())
        });
    }

    /// When [`Self::prune`] will next have something to do.
    pub(super) fn next_prune(&self, linger: Duration) -> Option<Instant> {
        let twigs = self.branches.values().flat_map(|branch| branch.twigs.values());
        twigs.filter_map(|twig| twig.idle).min().map(|since| since + linger)
    }

    /// Groups of jobs that exist now: all that are on disk but those kept for tenants and sessions.
    pub(super) fn count(&self) -> u32 {
        let kept: usize = self.branches.values().map(|branch| 1 + branch.twigs.len()).sum();
        count_below(&self.path, MAX_DEPTH).saturating_sub(u32::try_from(kept).unwrap_or(u32::MAX))
    }

    /// Kills everything in the instance. It can never hold a job again.
    pub(super) fn kill(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")
    }

    /// Whether this process is in the instance, as far as can be told.
    pub(super) fn holds(&self, pid: i32) -> bool {
        let Some(name) = self.path.file_name().and_then(|name| name.to_str()) else { return false };
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let own = groups.lines().find_map(|line| line.strip_prefix("0::"));
        own.is_some_and(|path| path.split('/').any(|part| part == name))
    }

    /// Whether any process lives in the instance.
    pub(super) fn populated(&self) -> bool {
        fs::read_to_string(self.path.join("cgroup.events")).is_ok_and(|text| parse_events(&text).populated)
    }

    /// Removes the instance's groups as far as they are empty.
    pub(super) fn dissolve(&self) -> io::Result<()> {
        remove_tree(&self.path, MAX_DEPTH)
    }
}

impl Leaf {
    fn open(path: PathBuf, tenant: &str, session: &str) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(io::Error::from)
            .and_then(|directory| Ok((directory, File::open(path.join("cgroup.events"))?)));
        match opened {
            Ok((directory, events)) => {
                Ok(Self { path, directory, events, tenant: tenant.to_owned(), session: session.to_owned() })
            }
            Err(error) => {
                let _ = fs::remove_dir(&path);
                Err(error)
            }
        }
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// For clone3.
    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Signals EPOLLPRI when [`Self::state`] may have changed since it was last read.
    pub(super) fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Whether it is populated and whether it is frozen. A group that is gone is empty; one that cannot be read
    /// counts as populated.
    pub(super) fn state(&self) -> State {
        let mut text = [0; walk::SHORT];
        match self.events.read_at(&mut text, 0) {
            Ok(read) => parse_events(&String::from_utf8_lossy(text.get(..read).unwrap_or_default())),
            Err(e) => State { populated: e.raw_os_error() != Some(Errno::ENODEV as i32), frozen: false },
        }
    }

    /// Kills everything in it. It can never hold a job again.
    pub(super) fn kill(&self) -> io::Result<()> {
        self.write("cgroup.kill", "1")
    }

    /// Asks for a freeze or a thaw; `state` tells when it is reached.
    pub(super) fn freeze(&self, frozen: bool) -> io::Result<()> {
        self.write("cgroup.freeze", if frozen { "1" } else { "0" })
    }

    /// Moves a process into it, where it could not be born in it.
    pub(super) fn join(&self, pid: nix::unistd::Pid) -> io::Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Processes in it and below it, at most [`MAX_MEMBERS`].
    pub(super) fn members(&self) -> Vec<i32> {
        let mut members = Vec::new();
        collect_members(&self.path, MAX_DEPTH, &mut members);
        members
    }

    /// Its members by pidfd.
    pub(super) fn hold(&self) -> Vec<OwnedFd> {
        hold(&self.path)
    }

    /// Ends what [`Self::kill`] left alive: see [`put_down`].
    pub(super) fn put_down(&self) {
        put_down(&self.path);
    }

    /// CPU time of the whole tree so far, (user, system) in microseconds, where the kernel counts it.
    pub(super) fn cpu(&self) -> Option<(u64, u64)> {
        let text = walk::read_once(&self.path.join("cpu.stat"))?;
        let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok());
        Some((field("user_usec ")?, field("system_usec ")?))
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, file, flags, Mode::empty())?;
        rustix::io::write(file, text.as_bytes())?;
        Ok(())
    }
}

/// A group that hands down to its own what it has.
fn make(path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    delegated::hand_down(path).inspect_err(|_| drop(fs::remove_dir(path)))
}

/// Ends and removes instances beside ours whose warden is gone; `wait` is called between tries and says when to
/// give up. Returns how many were found.
pub(super) fn sweep(parent: &Path, mut wait: impl FnMut() -> bool) -> u32 {
    let Ok(entries) = fs::read_dir(parent) else { return 0 };
    let mut found = 0;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name == delegated::SELF || !name.to_string_lossy().starts_with("execgate-") {
            continue;
        }
        // Who may not kill it may not hold its lock either, while another one could.
        let Ok(mut kill) = File::options().write(true).open(entry.path().join("cgroup.kill")) else {
            continue;
        };
        let Some(_lock) = lock(&entry.path()) else { continue };
        found += 1;
        let _ = kill.write_all(b"1");
        while remove_tree(&entry.path(), MAX_DEPTH).is_err() && wait() {
            put_down(&entry.path());
        }
    }
    found
}

/// Ends who outlived a group's `cgroup.kill`. The kernel sends that signal to the first thread of each process alone, so one
/// whose first thread has exited lives on, and may fork. Freezing stops every thread, so that nobody is born while the
/// members are told one by one; a frozen process can be killed.
pub(super) fn put_down(group: &Path) {
    let _ = fs::write(group.join("cgroup.freeze"), "1");
    for pidfd in hold(group) {
        let _ = sys::signal_pidfd(pidfd.as_fd(), Signal::SIGKILL as i32);
    }
}

/// The members of a group and of those below it by pidfd: only those that are still listed after they were opened, so that
/// a number that was reused in between is not taken for a member.
pub(super) fn hold(group: &Path) -> Vec<OwnedFd> {
    let listed = || {
        let mut members = Vec::new();
        collect_members(group, MAX_DEPTH, &mut members);
        members
    };
    let open = |pid: i32| {
        let number = rustix::process::Pid::from_raw(pid)?;
        Some((pid, rustix::process::pidfd_open(number, PidfdFlags::empty()).ok()?))
    };
    let opened: Vec<_> = listed().into_iter().filter_map(open).collect();
    let still: HashSet<i32> = listed().into_iter().collect();
    opened.into_iter().filter(|(pid, _)| still.contains(pid)).map(|(_, pidfd)| pidfd).collect()
}

/// The lock of an instance's group, unless somebody holds it or the group is gone.
fn lock(path: &Path) -> Option<Flock<File>> {
    let lock = Flock::lock(File::open(path).ok()?, FlockArg::LockExclusiveNonblock).ok()?;
    let same = fs::metadata(path).ok()?.ino() == lock.metadata().ok()?.ino();
    same.then_some(lock)
}

fn parse_events(text: &str) -> State {
    let set = |wanted: &str| text.lines().any(|line| line == wanted);
    State { populated: set("populated 1"), frozen: set("frozen 1") }
}

fn subgroups(path: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path())
}

/// Removes groups bottom up; groups can only be removed when empty, so this never harms a process.
fn remove_tree(path: &Path, depth: u32) -> io::Result<()> {
    let removed = rustix::fs::unlinkat(rustix::fs::CWD, path, AtFlags::REMOVEDIR);
    if matches!(removed, Ok(()) | Err(rustix::io::Errno::NOENT)) {
        return Ok(());
    }
    let below = depth.checked_sub(1).ok_or(Errno::ELOOP)?;
    for group in subgroups(path) {
        remove_tree(&group, below)?;
    }
    fs::remove_dir(path)
}

fn count_below(path: &Path, depth: u32) -> u32 {
    let Some(below) = depth.checked_sub(1) else { return 0 };
    subgroups(path).map(|group| 1 + count_below(&group, below)).sum()
}

fn collect_members(path: &Path, depth: u32, members: &mut Vec<i32>) {
    let text = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    let room = MAX_MEMBERS.saturating_sub(members.len());
    members.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).take(room));
    let Some(below) = depth.checked_sub(1) else { return };
    for group in subgroups(path) {
        collect_members(&group, below, members);
    }
}

/// Where this process's groups live: the cgroup2 mount and our own group in it, from the text of
/// `/proc/self/mountinfo` and `/proc/self/cgroup`. `None` where there is no cgroup2.
pub(super) fn own_group(mountinfo: &str, cgroup: &str) -> Option<PathBuf> {
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    let (root, mount) = mountinfo.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(3);
        kind.starts_with("cgroup2 ").then(|| Some((fields.next()?, fields.next()?))).flatten()
    })?;
    let inside = Path::new(own).strip_prefix(root).ok()?;
    let visible = !inside.components().any(|c| c == std::path::Component::ParentDir);
    visible.then(|| Path::new(mount).join(inside))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw\n";

    #[test]
    fn the_own_group_is_found_on_hybrid_and_pure_hosts() {
        let found = own_group(HYBRID, "9:name=systemd:/\n0::/\n");
        assert_eq!(found, Some(PathBuf::from("/sys/fs/cgroup/unified/")));
        let pure = "30 24 0:26 /user.slice /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let found = own_group(pure, "0::/user.slice/a b\n");
        assert_eq!(found, Some(PathBuf::from("/sys/fs/cgroup/a b")));
    }

    #[test]
    fn no_group_is_guessed() {
        assert_eq!(own_group("", "0::/\n"), None);
        assert_eq!(own_group(HYBRID, "1:cpu:/\n"), None);
        assert_eq!(own_group(HYBRID, "0::/../other\n"), None);
        let narrower = "30 24 0:26 /mine /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(own_group(narrower, "0::/theirs\n"), None);
    }

    #[test]
    fn events_are_read_by_line() {
        let read = |text| parse_events(text);
        assert_eq!(read("populated 1\nfrozen 0\n"), State { populated: true, frozen: false });
        assert_eq!(read("populated 0\nfrozen 1\n"), State { populated: false, frozen: true });
        assert_eq!(read(""), State { populated: false, frozen: false });
    }
}
