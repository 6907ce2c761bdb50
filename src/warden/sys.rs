//! Raw system calls that no library offers safely. The only unsafe code of the project.
//!
//! Every function checks or owns what it hands to the kernel. Three ask more of their caller, which is the warden or a fork of it:
//! [`fork`] and [`fork_plain`] that the process has one thread, [`keep_only`] that it uses no other descriptor again. Nothing here
//! decides anything.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::libc;
use nix::sched::CloneFlags;
use nix::unistd::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// CLONE_INTO_CGROUP of linux/sched.h; libc's constant has too narrow a type.
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of a fork this is.
#[derive(Debug)]
pub(super) enum Forked {
    /// The copy.
    Child,
    /// The original, holding the copy's number and a pidfd of it.
    Parent(Pid, OwnedFd),
}

/// Forks this process, which must have one thread; with `group`, the child is born in that cgroup, with `namespaces`
/// (CLONE_NEW* only) as the first process of new ones (clone3(2)).
///
/// # Errors
/// Those of clone3; ENOSYS also where a seccomp filter of a container hides it.
pub(super) fn fork(group: Option<BorrowedFd<'_>>, namespaces: CloneFlags) -> Result<Forked, Errno> {
    let allowed = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUSER;
    let mut pidfd: RawFd = -1;
    let mut flags = libc::CLONE_PIDFD as u64 | (namespaces & allowed).bits() as u64;
    if group.is_some() {
        flags |= INTO_CGROUP;
    }
    let mut arguments = libc::clone_args {
        flags,
        pidfd: &raw mut pidfd as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: group.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: `arguments` lives across the call and has the size that is passed; without CLONE_VM and with stack
    // 0 the child runs on a copy of this stack, as after fork(2); `pidfd` is a live RawFd the kernel writes to.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, &raw mut arguments, std::mem::size_of::<libc::clone_args>())
    };
    match Errno::result(pid)? {
        0 => Ok(Forked::Child),
        // SAFETY: clone3 succeeded in the parent, so `pidfd` is a new descriptor that nothing else owns.
        pid => Ok(Forked::Parent(Pid::from_raw(pid as i32), unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}

/// Forks where clone3 is not to be had: plain fork(2), then pidfd_open on the child, which cannot have been
/// reaped. The caller must have one thread.
pub(super) fn fork_plain() -> Result<Forked, Errno> {
    // SAFETY: the warden has one thread, so the child may go on as ordinary code.
    match Errno::result(unsafe { libc::fork() })? {
        0 => Ok(Forked::Child),
        pid => {
            let child = rustix::process::Pid::from_raw(pid).ok_or(Errno::ESRCH)?;
            let pidfd = rustix::process::pidfd_open(child, rustix::process::PidfdFlags::empty())
                .map_err(|e| Errno::from_raw(e.raw_os_error()))?;
            Ok(Forked::Parent(Pid::from_raw(pid), pidfd))
        }
    }
}

/// Ends this process at once, without destructors or exit handlers.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit never returns and touches no memory of ours.
    unsafe { libc::_exit(code) }
}

/// Lowest descriptor above the standard streams.
const FIRST: RawFd = 3;

/// Closes every descriptor above the standard streams but these, which move to 3, 4, ... and close on exec.
///
/// For a process that has just begun, or a fork that never returns to the code it came from: no owner of any
/// other descriptor may be used or dropped afterwards. Taking the kept ones by value leaves them no other owner.
pub(super) fn keep_only<const N: usize>(kept: [OwnedFd; N]) -> Result<[OwnedFd; N], Errno> {
    let past = FIRST + N as RawFd;
    let mut high = [-1; N];
    for (slot, fd) in high.iter_mut().zip(kept) {
        // SAFETY: duplicating an owned, hence open, descriptor; no memory is passed.
        *slot = Errno::result(unsafe { libc::fcntl(fd.into_raw_fd(), libc::F_DUPFD_CLOEXEC, past) })?;
    }
    for (place, fd) in (FIRST..).zip(high) {
        // SAFETY: `fd` was made above; whatever `place` was before is given up, as documented.
        Errno::result(unsafe { libc::dup3(fd, place, libc::O_CLOEXEC) })?;
    }
    // SAFETY: no memory is passed; the caller gives up every descriptor from `past` up.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, past, libc::c_uint::MAX, 0) })?;
    // SAFETY: the descriptors 3..3+N were made above and have no other owner that is used again.
    Ok(std::array::from_fn(|i| unsafe { OwnedFd::from_raw_fd(FIRST + i as RawFd) }))
}

/// Marks every descriptor above the standard streams to be closed by exec.
pub(super) fn close_on_exec() -> Result<(), Errno> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: no memory is passed and nothing is closed yet.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, flags) }).map(drop)
}

/// Puts a Landlock ruleset on this thread, for good. Needs no_new_privs or CAP_SYS_ADMIN (landlock_restrict_self(2)).
pub(super) fn restrict_self(ruleset: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: no memory is passed, and the descriptor is borrowed, hence open; of another kind, it is EBADFD.
    let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
    Errno::result(done).map(drop)
}

/// Sets these signals to their default action, those too that libc keeps for itself and will not touch.
pub(super) fn default_signals(signals: impl IntoIterator<Item = i32>) {
    // The kernel's struct sigaction: SIG_DFL is 0, no flags, no restorer, an empty mask. Larger on no platform.
    let default = [0_u64; 8];
    let (none, mask_size) = (std::ptr::null::<u64>(), std::mem::size_of::<u64>());
    for signal in signals {
        // SAFETY: `default` is readable for the whole structure; nothing is written back; SIG_DFL installs no
        // code. KILL and STOP cannot be set and fail harmlessly.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), none, mask_size) };
    }
}

