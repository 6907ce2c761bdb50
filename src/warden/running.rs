//! A job as the gateway holds it: prepared, then running. Dropping either ends the job.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use rustix::fs::{MemfdFlags, SealFlags};
use tokio::sync::watch;

use super::proto::{self, Answer, MAX_PLAN, Plan, ToWarden, WireFailure};
use super::reader::{Progress, Reply, Shared};
use super::stdio::Stdio;
use crate::domain::{Breach, Executable, ExitStatus, JobLimits, Resolved, SignalTarget, SpawnStage, Usage};
use crate::verdict::Cleared;

/// Time given to the warden beyond its own bounds before the gateway stops waiting for its answer.
pub(super) const SLACK: Duration = Duration::from_secs(2);

/// A job that could not be started. Nothing of it remains.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{stage}: {} ({subject})", Errno::from_raw(*errno).desc())]
pub struct SpawnFailure {
    /// Where it failed.
    pub stage: SpawnStage,
    /// The system's error number.
    pub errno: i32,
    /// What it happened to.
    pub subject: String,
}

impl SpawnFailure {
    pub(super) fn new(stage: SpawnStage, errno: Errno, subject: &str) -> Self {
        Self { stage, errno: errno as i32, subject: subject.to_owned() }
    }

    /// Whether the request was at fault (an unknown program, a forbidden directory), not this host: such
    /// failures say nothing about the health of spawning. Of what the kernel says of a program or a directory, that is
    /// everything but a want of something, for who wrote the program chooses what is wrong with it.
    pub fn is_of_the_request(&self) -> bool {
        // A profile that this kernel cannot give is as broken for the next request, but spawning is not.
        let lacking = self.stage == SpawnStage::Confine && self.errno == Errno::EOPNOTSUPP as i32;
        let wants = [Errno::EAGAIN, Errno::ENOMEM, Errno::EMFILE, Errno::ENFILE];
        // Ours too: it did not come to the program, or not to what was cleared. (One that takes too long is its owner's: a lease
        // on it holds the kernel up.)
        let ours = [Errno::EPROTO, Errno::ENOSPC];
        let stage = matches!(self.stage, SpawnStage::Exec | SpawnStage::Chdir);
        let errno = Errno::from_raw(self.errno);
        lacking || (stage && !wants.contains(&errno) && !ours.contains(&errno))
    }
}

impl From<WireFailure> for SpawnFailure {
    fn from(wire: WireFailure) -> Self {
        Self { stage: wire.stage, errno: wire.errno, subject: wire.subject }
    }
}

/// The tree of a job is empty, or should be and is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Emptied {
    /// Processes that live on although they were killed: `kill_pending` unless 0. Where the warden died and the
    /// host has no groups, nobody can count any more, and 1 stands for "perhaps".
    pub survivors: u32,
    /// What the job used.
    pub usage: Usage,
}

/// The state of a job after a pause or a resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paused {
    /// It is paused now.
    pub paused: bool,
    /// The kernel acknowledged it for every process, and the job cannot undo it.
    pub exact: bool,
}

/// Why a signal, pause or resume had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignalFailure {
    /// Whom it was for has ended.
    #[error("the job has ended")]
    Finished,
    /// The job has no terminal, or nobody of it in the foreground.
    #[error("the job has no foreground group")]
    NoForeground,
    /// The system refused, e.g. EINVAL for a number that is no signal, EAGAIN before the job runs.
    #[error("{}", Errno::from_raw(*.0).desc())]
    Errno(i32),
    /// The warden is gone, and the job with it.
    #[error("the warden is gone")]
    Gone,
}

/// Holds a job's place in the warden; dropping it ends whatever is there.
pub(super) struct Ticket {
    pub(super) shared: Arc<Shared>,
    pub(super) number: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.shared.forget(self.number) {
            self.shared.kill(self.number);
        }
    }
}

/// A leader that waits at its gate, knowing what it would run. Dropping it abandons the job.
pub struct Prepared {
    pub(super) ticket: Ticket,
    pub(super) executable: Executable,
    pub(super) cwd: String,
    /// Profiles of the request.
    pub(super) confine: Vec<u32>,
    pub(super) progress: watch::Receiver<Progress>,
}

