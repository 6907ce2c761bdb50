//! Groups: the instance's root, the groups of tenants and sessions below it, and one fresh leaf for each job.
//!
//! Names are server-made numbers that are never used again, because below a group that was ever written
//! `cgroup.kill` every newborn dies at birth. An empty session or tenant group is removed soon after its last job,
//! and its next use makes a new number. Controllers that our own group has are handed down to the leaves.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::Flock;
use nix::sys::signal::Signal;
use rustix::fs::{Mode, OFlags};

use super::{cgroup, delegated, sys, walk};

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
    /// Since when it has had no leaf, or when it last could not be removed.
    idle: Option<Instant>,
    /// That it cannot be removed was told.
    told: bool,
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
    /// Why it cannot be made, or hand down what limits need.
    pub(super) fn create(parent: &Path, instance: &str) -> io::Result<Self> {
        let (path, lock) = cgroup::create(parent, instance)?;
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
            self.prune(Instant::now(), Duration::ZERO, |_| {});
        }
        made
    }

    fn make_leaf(&mut self, tenant: &str, session: &str) -> io::Result<Leaf> {
        let (twig_number, leaf_number) = (self.next(), self.next());
        let branch = self.branches.get_mut(tenant).ok_or(Errno::ENOENT)?;
        if !branch.twigs.contains_key(session) {
            let path = branch.path.join(twig_number);
            make(&path)?;
            branch.twigs.insert(session.to_owned(), Twig { path, leaves: 0, idle: None, told: false });
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
        if cgroup::remove(&leaf.path).is_err() {
            return Err(leaf);
        }
        if let Some(twig) = self.branches.get_mut(&leaf.tenant).and_then(|b| b.twigs.get_mut(&leaf.session)) {
            twig.leaves = twig.leaves.saturating_sub(1);
            twig.idle = (twig.leaves == 0).then(Instant::now);
        }
        Ok(())
    }

    /// Removes the groups of sessions without a job for `linger`, and of tenants without such a session: a
    /// session that runs one short command after the other keeps its group between them. One that cannot be removed is tried
    /// again after `linger`; `fault` is told once, for people.
    pub(super) fn prune(&mut self, now: Instant, linger: Duration, mut fault: impl FnMut(&str)) {
        self.branches.retain(|_, branch| {
            branch.twigs.retain(|_, twig| {
                if twig.leaves > 0 || twig.idle.is_some_and(|since| now < since + linger) {
                    return true;
                }
                let Err(error) = cgroup::remove(&twig.path) else { return false };
                twig.idle = Some(now);
                if !std::mem::replace(&mut twig.told, true) {
                    fault(&format!(
                        "{}: {error}; somebody else's group in it, or a process: it is tried again",
                        twig.path.display()
                    ));
                }
                true
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
        cgroup::count(&self.path).saturating_sub(u32::try_from(kept).unwrap_or(u32::MAX))
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
        cgroup::remove(&self.path)
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

    /// Processes in it and below it, at most [`cgroup::MAX_MEMBERS`].
    pub(super) fn members(&self) -> Vec<i32> {
        cgroup::members(&self.path)
    }

    /// Its members by pidfd.
    pub(super) fn hold(&self) -> Vec<OwnedFd> {
        cgroup::hold(&self.path)
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
    let mut found = 0;
    for group in cgroup::instances(parent) {
        // Who may not kill it may not hold its lock either, while another one could.
        let Ok(mut kill) = File::options().write(true).open(group.join("cgroup.kill")) else { continue };
        let Some(_lock) = cgroup::lock(&group) else { continue };
        found += 1;
        let _ = kill.write_all(b"1");
        while cgroup::remove(&group).is_err() && wait() {
            put_down(&group);
        }
    }
    found
}

/// Ends who outlived a group's `cgroup.kill`. The kernel sends that signal to the first thread of each process alone, so one
/// whose first thread has exited lives on, and may fork. Freezing stops every thread, so that nobody is born while the
/// members are told one by one; a frozen process can be killed.
pub(super) fn put_down(group: &Path) {
    let _ = fs::write(group.join("cgroup.freeze"), "1");
    for pidfd in cgroup::hold(group) {
        let _ = sys::signal_pidfd(pidfd.as_fd(), Signal::SIGKILL as i32);
    }
}

fn parse_events(text: &str) -> State {
    let set = |wanted: &str| text.lines().any(|line| line == wanted);
    State { populated: set("populated 1"), frozen: set("frozen 1") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_cannot_be_removed_is_tried_again_later_and_told_once() {
        let place = tempfile::tempdir().unwrap();
        let (tenant, now, linger) = (place.path().join("1"), Instant::now(), Duration::from_secs(2));
        let group = tenant.join("2");
        fs::create_dir_all(&group).unwrap();
        // What a process in it is to a group, a file is to a directory.
        fs::write(group.join("held"), "").unwrap();
        let twig = Twig { path: group.clone(), leaves: 0, idle: Some(now - linger), told: false };
        let branch = Branch { path: tenant.clone(), twigs: HashMap::from([("s".to_owned(), twig)]) };
        let _lock = cgroup::lock(place.path()).unwrap();
        let branches = HashMap::from([("t".to_owned(), branch)]);
        let mut root = Root { path: place.path().to_owned(), _lock, branches, made: 2 };
        let mut told = Vec::new();
        for (now, tells) in [(now, 1), (now + linger, 1)] {
            root.prune(now, linger, |what| told.push(what.to_owned()));
            assert_eq!((root.next_prune(linger), told.len()), (Some(now + linger), tells), "{told:?}");
        }
        fs::remove_file(group.join("held")).unwrap();
        root.prune(now + 2 * linger, linger, |_| {});
        assert_eq!((root.next_prune(linger), tenant.exists()), (None, false));
    }

    #[test]
    fn events_are_read_by_line() {
        let read = |text| parse_events(text);
        assert_eq!(read("populated 1\nfrozen 0\n"), State { populated: true, frozen: false });
        assert_eq!(read("populated 0\nfrozen 1\n"), State { populated: false, frozen: true });
        assert_eq!(read(""), State { populated: false, frozen: false });
    }
}
