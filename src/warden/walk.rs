//! Looking at processes through /proc: the members of a job where there is no leaf to ask, and exact signals.
//!
//! Best effort by nature: what is seen may have changed. A signal goes only to the process that was seen, by a
//! pidfd that is checked against its start time, never to one that took over its number.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use rustix::process::{Pid, PidfdFlags};

use super::sys;

/// Forked and never executed anything since (PF_FORKNOEXEC of the kernel).
const NO_EXEC: u64 = 0x40;
/// Longest contents read of one of the kernel's short files, bytes.
pub(super) const SHORT: usize = 4096;
/// Rounds of stopping before killing begins even though new processes keep appearing.
const MAX_ROUNDS: u32 = 64;

/// A process as /proc/PID/stat showed it (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) pid: i32,
    pub(super) parent: i32,
    pub(super) group: i32,
    pub(super) session: i32,
    /// Foreground group of its terminal, -1 without one.
    pub(super) foreground: i32,
    /// It has executed a program.
    pub(super) executed: bool,
    /// It is a zombie or dead, with all its threads: one whose first thread alone has ended lives on.
    pub(super) ended: bool,
    /// It is stopped, by a signal or a tracer.
    pub(super) stopped: bool,
    /// Start time, clock ticks since boot.
    pub(super) started: u64,
}

/// One process.
pub(super) fn look(pid: i32) -> Option<Seen> {
    parse(&read_once(Path::new(&format!("/proc/{pid}/stat")))?)
}

/// A file that the kernel writes when it is read and that is short: whole in one read.
pub(super) fn read_once(path: &Path) -> Option<String> {
    let mut text = [0; SHORT];
    let read = File::open(path).and_then(|mut file| file.read(&mut text)).ok()?;
    Some(String::from_utf8_lossy(text.get(..read)?).into_owned())
}

/// Every process this one can see.
pub(super) fn look_around() -> Vec<Seen> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|e| look(e.file_name().to_str()?.parse().ok()?)).collect()
}

fn parse(stat: &str) -> Option<Seen> {
    let (head, tail) = stat.rsplit_once(')')?;
    let pid = head.split_once(' ')?.0.parse().ok()?;
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<i32>().ok();
    let flags: u64 = fields.get(6)?.parse().ok()?;
    let threads = number(17)?;
    Some(Seen {
        pid,
        parent: number(1)?,
        group: number(2)?,
        session: number(3)?,
        foreground: number(5)?,
        executed: flags & NO_EXEC == 0,
        ended: matches!(*fields.first()?, "Z" | "X" | "x") && threads <= 1,
        stopped: matches!(*fields.first()?, "T" | "t"),
        started: fields.get(19)?.parse().ok()?,
    })
}

/// The living processes among `roots` and their descendants.
pub(super) fn below(around: &[Seen], roots: impl Iterator<Item = i32>) -> Vec<Seen> {
    let mut children: HashMap<i32, Vec<&Seen>> = HashMap::new();
    for seen in around {
        children.entry(seen.parent).or_default().push(seen);
    }
    let mut found: HashSet<i32> = HashSet::new();
    let mut queue: Vec<i32> = roots.collect();
    while let Some(pid) = queue.pop() {
        if found.insert(pid) {
            queue.extend(children.get(&pid).into_iter().flatten().map(|s| s.pid));
        }
    }
    around.iter().filter(|s| found.contains(&s.pid) && !s.ended).copied().collect()
}

/// The number under which /proc shows the process behind a pidfd.
pub(super) fn number_of(pidfd: BorrowedFd<'_>) -> Option<nix::unistd::Pid> {
    let told = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let number = told.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse::<i32>().ok())?;
    (number > 0).then(|| nix::unistd::Pid::from_raw(number))
}

/// Signals the process that was seen, unless it is gone.
pub(super) fn signal(seen: &Seen, signal: i32) -> Result<(), Errno> {
    let pid = Pid::from_raw(seen.pid).ok_or(Errno::ESRCH)?;
    let opened = rustix::process::pidfd_open(pid, PidfdFlags::empty());
    let pidfd = opened.map_err(|e| Errno::from_raw(e.raw_os_error()))?;
    match look(seen.pid) {
        Some(now) if now.started == seen.started => sys::signal_pidfd(pidfd.as_fd(), signal),
        Some(_) | None => Err(Errno::ESRCH),
    }
}

/// Rounds after which what still lives is stuck in the kernel.
const HOPELESS: u32 = 2048;

/// Ends a tree that nothing holds together: stop every member until no new one appears, then kill all.
#[derive(Debug, Default)]
pub(super) struct Hunt {
    stopped: HashSet<(i32, u64)>,
    rounds: u32,
    closed_in: bool,
}

impl Hunt {
    /// Whether further rounds are pointless.
    pub(super) fn is_hopeless(&self) -> bool {
        self.rounds > HOPELESS
    }

    /// One round over the members seen now; the caller looks anew and calls again until there are none.
    pub(super) fn step(&mut self, members: &[Seen]) {
        self.rounds = self.rounds.saturating_add(1);
        if !self.closed_in {
            let mut fresh = false;
            for seen in members {
                if self.stopped.insert((seen.pid, seen.started)) {
                    fresh = true;
                    let _ = signal(seen, Signal::SIGSTOP as i32);
                }
            }
            self.closed_in = !fresh || self.rounds >= MAX_ROUNDS;
        }
        if self.closed_in {
            for seen in members {
                let _ = signal(seen, Signal::SIGKILL as i32);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "42 (a) b) S 7 42 42 34816 43 4194304 1 0 0 0 1 2 3 4 20 0 1 0 987654 1 2";

    #[test]
    fn a_stat_line_is_read_past_any_name() {
        let seen = parse(STAT).unwrap();
        assert_eq!((seen.pid, seen.parent, seen.group, seen.session), (42, 7, 42, 42));
        assert_eq!((seen.foreground, seen.started), (43, 987_654));
        assert!(seen.executed && !seen.ended && !seen.stopped);
        let ended = |threads: u32| {
            let stat = format!("42 (a) Z 7 42 42 0 -1 4194304 1 0 0 0 1 2 3 4 20 0 {threads} 0 987654 1 2");
            parse(&stat).unwrap().ended
        };
        assert!(ended(1) && !ended(2), "a process lives as long as one of its threads");
        assert_eq!(parse("42 (x"), None);
    }

    #[test]
    fn a_tree_is_the_living_roots_and_their_descendants() {
        let seen = |pid, parent, ended| Seen { pid, parent, ended, ..parse(STAT).unwrap() };
        let around = [seen(10, 1, false), seen(11, 10, true), seen(12, 11, false), seen(14, 1, false)];
        let found = below(&around, [10].into_iter());
        assert_eq!(found.iter().map(|s| s.pid).collect::<Vec<_>>(), [10, 12]);
    }
}
