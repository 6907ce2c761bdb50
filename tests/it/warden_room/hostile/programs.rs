//! The hostile programs: what this test binary does when it is run as a job.
//!
//! Each grows its tree, says `ready`, and never ends by itself (but where its ending is the attack). Whatever it starts
//! can be recognised by an argument or by the environment it was born with.
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // forks in a process that does nothing else

use std::fs;
use std::os::fd::OwnedFd;
use std::process::{Command as Program, Stdio as ProgramStdio};

use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::unistd::{Pid, getpid, getppid, setpgid, setsid};

/// Every program by its name.
pub const ALL: [(&str, fn()); 27] = [
    ("setsid", || {
        child(|| {
            let _ = setsid();
            rest()
        });
    }),
    ("double_fork", || daemon(rest)),
    ("deaf", || {
        deafen();
        child(rest);
    }),
    ("deaf_daemons", || {
        (0..10).for_each(|_| {
            daemon(|| {
                deafen();
                rest()
            })
        });
    }),
    ("stops_itself", || {
        let stopped = child(|| {
            let _ = kill(getpid(), Signal::SIGSTOP);
            rest()
        });
        let flags = nix::sys::wait::WaitPidFlag::WUNTRACED;
        let _ = nix::sys::wait::waitpid(stopped, Some(flags));
    }),
    ("storm", || storm(150)),
    ("leader_exits_and_leaves_its_stdout", || {
        daemon(rest);
        ready();
        exit(0);
    }),
    ("nohup", || {
        let _ = unsafe { signal(Signal::SIGHUP, SigHandler::SigIgn) };
        start(shell("sleep 1000; :"));
    }),
    ("new_group", || {
        for _ in 0..5 {
            child(|| {
                let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
                rest()
            });
        }
    }),
    ("wakes_the_stopped", || {
        let leader = getpid();
        daemon(move || {
            loop {
                let _ = kill(leader, Signal::SIGCONT);
                let _ = kill(Pid::from_raw(-leader.as_raw()), Signal::SIGCONT);
            }
        });
    }),
    ("kills_its_siblings", || {
        let siblings: Vec<_> = (0..5).map(|_| child(rest)).collect();
        let leader = getpid();
        daemon(move || {
            for sibling in siblings {
                let _ = kill(sibling, Signal::SIGKILL);
            }
            ready();
            let _ = kill(leader, Signal::SIGKILL);
            rest()
        });
        rest();
    }),
    ("makes_zombies", || {
        for _ in 0..100 {
            child(|| exit(0));
        }
    }),
    ("deleted_directory", || {
        let name = std::env::temp_dir().join(format!("hostile-{}", getpid()));
        fs::create_dir(&name).unwrap();
        std::env::set_current_dir(&name).unwrap();
        fs::remove_dir(&name).unwrap();
        daemon(rest);
    }),
    ("chain_of_orphans", || {
        (0..30).for_each(|_| daemon(rest));
    }),
    ("forks_and_exits_for_ever", || daemon(hop)),
    ("four_that_fork_and_exit_for_ever", || {
        (0..4).for_each(|_| daemon(hop));
    }),
    ("traced", || {
        let stopped = child(|| {
            let _ = unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
            let _ = kill(getpid(), Signal::SIGSTOP);
            rest()
        });
        let _ = nix::sys::wait::waitpid(stopped, Some(nix::sys::wait::WaitPidFlag::WUNTRACED));
    }),
    ("traces_its_leader", || {
        let leader = getpid();
        let (held, holding) = nix::unistd::pipe().unwrap();
        child(move || {
            let _ = unsafe { libc::ptrace(libc::PTRACE_SEIZE, leader.as_raw(), 0, 0) };
            let _ = nix::unistd::write(&holding, b"x");
            ready();
            rest()
        });
        let _ = nix::unistd::read(&held, &mut [0]);
        exit(7);
    }),
    ("moves_in_the_groups", || {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for place in mounts.lines().filter(|l| l.contains(" cgroup")).filter_map(|l| l.split(' ').nth(1)) {
            let _ = fs::write(format!("{place}/cgroup.procs"), "0");
            let _ = fs::write(format!("{place}/tasks"), "0");
            let own = format!("{place}/hostile-{}", getpid());
            if fs::create_dir(&own).is_ok() {
                let _ = fs::write(format!("{own}/cgroup.procs"), "0");
                let _ = fs::remove_dir(&own);
            }
        }
        daemon(rest);
    }),
    ("clears_its_environment", || {
        let mut program = Program::new("setsid");
        program.args(["-f", "sh", "-c", "exec 0<&- 1>&- 2>&-; while :; do sleep 1000; done", &mark()]);
        start(program.env_clear());
    }),
    ("adopts_its_own", || {
        daemon(|| {
            let _ = prctl::set_child_subreaper(true);
            (0..5).for_each(|_| daemon(rest));
            rest()
        })
    }),
    ("namespaces_of_its_own", || {
        child(|| {
            let all = nix::sched::CloneFlags::CLONE_NEWUSER | nix::sched::CloneFlags::CLONE_NEWPID;
            let _ = nix::sched::unshare(all);
            (0..3).for_each(|_| daemon(rest));
            rest()
        });
    }),
    ("signals_who_started_it", || {
        for wanted in [Signal::SIGSTOP, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGKILL] {
            // Not 0 or 1: in a namespace of its own it has no parent, and nobody wants the host's init.
            if getppid().as_raw() > 1 {
                let _ = kill(getppid(), wanted);
            }
        }
        daemon(rest);
    }),
    ("waits_for_a_fork_that_never_ends", || {
        child(|| {
            // The parent of such a child cannot be stopped until the child executes or ends.
            let _ = unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_VFORK | libc::SIGCHLD, 0, 0, 0, 0) };
            rest()
        });
    }),
    ("first_thread_exits", || {
        let pid = child(|| headless(|| rest()));
        let is_zombie = |stat: String| stat.contains(") Z ");
        while !fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(is_zombie) {}
    }),
    ("first_threads_exit_and_others_fork_for_ever", || daemon(|| headless(headless_hop))),
    ("blocks_every_signal", || {
        let _ = nix::sys::signal::SigSet::all().thread_set_mask();
        daemon(rest);
        child(rest);
    }),
];