impl Prepared {
    /// What would be executed.
    pub const fn executable(&self) -> &Executable {
        &self.executable
    }

    /// The working directory, canonical.
    pub fn cwd(&self) -> &str {
        &self.cwd
    }

    /// Runs exactly what was cleared, confined by the profiles of the request and of the decision. All of `limits`
    /// are set but `wall` and `output`, which belong to whoever can watch them.
    ///
    /// # Errors
    /// Any stage behind the gate; exec/EPROTO (a fault of ours) when what was cleared is not what was prepared;
    /// confine/ENOENT when the decision names a profile that is not configured.
    pub async fn release(
        self,
        cleared: &Cleared<Resolved>,
        stdio: Stdio,
        limits: &JobLimits,
    ) -> Result<Running, SpawnFailure> {
        let Resolved { command, facts } = cleared.value();
        let same = facts.executable == self.executable
            && facts.cwd == self.cwd
            && command.program() == self.executable.requested
            && command.terminal.is_some() == stdio.terminal;
        if !same {
            return Err(SpawnFailure::new(
                SpawnStage::Exec,
                Errno::EPROTO,
                "cleared is not what was prepared",
            ));
        }
        let mut confine = self.confine.clone();
        confine.extend(self.ticket.shared.places(&cleared.terms().confine)?);
        let plan = Plan {
            argv: command.argv.clone(),
            env: command.env.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
            terminal: stdio.terminal,
            limits: limits.into(),
            confine,
        };
        self.go(&plan, stdio).await
    }

    /// Opens the gate with this plan.
    pub(super) async fn go(self, plan: &Plan, stdio: Stdio) -> Result<Running, SpawnFailure> {
        let shared = &self.ticket.shared;
        let memfd = write_plan(plan)
            .map_err(|errno| SpawnFailure::new(SpawnStage::Exec, errno, &self.executable.requested))?;
        let reply = shared.expect_start(self.ticket.number)?;
        let request = ToWarden::Release {
            job: self.ticket.number,
            terminal: stdio.terminal,
            limits: plan.limits.clone(),
        };
        let fds = [memfd.as_fd(), stdio.stdin.as_fd(), stdio.stdout.as_fd(), stdio.stderr.as_fd()];
        shared.send(&request, &fds).await.map_err(|e| SpawnFailure::new(SpawnStage::Stdio, e, "release"))?;
        drop(stdio);
        match shared.reply(reply, shared.settings.exec, SpawnStage::Exec).await? {
            Reply::Started { pid, pidfd } => {
                Ok(Running { ticket: self.ticket, pid, _pidfd: pidfd, progress: self.progress })
            }
            Reply::Facts(_) => Err(SpawnFailure::new(SpawnStage::Gate, Errno::EPROTO, "warden")),
        }
    }
}

/// The plan in a memfd nobody can change any more.
fn write_plan(plan: &Plan) -> Result<OwnedFd, Errno> {
    let raw = |e: rustix::io::Errno| Errno::from_raw(e.raw_os_error());
    let limit = usize::try_from(MAX_PLAN).unwrap_or(usize::MAX);
    let bytes = proto::encode(plan, limit).ok_or(Errno::E2BIG)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd = rustix::fs::memfd_create("plan", flags).map_err(raw)?;
    if rustix::io::pwrite(&memfd, &bytes, 0).map_err(raw)? != bytes.len() {
        return Err(Errno::ENOSPC);
    }
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&memfd, seals).map_err(raw)?;
    Ok(memfd)
}

/// A running job. Dropping it before it is empty kills its tree.
pub struct Running {
    ticket: Ticket,
    pid: i32,
    _pidfd: OwnedFd,
    progress: watch::Receiver<Progress>,
}