/// Ignores these signals.
pub(super) fn ignore_signals(signals: impl IntoIterator<Item = i32>) {
    for signal in signals {
        // SAFETY: SIG_IGN installs no code.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// Sends a signal, named or real-time, to the process behind a pidfd.
pub(super) fn signal_pidfd(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    // SAFETY: a null siginfo is allowed; no other memory is passed.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Errno::result(sent).map(drop)
}

/// Sends a signal to a process group. `group` must be above 1; the caller makes sure that its number is pinned.
pub(super) fn signal_group(group: Pid, signal: i32) -> Result<(), Errno> {
    if group.as_raw() <= 1 {
        return Err(Errno::EINVAL);
    }
    // SAFETY: no memory is passed.
    Errno::result(unsafe { libc::kill(-group.as_raw(), signal) }).map(drop)
}

/// Resources used by a reaped process and the children it waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spent {
    /// User time, microseconds.
    pub(super) user: u64,
    /// System time, microseconds.
    pub(super) system: u64,
    /// Largest resident set, bytes.
    pub(super) max_rss: u64,
    /// It exited with code 0.
    pub(super) well: bool,
}

/// Reaps the exited child behind a pidfd; `None` while it has not exited. waitid(2) with the rusage argument.
pub(super) fn reap(pidfd: BorrowedFd<'_>) -> Result<Option<Spent>, Errno> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are to live, writable values of the types that the call expects.
    let waited = unsafe {
        libc::syscall(
            libc::SYS_waitid,
            libc::P_PIDFD,
            pidfd.as_raw_fd(),
            info.as_mut_ptr(),
            libc::WEXITED | libc::WNOHANG,
            usage.as_mut_ptr(),
        )
    };
    Errno::result(waited)?;
    // SAFETY: zeroed is a valid value of both plain C structures, whether or not the kernel wrote them; si_pid
    // is valid for a SIGCHLD-like siginfo and 0 in a zeroed one.
    let (pid, usage) = unsafe { (info.assume_init().si_pid(), usage.assume_init()) };
    // SAFETY: as above; si_status is valid for a SIGCHLD-like siginfo.
    let (info, status) = unsafe { (info.assume_init(), info.assume_init().si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let micros = |t: libc::timeval| t.tv_sec.unsigned_abs() * 1_000_000 + t.tv_usec.unsigned_abs();
    Ok(Some(Spent {
        user: micros(usage.ru_utime),
        system: micros(usage.ru_stime),
        max_rss: usage.ru_maxrss.unsigned_abs() * 1024,
        well: info.si_code == libc::CLD_EXITED && status == 0,
    }))
}

/// Hands a descriptor to the runtime's reactor. Must be called within a tokio runtime with IO.
///
/// # Errors
/// EPERM for what cannot be polled (a regular file).
pub fn async_fd(fd: OwnedFd, interest: Interest) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, is closed by nobody else, and always names the same description.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

/// Bit of `mask` that asks pidfd_info for the exit (PIDFD_INFO_EXIT of linux/pidfd.h).
const INFO_EXIT: u64 = 1 << 3;
/// PIDFD_GET_INFO for the first version of the structure: `_IOWR(0xFF, 11, 64 bytes)`.
const GET_INFO: libc::c_ulong = 0xC040_FF0B;

/// How a process that somebody has reaped ended, in the form of wait(2); `None` where the kernel cannot tell.
pub(super) fn exit_of(pidfd: BorrowedFd<'_>) -> Option<i32> {
    // struct pidfd_info: the mask is the first of its words, the exit code the last half of the last.
    let mut info = [INFO_EXIT, 0, 0, 0, 0, 0, 0, 0];
    // SAFETY: `info` is live, writable and of the size that the number of the request names.
    Errno::result(unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO, info.as_mut_ptr()) }).ok()?;
    let [mask, .., last] = info;
    let [.., a, b, c, d] = last.to_ne_bytes();
    (mask & INFO_EXIT != 0).then_some(i32::from_ne_bytes([a, b, c, d]))
}

/// Free bytes that the C library keeps at the end of a heap, and the size from which a block is none of a heap's. Both must be
/// named, or it raises them with the largest block ever freed, and a compiler frees blocks of MiB in the heap of each of its threads.
/// A ring and a message, up to 1 MiB each, come and go with every job: with less, they cost system calls and page faults.
#[cfg(target_env = "gnu")]
const MALLOC: [(libc::c_int, libc::c_int); 2] =
    [(libc::M_TRIM_THRESHOLD, 2 << 20), (libc::M_MMAP_THRESHOLD, 4 << 20)];

/// From now on little of what is freed is kept (mallopt(3)). To be called before there are threads.
pub fn keep_little_memory() {
    #[cfg(target_env = "gnu")]
    for (option, value) in MALLOC {
        // SAFETY: sets a number of the allocator and touches no memory of ours.
        unsafe { libc::mallopt(option, value) };
    }
}

/// Gives every whole page that is free within a heap back to the kernel (malloc_trim(3)).
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes the locks of the heaps one after the other and gives back what nobody has; any thread may call it.
    unsafe {
        libc::malloc_trim(0)
    };
}