/// Runs the program of this name; never returns.
pub fn run(name: &str) -> ! {
    let (_, program) = ALL.iter().find(|(known, _)| *known == name).expect("a program of this name");
    program();
    ready();
    rest()
}

/// In the arguments or the environment of whatever a program starts.
fn mark() -> String {
    std::env::var("EXECGATE_HOSTILE_MARK").unwrap()
}

fn ready() {
    let line = b"ready\n";
    let _ = unsafe { libc::write(1, line.as_ptr().cast(), line.len()) };
}

fn rest() -> ! {
    loop {
        nix::unistd::pause();
    }
}

fn exit(code: i32) -> ! {
    unsafe { libc::_exit(code) }
}

fn child<T>(live: impl FnOnce() -> T) -> Pid {
    match unsafe { nix::unistd::fork() } {
        Ok(nix::unistd::ForkResult::Parent { child }) => child,
        Ok(nix::unistd::ForkResult::Child) => {
            live();
            exit(0)
        }
        Err(_) => Pid::from_raw(0),
    }
}

/// Forks twice into a session of its own, and waits until the one in between is gone.
fn daemon<T>(live: impl FnOnce() -> T) {
    let between = child(|| {
        let _ = setsid();
        child(live);
    });
    let _ = nix::sys::wait::waitpid(between, None);
}

fn deafen() {
    for deaf in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP] {
        let _ = unsafe { signal(deaf, SigHandler::SigIgn) };
    }
}

fn shell(script: &str) -> Program {
    let mut program = Program::new("sh");
    program.args(["-c", script, &mark()]);
    program
}

fn start(program: impl std::borrow::BorrowMut<Program>) {
    let mut program = program;
    let started = program.borrow_mut().stdin(ProgramStdio::null()).spawn();
    drop(started.expect("a program"));
}

/// Is somebody else every moment.
fn hop() -> ! {
    loop {
        match unsafe { nix::unistd::fork() } {
            Ok(nix::unistd::ForkResult::Child) => {
                let _ = setsid();
            }
            Ok(nix::unistd::ForkResult::Parent { .. }) => exit(0),
            Err(_) => {}
        }
    }
}

/// Goes on in a second thread, without the first: what is sent to the first alone reaches nobody.
fn headless(live: fn() -> !) -> ! {
    let _living_on = std::thread::spawn(live);
    loop {
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
}

/// [`hop`] by such processes.
fn headless_hop() -> ! {
    loop {
        match unsafe { nix::unistd::fork() } {
            Ok(nix::unistd::ForkResult::Child) => headless(headless_hop),
            Ok(nix::unistd::ForkResult::Parent { .. }) => exit(0),
            Err(_) => {}
        }
    }
}

/// Grows to `size` processes, everybody forking at once, half of them deaf and in a session of their own, and is still at
/// it when it says that it is ready.
pub fn storm(size: usize) {
    const HALF_WAY: u8 = 2;
    let (tickets, filling) = nix::unistd::pipe().unwrap();
    nix::fcntl::fcntl(&tickets, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
    let mut values: Vec<u8> = (0..size).map(|n| (n % 2) as u8).collect();
    values[size / 2] |= HALF_WAY;
    // More than a pipe holds, 64 KiB, is never wanted.
    nix::unistd::write(&filling, &values).unwrap();
    child(move || fork_on(&tickets, HALF_WAY));
    rest()
}

fn fork_on(tickets: &OwnedFd, half_way: u8) -> ! {
    let mut ticket = [0; 1];
    while nix::unistd::read(tickets, &mut ticket) == Ok(1) {
        if ticket[0] & half_way != 0 {
            ready();
        }
        child(|| {
            if ticket[0] & 1 != 0 {
                let _ = setsid();
                deafen();
            }
            fork_on(tickets, half_way)
        });
    }
    rest()
}
