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
/// The share of processor time of gateway and warden, where all jobs of an instance together have 100, the kernel's default
/// (`cpu.weight`).
const WEIGHT: &str = "1000";

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
    let said = |what: &str| format!("the controllers of {} are not handed down: {what}", group.display());
    if missing(group).is_empty() {
        return come_first(group);
    }
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
    let first = come_first(group);
    hand_down(group).map_err(|e| said(&e.to_string())).and(first)
}

/// Gives gateway and warden a weight of their own against all jobs, where they have a group and it has the controller. Only the
/// group's own children need it, so it is not handed down further.
///
/// # Errors
/// Why they have none, for people.
fn come_first(group: &Path) -> Result<(), String> {
    let own = group.join(SELF);
    if !own.exists() || !lists(group, "cgroup.controllers", "cpu") {
        return Ok(());
    }
    let enabled = if lists(group, "cgroup.subtree_control", "cpu") {
        Ok(())
    } else {
        fs::write(group.join("cgroup.subtree_control"), "+cpu")
    };
    enabled.and_then(|()| fs::write(own.join("cpu.weight"), WEIGHT)).map_err(|e| {
        format!("gateway and warden have no share of processor time of their own ({e}); jobs.nice alone puts them first")
    })
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
    let is_missing = |name: &&str| {
        lists(group, "cgroup.controllers", name) && !lists(group, "cgroup.subtree_control", name)
    };
    WANTED.into_iter().filter(is_missing).collect()
}

/// Whether a file of the group names this controller.
fn lists(group: &Path, file: &str, controller: &str) -> bool {
    let names = fs::read_to_string(group.join(file)).unwrap_or_default();
    names.split_ascii_whitespace().any(|name| name == controller)
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
        assert_eq!(read(&own, "execgate-self/cpu.weight"), "1000");
        let again = group("cpu memory pids\n", "memory pids\n", "", false);
        open(again.path(), &[]).unwrap();
        assert_eq!(read(&again, "cgroup.subtree_control"), "memory pids\n", "nothing is written twice");
    }

    #[test]
    fn a_start_after_a_move_gives_gateway_and_warden_their_weight_again() {
        let own = group("cpu memory pids\n", "memory pids\n", "", false);
        fs::create_dir(own.path().join(SELF)).unwrap();
        open(own.path(), &[]).unwrap();
        assert_eq!(read(&own, "cgroup.subtree_control"), "+cpu");
        assert_eq!(read(&own, "execgate-self/cpu.weight"), "1000");
        let without = group("memory pids\n", "memory pids\n", "", false);
        fs::create_dir(without.path().join(SELF)).unwrap();
        open(without.path(), &[]).unwrap();
        assert_eq!(read(&without, "execgate-self/cpu.weight"), "");
    }

    #[test]
    fn a_weight_that_cannot_be_given_is_told_and_limits_are_handed_down_all_the_same() {
        let own = group("cpu memory pids\n", "", "", false);
        fs::create_dir_all(own.path().join(SELF).join("cpu.weight")).unwrap();
        let why = open(own.path(), &[]).unwrap_err();
        assert!(why.contains("no share of processor time"), "{why}");
        assert_eq!(read(&own, "cgroup.subtree_control"), "+memory +pids");
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
