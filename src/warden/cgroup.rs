//! What groups of both versions of cgroups have in common: where ours are, the lock that says that an instance lives, and how
//! they are removed.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use rustix::fs::AtFlags;
use rustix::process::PidfdFlags;

use super::delegated;

/// Prefix of an instance's groups.
const PREFIX: &str = "execgate-";
/// Names tried for an instance's group, each only when a sweep took the one before.
const NAMES: u32 = 16;
/// Deepest nesting that is walked below a group.
const MAX_DEPTH: u32 = 32;
/// Most processes read from one group at a time.
pub(super) const MAX_MEMBERS: usize = 4096;

/// A line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Debug)]
pub(super) struct Mount<'a> {
    /// What of the file system is mounted.
    root: PathBuf,
    pub(super) place: PathBuf,
    pub(super) kind: &'a str,
    options: &'a str,
}

/// What is mounted, from the text of `/proc/self/mountinfo`.
pub(super) fn mounts(mountinfo: &str) -> impl Iterator<Item = Mount<'_>> {
    mountinfo.lines().filter_map(|line| {
        let (fields, source) = line.split_once(" - ")?;
        let (mut fields, mut source) = (fields.split(' ').skip(3).map(unescape), source.split(' '));
        let (kind, options) = (source.next()?, source.next_back()?);
        Some(Mount { root: fields.next()?, place: fields.next()?, kind, options })
    })
}

/// mountinfo writes blanks and backslashes in octal.
fn unescape(text: &str) -> PathBuf {
    let codes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    codes.iter().fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain)).into()
}

/// Our own group in cgroup2, or in the v1 hierarchy of a controller, from the text of `/proc/self/mountinfo` and
/// `/proc/self/cgroup`. `None` where it is not mounted, or not in sight.
pub(super) fn own_group(mountinfo: &str, cgroup: &str, controller: Option<&str>) -> Option<PathBuf> {
    let has = |list: &str| list.split(',').any(|word| word == controller.unwrap_or_default());
    let own = cgroup.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        has(controllers).then_some(path)
    })?;
    let holds = |mount: &Mount<'_>| match controller {
        None => mount.kind == "cgroup2",
        Some(_) => mount.kind == "cgroup" && has(mount.options),
    };
    let mount = mounts(mountinfo).find(holds)?;
    let inside = Path::new(own).strip_prefix(&mount.root).ok()?;
    let visible = !inside.components().any(|part| part == Component::ParentDir);
    visible.then(|| mount.place.join(inside))
}

/// Makes a group of the instance's own below `parent`. Its lock says that the instance lives.
pub(super) fn create(parent: &Path, instance: &str) -> io::Result<(PathBuf, Flock<File>)> {
    for number in 0..NAMES {
        let path = parent.join(format!("{PREFIX}{instance}{number:x}"));
        // Closed to others, who could hold the lock of a stale instance and so keep it from being swept.
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        if let Some(lock) = lock(&path) {
            return Ok((path, lock));
        }
    }
    Err(io::Error::other("other instances that start at once keep taking ours for stale"))
}

/// The groups of instances below `parent`, whether these live or not.
pub(super) fn instances(parent: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let is_instance = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        name != delegated::SELF && name.to_string_lossy().starts_with(PREFIX)
    };
    entries.filter(is_instance).map(|entry| entry.path())
}

/// The lock of an instance's group, unless somebody holds it or the group is gone.
pub(super) fn lock(path: &Path) -> Option<Flock<File>> {
    let lock = Flock::lock(File::open(path).ok()?, FlockArg::LockExclusiveNonblock).ok()?;
    let same = fs::metadata(path).ok()?.ino() == lock.metadata().ok()?.ino();
    same.then_some(lock)
}

/// The members of a group and of those below it by pidfd: only those that are still listed after they were opened, so that
/// a number that was reused in between is not taken for a member.
pub(super) fn hold(group: &Path) -> Vec<OwnedFd> {
    let open = |pid: i32| {
        let number = rustix::process::Pid::from_raw(pid)?;
        Some((pid, rustix::process::pidfd_open(number, PidfdFlags::empty()).ok()?))
    };
    let opened: Vec<_> = members(group).into_iter().filter_map(open).collect();
    let still: HashSet<i32> = members(group).into_iter().collect();
    opened.into_iter().filter(|(pid, _)| still.contains(pid)).map(|(_, pidfd)| pidfd).collect()
}

/// Processes in a group and below it, at most [`MAX_MEMBERS`].
pub(super) fn members(group: &Path) -> Vec<i32> {
    let mut members = Vec::new();
    collect_members(group, MAX_DEPTH, &mut members);
    members
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

/// How many groups there are below one.
pub(super) fn count(group: &Path) -> u32 {
    count_below(group, MAX_DEPTH)
}

fn count_below(path: &Path, depth: u32) -> u32 {
    let Some(below) = depth.checked_sub(1) else { return 0 };
    subgroups(path).map(|group| 1 + count_below(&group, below)).sum()
}

/// Removes a group and those below it, bottom up; groups can only be removed when empty, so this never harms a process.
pub(super) fn remove(group: &Path) -> io::Result<()> {
    remove_tree(group, MAX_DEPTH)
}

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

fn subgroups(path: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        40 31 0:37 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw\n\
        42 31 0:39 /box /odd\\040place rw - cgroup cgroup rw,memory\n";

    #[test]
    fn the_own_group_is_found_on_hybrid_and_pure_hosts() {
        let own = "9:cpu,cpuacct:/a\n8:memory:/box/b\n1:name=systemd:/\n0::/\n";
        let found = |controller| own_group(HYBRID, own, controller);
        assert_eq!(found(None), Some(PathBuf::from("/sys/fs/cgroup/unified/")));
        assert_eq!(found(Some("cpuacct")), Some(PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/a")));
        assert_eq!(found(Some("memory")), Some(PathBuf::from("/odd place/b")));
        assert_eq!(found(Some("pids")), None);
        let pure = "30 24 0:26 /user.slice /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let found = own_group(pure, "0::/user.slice/a b\n", None);
        assert_eq!(found, Some(PathBuf::from("/sys/fs/cgroup/a b")));
    }

    #[test]
    fn no_group_is_guessed() {
        assert_eq!(own_group("", "0::/\n", None), None);
        assert_eq!(own_group(HYBRID, "1:cpu:/\n", None), None);
        assert_eq!(own_group(HYBRID, "0::/../other\n", None), None);
        assert_eq!(own_group(HYBRID, "8:memory:/other\n", Some("memory")), None);
        let narrower = "30 24 0:26 /mine /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(own_group(narrower, "0::/theirs\n", None), None);
    }

    #[test]
    fn a_lock_is_of_the_group_that_is_there() {
        let parent = tempfile::tempdir().unwrap();
        let (first, _held) = create(parent.path(), "a").unwrap();
        assert!(lock(&first).is_none(), "it lives");
        fs::remove_dir(&first).unwrap();
        let (again, _held_too) = create(parent.path(), "a").unwrap();
        assert!(
            again == first && lock(&again).is_none(),
            "the lock of the one that is gone is not this one's"
        );
    }
}
