//! Reaping adopted orphans: children of the warden that are no leader, one by one, a bounded number a turn.
//!
//! Never `waitid(P_ALL)`: with a leader kept as a zombie it would return that one for ever. Leaders are reaped
//! elsewhere, by pidfd, and only when their tree is empty.

use std::collections::HashSet;
use std::fs;

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Most orphans reaped a turn; the rest waits for the next one.
const MAX_A_TURN: usize = 256;

/// What a turn of reaping found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// Reaped now.
    pub(super) reaped: u32,
    /// Orphans that live on.
    pub(super) living: Vec<i32>,
    /// There was more to do than a turn does.
    pub(super) more: bool,
}

/// Reaps what orphans have ended. `number` is what this process calls a child that /proc shows under a number: another
/// one where /proc is that of an outer PID namespace.
pub(super) fn orphans(leaders: &HashSet<i32>, number: impl Fn(i32) -> Option<i32>) -> Turn {
    let mut turn = Turn { reaped: 0, living: Vec::new(), more: false };
    let children = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    let orphans = children.split_ascii_whitespace().filter_map(|pid| number(pid.parse().ok()?));
    for (count, pid) in orphans.filter(|pid| !leaders.contains(pid)).enumerate() {
        if count >= MAX_A_TURN {
            turn.more = true;
            break;
        }
        match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => turn.living.push(pid),
            Ok(_) => turn.reaped += 1,
            Err(_) => {}
        }
    }
    turn
}

/// What a child that an outer /proc shows under `pid` is called in this process's own PID namespace (NSpid of
/// proc_pid_status(5): one number for each namespace, from the outermost on).
pub(super) fn inner_number(pid: i32) -> Option<i32> {
    let numbers = |of: String| {
        let status = fs::read_to_string(format!("/proc/{of}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        Some(line.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<i32>>())
    };
    let depth = numbers("self".to_owned())?.len();
    numbers(pid.to_string())?.get(depth.checked_sub(1)?).copied()
}
