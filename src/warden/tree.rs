//! Acting on a whole tree: kill, signal, pause, resume.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::job::{Job, Killed, LOOK_FROZEN, LOOK_SOON, Phase};
use super::proto::Answer;
use super::spawn::errno_of;
use super::walk::{self, Seen};
use super::{confine, sys};
use crate::domain::SignalTarget;

/// Rounds of stopping a tree without a leaf; one that still forks then is paused as well as it can be.
const STOP_ROUNDS: u32 = 16;

/// Kills a tree, now and exactly once; repeated calls change nothing. `patience` is how long it may take to die
/// before it is told to live on.
pub(super) fn kill(job: &mut Job, patience: Duration) {
    if job.killed.is_some() {
        return;
    }
    let now = Instant::now();
    job.killed = Some(Killed { due: now + LOOK_SOON, overdue: now + patience, told: false });
    if let Some(leaf) = &job.leaf {
        let _ = leaf.kill();
    }
    if let Some(keeper) = &mut job.keeper {
        keeper.end();
    }
    job.expect_keeper();
    job.look_soon();
    let _ = sys::signal_pidfd(job.leader.pidfd.as_fd(), Signal::SIGKILL as i32);
}

/// Sends a signal.
pub(super) fn signal(job: &Job, number: i32, target: SignalTarget) -> Answer {
    if !(1..=confine::LAST_SIGNAL).contains(&number) {
        return Answer::Errno(Errno::EINVAL as i32);
    }
    if is_over(job) {
        return Answer::Finished;
    }
    let sent = match target {
        SignalTarget::Leader if job.status.is_some() => return Answer::Finished,
        SignalTarget::Leader => sys::signal_pidfd(job.leader.pidfd.as_fd(), number),
        SignalTarget::Group => sys::signal_group(job.leader.pid, number),
        SignalTarget::Foreground => match foreground(job) {
            Some(group) => sys::signal_group(group, number),
            None => return Answer::NoForeground,
        },
        SignalTarget::Tree => signal_tree(job, number),
    };
    match sent {
        Ok(()) => Answer::Done,
        Err(Errno::ESRCH) => Answer::Finished,
        Err(errno) => Answer::Errno(errno as i32),
    }
}

/// Whether nothing can be signalled any more.
fn is_over(job: &Job) -> bool {
    let emptied = job.status.is_some() && job.leaf.as_ref().is_some_and(|leaf| !leaf.state().populated);
    // From here on nobody may rely on the leader's number: the first process of a namespace reaps as it dies.
    let ending = job.keeper.as_ref().is_some_and(|keeper| keeper.ending);
    job.phase != Phase::Running || job.failure.is_some() || emptied || ending
}

/// The terminal's foreground group, if it is one of this job's: the number of a group that is gone may be a
/// stranger's by now.
fn foreground(job: &Job) -> Option<Pid> {
    let leader = job.leader.pid.as_raw();
    let group = walk::look(leader)?.foreground;
    if group <= 1 {
        return None;
    }
    let of_job = |seen: &Seen| seen.group == group && seen.session == leader;
    let ours = walk::look(group).is_some_and(|seen| of_job(&seen)) || {
        let seen = match &job.leaf {
            Some(leaf) => leaf.members().into_iter().filter_map(walk::look).collect(),
            None => job.members(&walk::look_around()),
        };
        seen.iter().any(of_job)
    };
    ours.then(|| Pid::from_raw(group))
}

fn signal_tree(job: &Job, number: i32) -> Result<(), Errno> {
    let Some(leaf) = &job.leaf else {
        let members = job.members(&walk::look_around());
        return summary(members.iter().map(|seen| walk::signal(seen, number)).collect());
    };
    summary(leaf.hold().iter().map(|pidfd| sys::signal_pidfd(pidfd.as_fd(), number)).collect())
}

/// Stops every process of a tree without a leaf, until a round finds none that was not told before.
fn stop_all(job: &Job) -> Result<(), Errno> {
    let (mut told, mut results) = (HashSet::new(), Vec::new());
    for _ in 0..STOP_ROUNDS {
        let mut members = job.members(&walk::look_around());
        members.retain(|seen| told.insert((seen.pid, seen.started)));
        if members.is_empty() {
            break;
        }
        results.extend(members.iter().map(|seen| walk::signal(seen, Signal::SIGSTOP as i32)));
    }
    summary(results)
}

