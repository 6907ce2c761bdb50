//! Seccomp filters: system calls that no job needs and that reach past its confinement.
//!
//! The first filter of `base` refuses with EPERM what attacks the kernel or other processes of the same user; the second lets
//! nobody choose another's processors; the third knows no clone3; that of an offline job refuses sockets. All are programs
//! over numbers and arguments, built once in the warden, which wears the first two itself; a fork inherits them. A program of
//! another architecture than this one's (32-bit on a 64-bit host) is killed at its first system call, because the numbers
//! mean something else there.

use std::collections::BTreeMap;

use nix::errno::Errno;
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Is, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

/// Refused whatever their arguments.
const REFUSED: [i64; 19] = [
    // Work done by kernel threads, past this very filter.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Code in the kernel, or another kernel.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_bpf,
    // Where exploits of the kernel begin; no ordinary program needs them.
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    // Keys are kept by user, not by job.
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // Files by number, past the directories that lead to them.
    libc::SYS_open_by_handle_at,
    // Whoever opens a file waits for the word of its listener, the warden too.
    libc::SYS_fanotify_init,
    // The host's own affairs.
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
];

/// Refused on the calls of x86's x32, whose numbers carry this bit, and where they differ.
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;
/// `ioctl` and `kexec_load` of x32.
#[cfg(target_arch = "x86_64")]
const X32_OWN: [(i64, i64); 2] = [(libc::SYS_ioctl, 514), (libc::SYS_kexec_load, 528)];

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Which sockets an offline job may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sockets {
    /// Those that stay on this host's file system: AF_UNIX.
    Local,
    /// Those too that end in its own, empty network namespace.
    Namespaced,
}

/// The filters of `base`.
pub(super) fn base() -> Result<[BpfProgram; 3], String> {
    Ok([refusing()?, without_pinning()?, without_clone3()?])
}

/// The processors that another process may run on are its user's to choose. C libraries choose those of a thread by its number,
/// its own too, and programs end where that is refused; so for any number it is said to be done, and is not.
fn without_pinning() -> Result<BpfProgram, String> {
    let numbered = rule(&[(0, Width::Dword, Is::Ne, 0)])?;
    program(Rules::from([(libc::SYS_sched_setaffinity, vec![numbered])]), Errno::UnknownErrno)
}

/// clone3 can have a child born in another group (CLONE_INTO_CGROUP), which Landlock does not see, and its arguments are
/// behind a pointer, which no filter sees. Every C library takes clone where the kernel has no clone3.
fn without_clone3() -> Result<BpfProgram, String> {
    program(Rules::from([(libc::SYS_clone3, Vec::new())]), Errno::ENOSYS)
}

fn refusing() -> Result<BpfProgram, String> {
    let mut rules: Rules = REFUSED.iter().map(|number| (*number, Vec::new())).collect();
    // A user may change limits and priorities of all his processes: the gateway may be one of them. Only one's own (0) may
    // be changed; limits of others may be read.
    let other = || (0, Width::Dword, Is::Ne, 0);
    rules.insert(libc::SYS_prlimit64, vec![rule(&[other(), (2, Width::Qword, Is::Ne, 0)])?]);
    for call in [libc::SYS_sched_setscheduler, libc::SYS_sched_setparam, libc::SYS_sched_setattr] {
        rules.insert(call, vec![rule(&[other()])?]);
    }
    for (call, whole_user) in [(libc::SYS_setpriority, 2), (libc::SYS_ioprio_set, 3)] {
        let user = rule(&[(0, Width::Dword, Is::Eq, whole_user)])?;
        rules.insert(call, vec![rule(&[(1, Width::Dword, Is::Ne, 0)])?, user]);
    }
    // Typing into a terminal on behalf of its user, and the console's selection.
    let ioctls = [libc::TIOCSTI, libc::TIOCLINUX];
    let ioctls = ioctls.map(|request| rule(&[(1, Width::Dword, Is::Eq, request)]));
    rules.insert(libc::SYS_ioctl, ioctls.into_iter().collect::<Result<_, _>>()?);
    program(rules, Errno::EPERM)
}

/// The filter of an offline job.
pub(super) fn offline(sockets: Sockets) -> Result<BpfProgram, String> {
    let families = match sockets {
        Sockets::Local => [libc::AF_UNIX].as_slice(),
        Sockets::Namespaced => &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK],
    };
    let none_of: Vec<_> =
        families.iter().map(|family| (0, Width::Dword, Is::Ne, u64::from(family.unsigned_abs()))).collect();
    program(Rules::from([(libc::SYS_socket, vec![rule(&none_of)?])]), Errno::EPERM)
}

/// Puts a filter on this process, for good. Needs no_new_privs.
pub(super) fn apply(program: &BpfProgram) -> Result<(), Errno> {
    use seccompiler::Error;
    seccompiler::apply_filter(program).map_err(|error| match error {
        Error::Seccomp(e) | Error::Prctl(e) => e.raw_os_error().map_or(Errno::EIO, Errno::from_raw),
        Error::Backend(_) | Error::EmptyFilter | Error::ThreadSync(_) => Errno::EINVAL,
    })
}

/// Matches when all conditions (argument, width, comparison, value) hold.
fn rule(conditions: &[(u8, Width, Is, u64)]) -> Result<SeccompRule, String> {
    let condition = |(argument, width, is, value): &(u8, Width, Is, u64)| {
        SeccompCondition::new(*argument, width.clone(), is.clone(), *value)
    };
    let conditions = conditions.iter().map(condition).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    SeccompRule::new(conditions).map_err(|e| e.to_string())
}

fn program(rules: Rules, answer: Errno) -> Result<BpfProgram, String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|e| e.to_string())?;
    let refuse = SeccompAction::Errno(answer as u32);
    let filter = SeccompFilter::new(with_x32(rules), SeccompAction::Allow, refuse, arch);
    filter.and_then(BpfProgram::try_from).map_err(|e| e.to_string())
}

#[cfg(target_arch = "x86_64")]
fn with_x32(mut rules: Rules) -> Rules {
    let mut doubles: Rules = rules.iter().map(|(number, rules)| (number | X32, rules.clone())).collect();
    for (number, own) in X32_OWN {
        doubles.extend(rules.get(&number).map(|rules| (own | X32, rules.clone())));
    }
    rules.append(&mut doubles);
    rules
}

#[cfg(not(target_arch = "x86_64"))]
fn with_x32(rules: Rules) -> Rules {
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_filter_compiles_and_fits() {
        let offline = [Sockets::Local, Sockets::Namespaced].map(|sockets| offline(sockets).unwrap());
        for program in base().unwrap().iter().chain(&offline) {
            assert!((5..1000).contains(&program.len()));
        }
    }
}
