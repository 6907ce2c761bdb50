//! The gateway's handle to the warden.

use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rustix::net::SocketFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::link::{self, Received};
use super::proto::{
    self, Answer, FromWarden, Hello, MAX_MESSAGE, MAX_PATH, Plan, PrepareJob, ToWarden, VERSION, WireLimits,
    WireTier,
};
use super::reader::{self, Emergency, Life, Reply, Shared};
use super::running::{Prepared, SignalFailure, SpawnFailure, Ticket};
use super::settings::Settings;
use super::stdio::{PipeEnds, Stdio};
use super::{PROBE_NAME, spawn, sys};
use crate::domain::{Containment, ExitStatus, JobId, SessionId, SpawnStage};

/// A handle to the running warden. Clones share it; when the last one is dropped, the warden kills every job and
/// ends.
#[derive(Clone)]
pub struct Warden {
    shared: Arc<Shared>,
    containment: Arc<Containment>,
    pid: u32,
    _owner: Arc<Owner>,
}

/// Ends the link when the last handle goes.
struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(self.0.link.get_ref(), rustix::net::Shutdown::Both);
    }
}

/// Why there is no warden.
#[derive(Debug, thiserror::Error)]
pub enum LaunchFailure {
    /// It could not be started.
    #[error("the warden cannot be started: {0}")]
    Start(#[from] std::io::Error),
    /// It says it cannot do what is asked, e.g. the forced tier.
    #[error("{0}")]
    Unfit(String),
    /// It did not get ready in time.
    #[error("the warden was not ready within {}", humantime::format_duration(*.0))]
    Late(Duration),
    /// It ended or spoke nonsense instead; its own words are on stderr.
    #[error("the warden ended before it was ready")]
    Died,
}

/// What to prepare.
#[derive(Debug, Clone)]
pub struct Prepare {
    /// The job's id, for people.
    pub job: JobId,
    /// The tenant; jobs of one tenant share a group.
    pub tenant: String,
    /// The session; jobs of one session share a group.
    pub session: SessionId,
    /// The program: a name to look for on the configured path, or a path relative to `cwd`. At most 4 096 bytes.
    pub program: String,
    /// Working directory; `None` is the identity's home.
    pub cwd: Option<String>,
    /// Profiles to confine it by, by name; those of the decision are added at the release.
    pub confine: Vec<String>,
    /// Which of the configured identities, by its place; `None` is the warden's own user.
    pub identity: Option<u32>,
}

/// What the warden holds right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Census {
    /// Jobs from fork to reap.
    pub jobs: u32,
    /// Groups below the instance's root, on disk.
    pub groups: u32,
    /// Adopted orphans that live.
    pub orphans: u32,
    /// Open descriptors of the warden.
    pub descriptors: u32,
}

/// How spawning proved broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeFailure {
    /// It could not be started.
    #[error("the probe could not be started: {0}")]
    Spawn(#[from] SpawnFailure),
    /// Pipes could not be made or read.
    #[error("the probe's pipes: {0}")]
    Pipe(String),
    /// It did not end with code 0 after saying `ok`.
    #[error("the probe ended with {status:?} after {said} byte(s)")]
    Wrong {
        /// How it ended.
        status: ExitStatus,
        /// How much it said.
        said: usize,
    },
    /// Its tree did not become empty.
    #[error("the probe left {0} process(es)")]
    Survivors(u32),
    /// All of it took too long.
    #[error("the probe took longer than {}", humantime::format_duration(*.0))]
    Late(Duration),
}

impl Warden {
    /// Starts the warden process and waits until it knows what this host can promise. Must be called within a
    /// tokio runtime; spawns the one task that reads the link (see `reader`).
    ///
    /// # Errors
    /// See [`LaunchFailure`]. Nothing of it remains then.
    pub async fn launch(settings: Settings) -> Result<Self, LaunchFailure> {
        let (ours, theirs) = link::pair(SocketFlags::NONBLOCK).map_err(std::io::Error::from)?;
        let exe = settings.exe.clone().unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
        let link = sys::async_fd(ours, Interest::READABLE)?;
        let mut child = spawn::start_warden(&exe, theirs)?;
        match timeout(settings.launch, greet(&link, &settings)).await {
            Ok(Ok((containment, emergency))) => {
                let (pid, shared) = (child.id(), Arc::new(Shared::new(link, settings)));
                tokio::spawn(reader::read(shared.clone(), child, emergency));
                let owner = Arc::new(Owner(shared.clone()));
                Ok(Self { shared, containment: Arc::new(containment), pid, _owner: owner })
            }
            Ok(Err(failure)) => Err(discard(&mut child, failure)),
            Err(_) => Err(discard(&mut child, LaunchFailure::Late(settings.launch))),
        }
    }