/// One that worked is enough: the others ended in the meantime.
fn summary(results: Vec<Result<(), Errno>>) -> Result<(), Errno> {
    let worked = results.iter().any(Result::is_ok);
    let refused = results.into_iter().filter_map(Result::err).find(|errno| *errno != Errno::ESRCH);
    match refused {
        _ if worked => Ok(()),
        Some(errno) => Err(errno),
        None => Err(Errno::ESRCH),
    }
}

/// Asks for a pause or a resume. `None`: all who ask are answered alike once the kernel has acknowledged the last wish, which
/// may be now, see [`settled`].
pub(super) fn pause(job: &mut Job, ask: u64, wanted: bool, patience: Duration) -> Option<Answer> {
    if is_over(job) || job.killed.is_some() {
        return Some(Answer::Finished);
    }
    let Some(leaf) = &job.leaf else {
        let done = if wanted { stop_all(job) } else { signal_tree(job, Signal::SIGCONT as i32) };
        return Some(match done {
            Ok(()) => paused(wanted, false),
            Err(Errno::ESRCH) => Answer::Finished,
            Err(errno) => Answer::Errno(errno as i32),
        });
    };
    if let Err(error) = leaf.freeze(wanted) {
        return Some(Answer::Errno(errno_of(&error) as i32));
    }
    job.pause.wanted = wanted;
    job.pause.asks.push(ask);
    let now = Instant::now();
    (job.pause.deadline, job.pause.look_at) = (Some(now + patience), Some(now + LOOK_FROZEN));
    None
}

/// The answer to those who wait for a pause or a resume, once there is one.
pub(super) fn settled(job: &mut Job, now: Instant) -> Option<(Answer, Vec<u64>)> {
    if job.pause.asks.is_empty() {
        return None;
    }
    let state = job.leaf.as_ref()?.state();
    let late = job.pause.deadline.is_some_and(|at| at <= now);
    let answer = if job.killed.is_some() || (job.status.is_some() && !state.populated) {
        Answer::Finished
    } else if state.frozen == job.pause.wanted {
        paused(job.pause.wanted, true)
    } else if late {
        Answer::Errno(Errno::ETIMEDOUT as i32)
    } else {
        job.pause.look_at = Some(now + LOOK_FROZEN);
        return None;
    };
    (job.pause.deadline, job.pause.look_at) = (None, None);
    Some((answer, std::mem::take(&mut job.pause.asks)))
}

fn paused(wanted: bool, exact: bool) -> Answer {
    if wanted { Answer::Paused { exact } } else { Answer::Resumed { exact } }
}

/// How many processes of a tree live, for a tree that is not known to be empty: at least one, then, though it be one that no
/// walk finds.
pub(super) fn survivors(job: &Job, around: &[Seen]) -> u32 {
    let living = match &job.leaf {
        Some(leaf) => leaf.members().len(),
        None => job.members(around).len(),
    };
    u32::try_from(living.max(1)).unwrap_or(u32::MAX)
}

/// Hands a pipe to the job's user, so that it can be opened by its name (`/dev/stderr`). Only what pipe(2) makes: whatever else
/// the gateway passed stays as it is, a FIFO of the file system too. Without CAP_CHOWN, jobs go without the name.
pub(super) fn give_pipe(stream: &OwnedFd, uid: u32) {
    /// PIPEFS_MAGIC of linux/magic.h.
    const PIPES: i128 = 0x5049_5045;
    if rustix::fs::fstatfs(stream).is_ok_and(|system| i128::from(system.f_type) == PIPES) {
        let _ = rustix::fs::fchown(stream, Some(rustix::fs::Uid::from_raw(uid)), None);
    }
}

/// Hands a terminal to the job's user: owner, group tty's mode 0620, by descriptor. Whatever else the gateway passed for a
/// terminal stays as it is.
pub(super) fn give_terminal(slave: &OwnedFd, uid: u32) -> Result<(), Errno> {
    /// Major numbers of pseudo-terminals (Documentation/admin-guide/devices.txt).
    const PTY_SLAVES: std::ops::RangeInclusive<u32> = 136..=143;
    let file = rustix::fs::fstat(slave).map_err(confine::errno)?;
    let is_device =
        rustix::fs::FileType::from_raw_mode(file.st_mode) == rustix::fs::FileType::CharacterDevice;
    if !is_device || !PTY_SLAVES.contains(&rustix::fs::major(file.st_rdev)) {
        return Err(Errno::ENOTTY);
    }
    rustix::fs::fchown(slave, Some(rustix::fs::Uid::from_raw(uid)), None).map_err(confine::errno)?;
    rustix::fs::fchmod(slave, rustix::fs::Mode::from_raw_mode(0o620)).map_err(confine::errno)
}
