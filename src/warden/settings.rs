//! What the warden is told once, at its start, and never again.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::Tier;

/// Everything about the warden that configuration decides.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Directories in which a program name without `/` is looked for; empty and relative ones are dropped.
    pub path: Vec<PathBuf>,
    /// The identities jobs may take; a request names one by its place in this list, and no other.
    pub identities: Vec<Identity>,
    /// Confinement profiles that jobs may be given; a request names them by their place in this list.
    pub profiles: Vec<Profile>,
    /// Home of the warden's own user, where jobs without an identity start; `None` forbids such jobs.
    pub invoker: Option<PathBuf>,
    /// Most jobs at once, prepared ones and probes included; one more is refused.
    pub max_jobs: u32,
    /// A tier to use instead of the best one, for tests; launch fails where it is not to be had.
    pub force: Option<Tier>,
    /// Added to the niceness of every job, 0..=19.
    pub nice: i32,
    /// How long a prepared leader waits to be released, and how long it may take to resolve its program.
    pub gate: Duration,
    /// How long an exec may take (a program on a dead network file system hangs there).
    pub exec: Duration,
    /// How long after a kill a tree may live before it is reported as `kill_pending`.
    pub kill: Duration,
    /// How long the warden's own start may take: its hello, the sweep of stale instances and the trial.
    pub launch: Duration,
    /// How long a freeze may go unacknowledged before pause answers with an error.
    pub pause: Duration,
    /// How long a probe may take in all.
    pub probe: Duration,
    /// How long an orderly shutdown may take before the warden itself is killed.
    pub shutdown: Duration,
    /// The binary to run as the warden; `None` is this process's own. For tests.
    pub exe: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        let directories = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        Self {
            path: directories.map(PathBuf::from).to_vec(),
            identities: Vec::new(),
            profiles: Vec::new(),
            invoker: Some(PathBuf::from("/")),
            max_jobs: 1024,
            force: None,
            nice: 0,
            gate: Duration::from_secs(1),
            exec: Duration::from_secs(5),
            kill: Duration::from_secs(10),
            launch: Duration::from_secs(10),
            pause: Duration::from_secs(2),
            probe: Duration::from_secs(2),
            shutdown: Duration::from_secs(12),
            exe: None,
        }
    }
}

/// Who a job runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups: exactly these.
    pub groups: Vec<u32>,
    /// Login name, for the environment.
    pub user: String,
    /// Home directory: where a job without a cwd starts.
    pub home: PathBuf,
    /// Login shell, for the environment.
    pub shell: PathBuf,
}

/// A confinement that configuration names, beside `base`, which every job has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// The only files a job sees; `None` leaves all.
    pub files: Option<FileRoots>,
    /// No network: an empty namespace where that is possible, else no socket but AF_UNIX.
    pub offline: bool,
    /// Where the kernel lacks what it takes, the job is refused; else it runs without.
    pub required: bool,
}

/// Roots of what a job may use; each stands for everything below it. `~` at the beginning is the identity's home.
/// The null, zero, full, random and terminal devices are always there. What does not exist allows nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRoots {
    /// May be read and executed.
    pub read: Vec<PathBuf>,
    /// May be changed too.
    pub write: Vec<PathBuf>,
}
