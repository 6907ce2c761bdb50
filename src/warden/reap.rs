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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    /// Reaped now.
    pub(super) reaped: u32,
    /// Orphans that live on.
    pub(super) living: u32,
    /// There was more to do than a turn does.
    pub(super) more: bool,
}

/// Reaps what orphans have ended.
pub(super) fn orphans(leaders: &HashSet<i32>) -> Turn {
    let mut turn = Turn { reaped: 0, living: 0, more: false };
    let children = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    let orphans = children.split_ascii_whitespace().filter_map(|pid| pid.parse::<i32>().ok());
    for (count, pid) in orphans.filter(|pid| !leaders.contains(pid)).enumerate() {
        if count >= MAX_A_TURN {
            turn.more = true;
            break;
        }
        match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => turn.living += 1,
            Ok(_) => turn.reaped += 1,
            Err(_) => {}
        }
    }
    turn
}
