//! The messages between gateway, warden and leader.
//!
//! Plain values in postcard, one message a packet, at most [`MAX_MESSAGE`] bytes and [`MAX_FDS`] descriptors.
//! What may be larger (argv and environment) travels in a sealed memfd beside [`ToWarden::Release`], so that no
//! socket buffer has to be raised. A packet that does not decode, is too long or is trailed by bytes is no
//! message. Knows no IO.

use std::path::PathBuf;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::settings::{Identity, Profile};
use crate::domain::{
    Breach, Containment, Executable, ExitStatus, FileIdentity, Interpreter, JobLimits, SignalTarget,
    SpawnStage, Tier,
};

/// Version of these messages; both ends come from one binary, so another one is a fault.
pub(super) const VERSION: u16 = 1;
/// Longest message, bytes.
pub(super) const MAX_MESSAGE: usize = 64 * 1024;
/// Most descriptors a message.
pub(super) const MAX_FDS: usize = 4;
/// Largest plan (argv, environment, limits) in a memfd, bytes: 256 KiB of text and its framing.
pub(super) const MAX_PLAN: u64 = 512 * 1024;
/// Longest program name, cwd or tenant a request may carry, bytes (PATH_MAX).
pub(super) const MAX_PATH: usize = 4096;

/// Settings, once.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) version: u16,
    pub(super) path: Vec<PathBuf>,
    pub(super) identities: Vec<Identity>,
    pub(super) profiles: Vec<Profile>,
    pub(super) invoker: Option<PathBuf>,
    pub(super) max_jobs: u32,
    pub(super) force: Option<WireTier>,
    pub(super) nice: i32,
    pub(super) gate_ms: u64,
    pub(super) exec_ms: u64,
    pub(super) kill_ms: u64,
    pub(super) pause_ms: u64,
}

/// Requests of the gateway. `job` is the gateway's number of a job, used once; `ask` names the answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum ToWarden {
    Hello(Box<Hello>),
    Prepare(Box<PrepareJob>),
    /// With descriptors: plan, stdin, stdout, stderr.
    Release {
        job: u64,
        terminal: bool,
        limits: WireLimits,
    },
    /// Ends a job in whatever phase it is.
    Kill {
        job: u64,
    },
    Signal {
        ask: u64,
        job: u64,
        signal: i32,
        #[serde(with = "TargetDef")]
        target: SignalTarget,
    },
    Pause {
        ask: u64,
        job: u64,
    },
    Resume {
        ask: u64,
        job: u64,
    },
    Census {
        ask: u64,
    },
    Shutdown,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PrepareJob {
    pub(super) job: u64,
    /// The public id, for people.
    pub(super) name: String,
    pub(super) tenant: String,
    pub(super) session: String,
    /// `None` is this binary itself, for the probe.
    pub(super) program: Option<String>,
    pub(super) cwd: Option<String>,
    pub(super) identity: Option<u32>,
    /// Profiles by their place in the hello.
    pub(super) confine: Vec<u32>,
}

/// Events of the warden.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum FromWarden {
    /// With descriptors, where there are groups: `cgroup.kill` and `cgroup.events` of the instance's root.
    Ready(WireContainment),
    /// The warden cannot start.
    Unfit {
        reason: String,
    },
    Prepared {
        job: u64,
        facts: Box<WireFacts>,
    },
    /// The start failed and nothing of it remains.
    Failed {
        job: u64,
        failure: WireFailure,
    },
    /// With the leader's pidfd, and its keeper's where there is one.
    Started {
        job: u64,
        pid: i32,
    },
    Exited {
        job: u64,
        #[serde(with = "StatusDef")]
        status: ExitStatus,
        breach: Option<WireBreach>,
    },
    Emptied {
        job: u64,
        survivors: u32,
        usage: WireUsage,
    },
    /// After an `Emptied` with survivors: now it really is empty.
    Swept {
        job: u64,
    },
    Answer {
        ask: u64,
        answer: Answer,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    Done,
    Paused { exact: bool },
    Resumed { exact: bool },
    Finished,
    NoForeground,
    Errno(i32),
    Census { jobs: u32, groups: u32, orphans: u32, descriptors: u32 },
}

/// What a waiting leader is told over its gate: what it is to find out about.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Errand {
    /// What to find; `None` is this binary itself.
    pub(super) program: Option<String>,
    pub(super) cwd: Option<String>,
    /// As whom, by the place in the hello.
    pub(super) identity: Option<u32>,
    /// Profiles of the request, by their place in the hello.
    pub(super) confine: Vec<u32>,
}

/// What a leader tells the warden over its gate.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum LeaderSays {
    Facts(Box<WireFacts>),
    Failed(WireFailure),
}

/// What a keeper tells the warden over its line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum KeeperSays {
    /// With one descriptor: the leader's pidfd.
    Born {
        private: bool,
    },
    Failed(WireFailure),
    /// The leader is a zombie.
    Exited {
        #[serde(with = "StatusDef")]
        status: ExitStatus,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WireFailure {
    #[serde(with = "StageDef")]
    pub(super) stage: SpawnStage,
    pub(super) errno: i32,
    pub(super) subject: String,
}

impl WireFailure {
    pub(super) fn new(stage: SpawnStage, errno: nix::errno::Errno, subject: &str) -> Self {
        Self { stage, errno: errno as i32, subject: subject.to_owned() }
    }
}

/// What is executed behind the gate, in the memfd.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) argv: Vec<String>,
    pub(super) env: Vec<(String, String)>,
    pub(super) terminal: bool,
    pub(super) limits: WireLimits,
    /// Profiles by their place in the hello; those of the request are among them.
    pub(super) confine: Vec<u32>,
}

