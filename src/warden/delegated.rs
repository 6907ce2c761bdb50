//! cgroup2's controllers, handed down from the group we were given to the leaves (cgroup-v2.rst of the kernel).
//!
//! A controller works in a group when the group above names it in `cgroup.subtree_control`, and so on up. A group may name
//! controllers of resources only while no process is in it, unless it is the hierarchy's root ("No Internal Process
//! Constraint"): gateway and warden therefore move to [`SELF`] first. Where others are in the group, nothing is moved
//! and nothing is handed down.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where gateway and warden live, beside the instances: no instance, so no sweep may end it.
pub(super) const SELF: &str = "execgate-self";
/// The controllers that limits of a whole job need. CPU time is counted without one.
const WANTED: [&str; 2] = ["memory", "pids"];

/// The group that instances are made in: our own, or the one above it once a start has moved us.
pub(super) fn place(own: PathBuf) -> PathBuf {
    match own.parent() {
        Some(above) if own.ends_with(SELF) => above.to_owned(),
        Some(_) | None => own,
    }
}

/// Hands down what `group` has, moving these processes out of the way where that must be.
///
/// # Errors
/// Why its controllers cannot be handed down, for people.
pub(super) fn open(group: &Path, ours: &[i32]) -> Result<(), String> {
    if missing(group).is_empty() {
        return Ok(());
    }
    let said = |what: &str| format!("the controllers of {} are not handed down: {what}", group.display());
    // The root alone has no type (cgroup-v2.rst), and may hold processes beside its groups.
    if group.join("cgroup.type").exists() {
        let inside = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        let inside: Vec<i32> = inside.lines().filter_map(|line| line.parse().ok()).collect();
        let foreign = inside.iter().filter(|pid| !ours.contains(pid)).count();
        if foreign > 0 {
            return Err(said(&format!(
                "{foreign} process(es) that are not ours are in it; start execgate in a group of its own"
            )));
        }
        move_to(&group.join(SELF), &inside)
            .map_err(|e| said(&format!("gateway and warden cannot leave it: {e}")))?;
    }
    hand_down(group).map_err(|e| said(&e.to_string()))
}

fn move_to(group: &Path, processes: &[i32]) -> io::Result<()> {
    match fs::create_dir(group) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        Ok(()) | Err(_) => {}
    }
    processes.iter().try_for_each(|pid| fs::write(group.join("cgroup.procs"), pid.to_string()))
}

/// Lets the groups below this one use the controllers that it has.
pub(super) fn hand_down(group: &Path) -> io::Result<()> {
    let missing = missing(group);
    if missing.is_empty() {
        return Ok(());
    }
    let all: Vec<String> = missing.iter().map(|name| format!("+{name}")).collect();
    fs::write(group.join("cgroup.subtree_control"), all.join(" "))
}

/// Wanted controllers that the group has and does not hand down yet.
fn missing(group: &Path) -> Vec<&'static str> {
    let read = |file: &str| fs::read_to_string(group.join(file)).unwrap_or_default();
    let (has, gives) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    let names = |list: &str, name: &str| list.split_ascii_whitespace().any(|word| word == name);
    WANTED.into_iter().filter(|name| names(&has, name) && !names(&gives, name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A group as the kernel shows it, but for what writing does.
    fn group(controllers: &str, gives: &str, processes: &str, root: bool) -> tempfile::TempDir {
        let group = tempfile::tempdir().unwrap();
        let files = [("controllers", controllers), ("subtree_control", gives), ("procs", processes)];
        for (file, text) in files {
            fs::write(group.path().join(format!("cgroup.{file}")), text).unwrap();
        }
        if !root {
            fs::write(group.path().join("cgroup.type"), "domain\n").unwrap();
        }
        group
    }

    fn read(group: &tempfile::TempDir, file: &str) -> String {
        fs::read_to_string(group.path().join(file)).unwrap_or_default()
    }

    #[test]
    fn a_group_of_ours_hands_down_what_limits_need_once_we_left_it() {
        let own = group("cpuset cpu io memory hugetlb pids rdma\n", "", "7\n8\n", false);
        open(own.path(), &[7, 8]).unwrap();
        assert_eq!(read(&own, "cgroup.subtree_control"), "+memory +pids");
        assert_eq!(read(&own, "execgate-self/cgroup.procs"), "8", "each was written, one at a time");
        let again = group("cpu memory pids\n", "memory pids\n", "", false);
        open(again.path(), &[]).unwrap();
        assert_eq!(read(&again, "cgroup.subtree_control"), "memory pids\n", "nothing is written twice");
    }

    #[test]
    fn where_others_are_nothing_is_moved_or_handed_down() {
        let shared = group("memory pids\n", "", "7\n8\n9\n", false);
        let why = open(shared.path(), &[7, 8]).unwrap_err();
        assert!(why.contains("1 process(es) that are not ours"), "{why}");
        assert_eq!(read(&shared, "cgroup.subtree_control"), "");
        assert!(!shared.path().join(SELF).exists());
    }

    #[test]
    fn the_root_hands_down_with_processes_in_it_and_a_group_without_controllers_nothing() {
        let root = group("memory pids\n", "pids\n", "1\n2\n", true);
        open(root.path(), &[]).unwrap();
        assert_eq!(read(&root, "cgroup.subtree_control"), "+memory");
        let hybrid = group("", "", "1\n", false);
        open(hybrid.path(), &[]).unwrap();
        assert!(!hybrid.path().join(SELF).exists());
    }

    #[test]
    fn a_start_after_a_move_finds_the_same_place() {
        assert_eq!(place("/g/unit/execgate-self".into()), Path::new("/g/unit"));
        assert_eq!(place("/g/unit".into()), Path::new("/g/unit"));
    }
}