impl Running {
    /// The leader's process number.
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// How the leader ended, once it has. Cancel safe, repeatable. `Unknown` when the warden died first.
    pub async fn exited(&self) -> ExitStatus {
        let mut progress = self.progress.clone();
        let ended = progress.wait_for(|p| p.status.is_some()).await;
        ended.ok().and_then(|p| p.status).unwrap_or(ExitStatus::Unknown)
    }

    /// The limit that ended the leader, once it has ended by one.
    pub fn breach(&self) -> Option<Breach> {
        self.progress.borrow().breach
    }

    /// What was left and used, once the whole tree is empty (or overdue). Cancel safe, repeatable.
    pub async fn emptied(&self) -> Emptied {
        let mut progress = self.progress.clone();
        let ended = progress.wait_for(|p| p.emptied.is_some()).await;
        ended.ok().and_then(|p| p.emptied).unwrap_or(Emptied { survivors: 0, usage: Usage::default() })
    }

    /// After [`Self::emptied`] told of survivors: resolves when those too are gone. Cancel safe, repeatable.
    pub async fn swept(&self) {
        let mut progress = self.progress.clone();
        let _ = progress.wait_for(|p| p.swept).await;
    }

    /// Sends signal number `signal`, 1..=64.
    ///
    /// # Errors
    /// See [`SignalFailure`]; a leader, group or tree that has ended is `Finished`.
    pub async fn signal(&self, signal: i32, target: SignalTarget) -> Result<(), SignalFailure> {
        let job = self.ticket.number;
        match self.ask(|ask| ToWarden::Signal { ask, job, signal, target }).await? {
            Answer::Done => Ok(()),
            other => Err(refusal(other)),
        }
    }

    /// Stops every process of the job until [`Self::resume`]. Idempotent.
    ///
    /// # Errors
    /// `Finished`; ETIMEDOUT when the kernel did not acknowledge in time (it may still do).
    pub async fn pause(&self) -> Result<Paused, SignalFailure> {
        let job = self.ticket.number;
        self.ask(|ask| ToWarden::Pause { ask, job }).await.and_then(paused)
    }

    /// Undoes [`Self::pause`]. Idempotent.
    ///
    /// # Errors
    /// As [`Self::pause`].
    pub async fn resume(&self) -> Result<Paused, SignalFailure> {
        let job = self.ticket.number;
        self.ask(|ask| ToWarden::Resume { ask, job }).await.and_then(paused)
    }

    /// Kills the whole tree. Never blocks, idempotent; [`Self::emptied`] tells when it is done.
    pub fn kill(&self) {
        if self.progress.borrow().emptied.is_none() {
            self.ticket.shared.kill(self.ticket.number);
        }
    }

    async fn ask(&self, request: impl FnOnce(u64) -> ToWarden) -> Result<Answer, SignalFailure> {
        if self.progress.borrow().emptied.is_some_and(|e| e.survivors == 0) {
            return Err(SignalFailure::Finished);
        }
        self.ticket.shared.ask(request).await
    }
}

fn paused(answer: Answer) -> Result<Paused, SignalFailure> {
    match answer {
        Answer::Paused { exact } => Ok(Paused { paused: true, exact }),
        Answer::Resumed { exact } => Ok(Paused { paused: false, exact }),
        other => Err(refusal(other)),
    }
}

fn refusal(answer: Answer) -> SignalFailure {
    match answer {
        Answer::Finished => SignalFailure::Finished,
        Answer::NoForeground => SignalFailure::NoForeground,
        Answer::Errno(errno) => SignalFailure::Errno(errno),
        Answer::Done | Answer::Paused { .. } | Answer::Resumed { .. } | Answer::Census { .. } => {
            SignalFailure::Errno(Errno::EPROTO as i32)
        }
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ticket, executable, cwd, confine, progress: _ } = self;
        f.debug_struct("Prepared")
            .field("number", &ticket.number)
            .field("executable", executable)
            .field("cwd", cwd)
            .field("confine", confine)
            .finish()
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ticket, pid, _pidfd: _, progress } = self;
        f.debug_struct("Running")
            .field("number", &ticket.number)
            .field("pid", pid)
            .field("progress", &*progress.borrow())
            .finish()
    }
}