    /// What this host can promise, found out by trying.
    pub fn containment(&self) -> &Containment {
        &self.containment
    }

    /// Whether a profile of this name is configured, or is `base`, which every job has.
    pub fn has_profile(&self, name: &str) -> bool {
        self.shared.places(&[name.to_owned()]).is_ok()
    }

    /// The warden's process number.
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Forks the future leader into a fresh leaf, where it finds out what it would run and waits to be released
    /// for at most [`Settings::gate`].
    ///
    /// # Errors
    /// Stage and error number; nothing of it remains.
    pub async fn prepare(&self, wanted: Prepare) -> Result<Prepared, SpawnFailure> {
        let Prepare { job, tenant, session, program, cwd, confine, identity } = wanted;
        let too_long = |text: &str| text.len() > MAX_PATH;
        if too_long(&program) {
            return Err(SpawnFailure::new(SpawnStage::Exec, Errno::ENAMETOOLONG, "program"));
        }
        if cwd.as_deref().is_some_and(too_long) {
            return Err(SpawnFailure::new(SpawnStage::Chdir, Errno::ENAMETOOLONG, "cwd"));
        }
        let (name, session) = (job.to_string(), session.to_string());
        let confine = self.shared.places(&confine)?;
        let job =
            PrepareJob { job: 0, name, tenant, session, program: Some(program), cwd, identity, confine };
        self.prepare_any(job).await
    }

    async fn prepare_any(&self, mut wanted: PrepareJob) -> Result<Prepared, SpawnFailure> {
        let (number, reply, progress) = self.shared.enter()?;
        let ticket = Ticket { shared: self.shared.clone(), number };
        wanted.job = number;
        let requested = wanted.program.clone().unwrap_or_else(|| PROBE_NAME.to_owned());
        let confine = wanted.confine.clone();
        let request = ToWarden::Prepare(Box::new(wanted));
        let sent = self.shared.send(&request, &[]).await;
        sent.map_err(|errno| SpawnFailure::new(SpawnStage::Fork, errno, "warden"))?;
        match self.shared.reply(reply, self.shared.settings.gate, SpawnStage::Gate).await? {
            Reply::Facts(facts) => {
                let cwd = facts.cwd.clone();
                Ok(Prepared { ticket, executable: facts.executable(requested), cwd, confine, progress })
            }
            Reply::Started { .. } => Err(SpawnFailure::new(SpawnStage::Gate, Errno::EPROTO, "warden")),
        }
    }

    /// Proves that spawning works: this binary, in a fresh leaf, says `ok` down a pipe, exits 0, leaves nothing.
    /// Returns how long that took, at most [`Settings::probe`].
    ///
    /// # Errors
    /// How spawning proved broken.
    pub async fn probe(&self) -> Result<Duration, ProbeFailure> {
        let (begun, bound) = (Instant::now(), self.shared.settings.probe);
        match timeout(bound, self.try_probe()).await {
            Ok(Ok(())) => Ok(begun.elapsed()),
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(ProbeFailure::Late(bound)),
        }
    }

    async fn try_probe(&self) -> Result<(), ProbeFailure> {
        let pipe = |e: std::io::Error| ProbeFailure::Pipe(e.to_string());
        let (name, of) = (PROBE_NAME.to_owned(), "probe".to_owned());
        let (tenant, cwd) = (of.clone(), Some("/".to_owned()));
        let (identity, confine) = (None, Vec::new());
        let wanted = PrepareJob { job: 0, name, tenant, session: of, program: None, cwd, identity, confine };
        let prepared = self.prepare_any(wanted).await?;
        let (stdio, PipeEnds { stdout, .. }) = Stdio::pipes(false).map_err(pipe)?;
        let argv = vec![PROBE_NAME.to_owned()];
        let (env, limits, confine) = (Vec::new(), WireLimits::default(), Vec::new());
        let plan = Plan { argv, env, terminal: false, limits, confine };
        let running = prepared.go(&plan, stdio).await?;
        let (status, emptied) = (running.exited().await, running.emptied().await);
        let said = read_to_end(stdout).await.map_err(pipe)?;
        match (emptied.survivors, status, said.as_slice()) {
            (0, ExitStatus::Code(0), b"ok") => Ok(()),
            (0, status, said) => Err(ProbeFailure::Wrong { status, said: said.len() }),
            (survivors, _, _) => Err(ProbeFailure::Survivors(survivors)),
        }
    }