/// Limits of a job; microseconds and bytes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct WireLimits {
    pub(super) cpu: Option<u64>,
    pub(super) memory: Option<u64>,
    pub(super) processes: Option<u32>,
    pub(super) file_size: Option<u64>,
    pub(super) open_files: Option<u64>,
    pub(super) nice: u8,
}

impl From<&JobLimits> for WireLimits {
    fn from(limits: &JobLimits) -> Self {
        Self {
            cpu: limits.cpu.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
            memory: limits.memory,
            processes: limits.processes,
            file_size: limits.file_size,
            open_files: limits.open_files.map(u64::from),
            nice: limits.nice.unwrap_or(0),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct WireFacts {
    pub(super) cwd: String,
    pub(super) found: Option<String>,
    pub(super) file: WireFile,
    pub(super) interpreter: Option<WireInterpreter>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct WireFile {
    pub(super) canonical: String,
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) setuid: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct WireInterpreter {
    pub(super) requested: String,
    pub(super) argument: Option<String>,
    pub(super) file: WireFile,
}

impl WireFile {
    fn identity(&self) -> FileIdentity {
        FileIdentity { device: self.device, inode: self.inode }
    }
}

impl WireFacts {
    /// The facts as the house knows them.
    pub(super) fn executable(self, requested: String) -> Executable {
        Executable {
            requested,
            found: self.found,
            identity: self.file.identity(),
            canonical: self.file.canonical,
            setuid: self.file.setuid,
            interpreter: self.interpreter.map(|i| Interpreter {
                requested: i.requested,
                identity: i.file.identity(),
                canonical: i.file.canonical,
                argument: i.argument,
                setuid: i.file.setuid,
            }),
        }
    }
}

/// Resources used; microseconds and bytes.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct WireUsage {
    pub(super) user: Option<u64>,
    pub(super) system: Option<u64>,
    pub(super) max_rss: Option<u64>,
    pub(super) processes_peak: Option<u32>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireContainment {
    pub(super) tier: WireTier,
    pub(super) pause: String,
    pub(super) kill: String,
    pub(super) notes: Vec<String>,
}

impl From<WireContainment> for Containment {
    fn from(wire: WireContainment) -> Self {
        Self { tier: wire.tier.0, pause: wire.pause, kill: wire.kill, notes: wire.notes }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WireTier(#[serde(with = "TierDef")] pub(super) Tier);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WireBreach(#[serde(with = "BreachDef")] pub(super) Breach);

#[derive(Serialize, Deserialize)]
#[serde(remote = "Breach")]
enum BreachDef {
    Cpu,
    Memory,
    Processes,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Tier")]
enum TierDef {
    A,
    APrime,
    B,
    C,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "SignalTarget")]
enum TargetDef {
    Leader,
    Group,
    Foreground,
    Tree,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "ExitStatus")]
enum StatusDef {
    Code(u8),
    Signal { number: i32, core: bool },
    Unknown,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "SpawnStage")]
enum StageDef {
    Leaf,
    Fork,
    Identity,
    Chdir,
    Terminal,
    Stdio,
    Limits,
    Confine,
    Exec,
    Gate,
}

/// The bytes of a message; `None` when it cannot be encoded within `limit`.
pub(super) fn encode<T: Serialize>(message: &T, limit: usize) -> Option<Vec<u8>> {
    postcard::to_stdvec(message).ok().filter(|bytes| bytes.len() <= limit)
}

/// The message in `bytes`; `None` when they are not exactly one.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Some(message),
        Ok(_) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn trailing_bytes_are_no_message() {
        let mut bytes = encode(&ToWarden::Kill { job: 7 }, MAX_MESSAGE).unwrap();
        assert!(matches!(decode(&bytes), Some(ToWarden::Kill { job: 7 })));
        bytes.push(0);
        assert!(decode::<ToWarden>(&bytes).is_none());
    }

    #[test]
    fn a_message_beyond_the_limit_is_not_sent() {
        let reason = "x".repeat(MAX_MESSAGE);
        assert!(encode(&FromWarden::Unfit { reason }, MAX_MESSAGE).is_none());
    }

    fn requests() -> impl Strategy<Value = ToWarden> {
        let numbers = || (any::<u64>(), any::<u64>());
        prop_oneof![
            numbers().prop_map(|(_, job)| ToWarden::Kill { job }),
            (any::<u64>(), any::<bool>()).prop_map(|(job, terminal)| ToWarden::Release {
                job,
                terminal,
                limits: WireLimits::from(&crate::domain::JobLimits::default())
            }),
            numbers().prop_map(|(ask, job)| ToWarden::Pause { ask, job }),
            (numbers(), any::<i32>()).prop_map(|((ask, job), signal)| ToWarden::Signal {
                ask,
                job,
                signal,
                target: SignalTarget::Tree
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_message_reads_back_as_written_and_neither_cut_nor_damaged_panics(
            request in requests(), at in any::<prop::sample::Index>(), bit in 0..8_u8,
        ) {
            let mut bytes = encode(&request, MAX_MESSAGE).unwrap();
            let back: ToWarden = decode(&bytes).unwrap();
            prop_assert_eq!(format!("{back:?}"), format!("{request:?}"));
            prop_assert!(decode::<ToWarden>(&bytes[..bytes.len() - 1]).is_none());
            let place = at.index(bytes.len());
            bytes[place] ^= 1 << bit;
            let _ = decode::<ToWarden>(&bytes);
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = decode::<ToWarden>(&bytes);
            let _ = decode::<FromWarden>(&bytes);
            let _ = decode::<LeaderSays>(&bytes);
            let _ = decode::<KeeperSays>(&bytes);
            let _ = decode::<Errand>(&bytes);
            let _ = decode::<Plan>(&bytes);
        }
    }
}
