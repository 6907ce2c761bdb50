//! The warden: the small supervisor process that spawns, signals, reaps and kills, and the gateway's handle to it.
//!
//! Two processes, one binary. The gateway holds a [`Warden`]; the warden process runs [`main`]. Between them lies
//! one SOCK_SEQPACKET pair of typed, versioned, length-capped messages (`proto`), file descriptors by SCM_RIGHTS.
//!
//! ```text
//! gateway   prepare ──> Prepared ──release(Cleared)──> Running ──exited──> ──emptied──>
//!              │            └─ drop: abandoned            └─ drop: the tree is killed
//! warden    Waiting ──errand──> Resolving ──facts──> Parked ──order──> Starting ──exec──> Running ──> leader a zombie ──> reaped
//!              └─────────────────── failed or abandoned: killed, reaped, leaf removed ─────────────────┘
//! ```
//!
//! Knows the words of [`crate::domain`] and [`crate::verdict`]; never policy, sessions or sockets of clients.
//! Invariants a change could break: the warden process has one thread and never waits for a job; only `sys` is
//! unsafe; only `spawn` starts programs; a leader stays a zombie until its tree is empty, so that its number
//! cannot be reused under a signal; a leaf is used once and never again after `cgroup.kill`; nothing runs that
//! is not a [`crate::verdict::Cleared`] (except the probe, which is this binary itself).

mod advice;
mod cgroup;
mod confine;
mod delegated;
mod handle;
mod job;
mod keeper;
mod leader;
mod leaf;
mod link;
mod main;
mod meter;
mod proto;
mod reader;
mod reap;
mod resolve;
mod running;
mod settings;
mod spawn;
mod stdio;
#[expect(unsafe_code, reason = "the one fenced file of raw system calls")]
mod sys;
mod tree;
mod trial;
mod walk;

pub use handle::{Census, LaunchFailure, Prepare, ProbeFailure, Warden};
pub use main::main;
pub use resolve::look_up;
pub use running::{Emptied, Paused, Prepared, Running, SignalFailure, SpawnFailure};
pub use settings::{FileRoots, Identity, Profile, Settings};
pub use spawn::answer_probe;
pub use stdio::{PipeEnds, PtyEnds, Stdio, resize};
pub use sys::{async_fd, give_memory_back, keep_little_memory};

/// First argument that makes this binary the warden process.
pub const WARDEN_ARGUMENT: &str = "__warden";
/// `argv[0]` that makes this binary answer a probe.
pub const PROBE_NAME: &str = "execgate-probe";
