//! Reaping adopted orphans: children of the warden that are no leader, one by one, a bounded number a turn.
//!
//! Never `waitid(P_ALL)` while a leader is kept as a zombie: it would return that one for ever. Leaders are reaped
//! elsewhere, by pidfd, and only when their tree is empty.
//!
//! What is known after a turn: this process alone reaps its children, and the kernel adds new ones at the end of their
//! list, so a list holds everybody who was a child when its end was read. Whoever lives below has a living ancestor among
//! those children; a list that names only the dead therefore proves that nobody is left, where a walk over all
//! processes can always miss one that changes its number.

use std::collections::HashSet;
use std::fs;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Most orphans reaped a turn; the rest waits for the next one.
const MAX_A_TURN: u32 = 256;
/// Looks at the children in one chase, at most.
const CHASES: u32 = 256;

/// What a turn of reaping found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Turn {
    /// Found dead, and reaped.
    pub(super) reaped: u32,
    /// Orphans that live on.
    pub(super) living: Vec<i32>,
    /// There was more to do than a turn does.
    pub(super) more: bool,
}

impl Turn {
    /// Whether nobody but leaders, and orphans that `held` tells of, was a child of this process.
    pub(super) fn proves_empty(&self, held: impl Fn(i32) -> bool) -> bool {
        self.reaped == 0 && !self.more && self.living.iter().all(|pid| held(*pid))
    }
}

/// Reaps what orphans have ended. `number` is what this process calls a child that /proc shows under a number: another
/// one where /proc is that of an outer PID namespace.
pub(super) fn orphans(leaders: &HashSet<i32>, number: impl Fn(i32) -> Option<i32>) -> Turn {
    let mut turn = Turn { reaped: 0, living: Vec::new(), more: false };
    let children = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    let orphans = children.split_ascii_whitespace().filter_map(|pid| number(pid.parse().ok()?));
    for pid in orphans.filter(|pid| !leaders.contains(pid)) {
        if turn.reaped >= MAX_A_TURN {
            turn.more = true;
            break;
        }
        match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
            Ok(WaitStatus::StillAlive) => turn.living.push(pid),
            Ok(_) | Err(_) => turn.reaped += 1,
        }
    }
    turn
}

/// Stops every orphan that `held` does not spare, again and again for as long as there is a new one: who forks and exits
/// in a circle has another number by the time that a walk over all processes is through, but no other parent. A child's
/// number cannot be reused before it is reaped here. The last turn.
pub(super) fn chase(leaders: &HashSet<i32>, held: impl Fn(i32) -> bool) -> Turn {
    let mut stopped = HashSet::new();
    let mut turn = orphans(leaders, Some);
    for _ in 0..CHASES {
        let fresh: Vec<i32> =
            turn.living.iter().copied().filter(|pid| !held(*pid) && stopped.insert(*pid)).collect();
        if fresh.is_empty() && turn.reaped == 0 {
            break;
        }
        for pid in fresh {
            let _ = kill(Pid::from_raw(pid), Signal::SIGSTOP);
        }
        turn = orphans(leaders, Some);
    }
    turn
}

/// Whether this process has no child at all, by the kernel's word; reaps one that is dead. Then it has no descendant
/// either, if orphans can get no other parent.
pub(super) fn is_childless() -> bool {
    waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) == Err(Errno::ECHILD)
}

/// What a child that an outer /proc shows under `pid` is called in this process's own PID namespace (NSpid of
/// proc_pid_status(5): one number for each namespace, from the outermost on).
pub(super) fn inner_number(pid: i32) -> Option<i32> {
    let numbers = |of: String| {
        // A process may be called anything, in text or not.
        let status = fs::read(format!("/proc/{of}/status")).ok()?;
        let status = String::from_utf8_lossy(&status);
        let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        Some(line.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect::<Vec<i32>>())
    };
    let depth = numbers("self".to_owned())?.len();
    numbers(pid.to_string())?.get(depth.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_no_text_hides_nobody() {
        nix::sys::prctl::set_name(c"\xff").unwrap();
        let own = nix::unistd::gettid().as_raw();
        assert_eq!(inner_number(own), Some(own));
    }
}
