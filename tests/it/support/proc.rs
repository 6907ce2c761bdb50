//! Looking at /proc and the cgroups without asking the program under test.

use std::fs;
use std::path::PathBuf;

fn pids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim().chars().next()
}

/// Whether the process exists and is no zombie: one whose first thread alone has ended is none.
pub fn is_alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| state != 'Z' && state != 'X') || threads(pid).len() > 1
}

fn threads(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// This file of every thread: the first one's is empty once that thread has ended.
fn of_threads(pid: i32, file: &str) -> Vec<u8> {
    let read = |thread| fs::read(format!("/proc/{pid}/task/{thread}/{file}")).unwrap_or_default();
    threads(pid).into_iter().flat_map(read).collect()
}

/// Every living process with this `NAME=value` in its environment.
pub fn with_environment(marker: &str) -> Vec<i32> {
    let has = |pid: &i32| {
        let environment = of_threads(*pid, "environ");
        environment.split(|b| *b == 0).any(|variable| variable == marker.as_bytes())
    };
    pids().filter(has).filter(|pid| is_alive(*pid)).collect()
}

/// Every living process with this text among its arguments or in the environment it was born with.
pub fn marked(mark: &str) -> Vec<i32> {
    let mark = mark.as_bytes();
    let holds = |text: Vec<u8>| text.windows(mark.len()).any(|part| part == mark);
    let has = |pid: &i32| ["cmdline", "environ"].iter().any(|file| holds(of_threads(*pid, file)));
    pids().filter(has).filter(|pid| is_alive(*pid)).collect()
}

/// Living children.
pub fn children(pid: i32) -> Vec<i32> {
    let parent = |child: &i32| {
        let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("PPid:").is_some_and(|p| p.trim() == pid.to_string()))
    };
    pids().filter(parent).filter(|pid| is_alive(*pid)).collect()
}

/// Zombies whose parent is this process.
pub fn zombies(pid: i32) -> usize {
    let of = |child: &i32| {
        let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
        status.lines().any(|line| line.strip_prefix("PPid:").is_some_and(|p| p.trim() == pid.to_string()))
    };
    pids().filter(of).filter(|pid| state(*pid) == Some('Z')).count()
}

/// Nanoseconds that the process has run (schedstat of proc_pid_schedstat(5)).
pub fn time_on_cpu(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    stat.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// How often the process has left the processor of its own accord (proc_pid_status(5)).
pub fn rests(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap_or("0");
    line.trim().parse().unwrap_or(0)
}

/// Open descriptors.
pub fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count).unwrap_or(0)
}

/// Resident memory, bytes.
pub fn rss(pid: i32) -> u64 {
    memory(pid, "VmRSS:")
}

/// The most resident memory there has been, bytes.
pub fn peak(pid: i32) -> u64 {
    memory(pid, "VmHWM:")
}

fn memory(pid: i32, what: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap_or("0 kB");
    line.split_whitespace().next().and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// The cgroup2 group that a process is in, whether that is the root or one delegated below it.
pub fn group(pid: i32) -> Option<PathBuf> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let mounts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
    mounts.iter().find(|mount| mount.join("cgroup.procs").exists()).map(|mount| mount.join(own))
}

/// The control group of the instance that the banner names.
pub fn instance_of(banner: &[String]) -> Option<PathBuf> {
    banner.iter().find_map(|line| line.split(" below ").nth(1)).map(PathBuf::from)
}

/// Control groups below the instance that the banner names; the session and tenant groups of a served job linger a little.
pub fn groups_of(banner: &[String]) -> Vec<PathBuf> {
    let Some(root) = instance_of(banner) else { return Vec::new() };
    let mut found = Vec::new();
    let mut todo = vec![root];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                found.push(entry.path());
                todo.push(entry.path());
            }
        }
    }
    found
}

/// Bytes the process has written in all.
pub fn written(pid: i32) -> u64 {
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap_or("0");
    line.parse().unwrap_or(0)
}