    /// What the warden holds right now; for tests, `doctor` and metrics.
    ///
    /// # Errors
    /// `Gone`, or ETIMEDOUT.
    pub async fn census(&self) -> Result<Census, SignalFailure> {
        match self.shared.ask(|ask| ToWarden::Census { ask }).await? {
            Answer::Census { jobs, groups, orphans, descriptors } => {
                Ok(Census { jobs, groups, orphans, descriptors })
            }
            Answer::Done
            | Answer::Paused { .. }
            | Answer::Resumed { .. }
            | Answer::Finished
            | Answer::NoForeground
            | Answer::Errno(_) => Err(SignalFailure::Errno(Errno::EPROTO as i32)),
        }
    }

    /// Kills every job, removes the instance's groups and ends the warden; at most [`Settings::shutdown`] twice.
    /// True when all of that went well.
    pub async fn shutdown(&self) -> bool {
        let _ = self.shared.send(&ToWarden::Shutdown, &[]).await;
        let mut life = self.shared.life.subscribe();
        let bound = self.shared.settings.shutdown;
        if timeout(bound, life.wait_for(|l| *l != Life::Serving)).await.is_err() {
            let _ = rustix::net::shutdown(self.shared.link.get_ref(), rustix::net::Shutdown::Both);
        }
        let ended = life.wait_for(|l| matches!(l, Life::Ended { .. })).await;
        ended.is_ok_and(|l| *l == Life::Ended { clean: true })
    }

    /// Whether the warden is gone.
    pub fn is_gone(&self) -> bool {
        *self.shared.life.borrow() != Life::Serving
    }

    /// Resolves when the warden is gone. What could be killed without it has been killed then.
    pub async fn gone(&self) {
        let _ = self.shared.life.subscribe().wait_for(|l| *l != Life::Serving).await;
    }
}

impl fmt::Debug for Warden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shared, containment, pid, _owner: _ } = self;
        f.debug_struct("Warden")
            .field("pid", pid)
            .field("life", &*shared.life.borrow())
            .field("containment", containment)
            .finish()
    }
}

/// Says hello and hears what the host can promise.
async fn greet(
    link: &AsyncFd<OwnedFd>,
    settings: &Settings,
) -> Result<(Containment, Option<Emergency>), LaunchFailure> {
    let hello = ToWarden::Hello(Box::new(hello(settings)));
    let too_long = || LaunchFailure::Unfit("the warden's settings are too long".to_owned());
    let bytes = proto::encode(&hello, MAX_MESSAGE).ok_or_else(too_long)?;
    link::send(link.get_ref().as_fd(), &bytes, &[]).map_err(std::io::Error::from)?;
    let mut scratch = link::scratch();
    let received =
        link.async_io(Interest::READABLE, |fd| Ok(link::receive(fd.as_fd(), &mut scratch)?)).await?;
    let Received::Packet(bytes, fds) = received else { return Err(LaunchFailure::Died) };
    match proto::decode(&bytes) {
        Some(FromWarden::Ready(containment)) => {
            let emergency = <[OwnedFd; 2]>::try_from(fds).ok();
            let emergency = emergency.map(|[kill, events]| Emergency { kill: File::from(kill), events });
            Ok((containment.into(), emergency))
        }
        Some(FromWarden::Unfit { reason }) => Err(LaunchFailure::Unfit(reason)),
        Some(_) | None => Err(LaunchFailure::Died),
    }
}

fn hello(settings: &Settings) -> Hello {
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    Hello {
        version: VERSION,
        path: settings.path.clone(),
        identities: settings.identities.clone(),
        profiles: settings.profiles.clone(),
        invoker: settings.invoker.clone(),
        max_jobs: settings.max_jobs,
        force: settings.force.map(WireTier),
        nice: settings.nice,
        gate_ms: millis(settings.gate),
        exec_ms: millis(settings.exec),
        kill_ms: millis(settings.kill),
        pause_ms: millis(settings.pause),
    }
}

fn discard(child: &mut Child, failure: LaunchFailure) -> LaunchFailure {
    let _ = child.kill();
    let _ = child.wait();
    failure
}

/// All that is left in a pipe whose writers are gone; bounded by the pipe's own size.
async fn read_to_end(pipe: OwnedFd) -> std::io::Result<Vec<u8>> {
    let pipe = sys::async_fd(pipe, Interest::READABLE)?;
    let (mut said, mut part) = (Vec::new(), [0; 64]);
    while said.len() <= MAX_MESSAGE {
        let read = pipe.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut part)?)).await?;
        match part.get(..read) {
            Some([]) | None => break,
            Some(bytes) => said.extend_from_slice(bytes),
        }
    }
    Ok(said)
}
