//! What happens to a job, and how well this host contains it.

use std::fmt;
use std::time::Duration;

/// One of a job's byte streams. The numbers are those of the binary frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StreamName {
    /// Into the job.
    Stdin = 0,
    /// Out of the job.
    Stdout = 1,
    /// Out of the job.
    Stderr = 2,
    /// The terminal's output.
    Pty = 3,
}

impl StreamName {
    /// The word of the protocol.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdin => "stdin",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
            Self::Pty => "pty",
        }
    }
}

/// How the leader ended. An unknown status is said to be unknown, never code 0 or -1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code, 0..=255.
    Code(u8),
    /// A signal ended it.
    Signal {
        /// The signal's number.
        number: i32,
        /// It dumped core.
        core: bool,
    },
    /// Nobody knows.
    Unknown,
}

/// Why a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// The leader exited by itself.
    Exited,
    /// A signal that was not ours ended the leader.
    Signal,
    /// The wall-clock limit.
    Timeout,
    /// The CPU limit.
    CpuLimit,
    /// The memory limit.
    MemoryLimit,
    /// The process limit.
    ProcessLimit,
    /// The output limit.
    OutputLimit,
    /// A client asked for it.
    Killed,
    /// The owning connection went away.
    Disconnect,
    /// The server shuts down.
    Shutdown,
    /// Killed, but the kernel has not given all of it up.
    KillPending,
    /// A fault of ours.
    ServerFault,
}

impl EndReason {
    /// The word of the protocol.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Signal => "signal",
            Self::Timeout => "timeout",
            Self::CpuLimit => "cpu_limit",
            Self::MemoryLimit => "memory_limit",
            Self::ProcessLimit => "process_limit",
            Self::OutputLimit => "output_limit",
            Self::Killed => "killed",
            Self::Disconnect => "disconnect",
            Self::Shutdown => "shutdown",
            Self::KillPending => "kill_pending",
            Self::ServerFault => "server_fault",
        }
    }
}

/// A limit whose breach ended a job; the kernel's controllers say so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breach {
    /// CPU time.
    Cpu,
    /// Memory.
    Memory,
    /// Processes.
    Processes,
}

impl From<Breach> for EndReason {
    fn from(breach: Breach) -> Self {
        match breach {
            Breach::Cpu => Self::CpuLimit,
            Breach::Memory => Self::MemoryLimit,
            Breach::Processes => Self::ProcessLimit,
        }
    }
}

/// Resources a job used. `None` is what the tier cannot know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// User CPU time.
    pub user: Option<Duration>,
    /// System CPU time.
    pub system: Option<Duration>,
    /// Largest resident set of one process, bytes: the leader, or one waited for.
    pub max_rss: Option<u64>,
    /// Most processes alive at once.
    pub processes_peak: Option<u32>,
}

/// Bytes of one stream over the life of a job, for one viewer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamTotals {
    /// Read from the job.
    pub produced: u64,
    /// Handed to this viewer.
    pub delivered: u64,
    /// Announced to this viewer as gaps.
    pub dropped: u64,
}

/// Why a viewer will never get a range of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapReason {
    /// The ring was full and newer bytes took the place.
    Evicted = 1,
    /// It was gone before this viewer attached.
    BeforeAttach = 2,
}

impl GapReason {
    /// The word of the protocol.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::BeforeAttach => "before_attach",
        }
    }
}

/// A signal by its Linux number (signal(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(i32);

/// The standard signals of Linux on the architectures where they are numbered alike (x86, ARM, RISC-V).
const SIGNALS: [(&str, i32); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];

impl Signal {
    /// Asks to end.
    pub const TERM: Self = Self(15);
    /// Ends.
    pub const KILL: Self = Self(9);

    /// The signal of this name, with or without `SIG`.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.strip_prefix("SIG").unwrap_or(name);
        SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, number)| Self(*number))
    }

    /// Its number.
    pub const fn number(self) -> i32 {
        self.0
    }

    /// The name with `SIG`; a real-time signal by its number, as kill(1) writes it.
    pub fn name_of(number: i32) -> String {
        match SIGNALS.iter().find(|(_, known)| *known == number) {
            Some((name, _)) => format!("SIG{name}"),
            None => format!("SIG{number}"),
        }
    }
}

/// Whom a signal is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalTarget {
    /// The job's first process.
    Leader,
    /// The leader's process group.
    Group,
    /// The terminal's foreground group.
    Foreground,
    /// Every process of the job.
    Tree,
}

/// How exact containment is on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Exact: cgroup2, and a job cannot move itself.
    A,
    /// Exact unless a job moves itself out of its leaf.
    APrime,
    /// Exact kill by PID namespace, advisory pause.
    B,
    /// Best effort.
    C,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::APrime => "A'",
            Self::B => "B",
            Self::C => "C",
        })
    }
}

/// What this host can promise, found out by trying at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Containment {
    /// The tier in force.
    pub tier: Tier,
    /// How pausing works, one line.
    pub pause: String,
    /// How killing works, one line.
    pub kill: String,
    /// What is missing and what would give it; one sentence each.
    pub notes: Vec<String>,
}
