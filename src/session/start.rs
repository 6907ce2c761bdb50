//! Starting a job: one straight way from the request to the running tree.
//!
//! Slots and breaker, charge, prepare, facts, review, claims, release. Until the release, dropping the future
//! undoes everything; the release itself is short and bounded, and is never broken off half-way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use crate::audit::RefusedBy;
use crate::domain::{
    CallMethod, Command, ConnectionId, Failure, JobId, JobLimits, Principal, Resolved, SessionId, SpawnStage,
    Terminal, Whose,
};
use crate::quota::{Slot, Turn};
use crate::stream::{Overflow, Share};
use crate::verdict::Cleared;
use crate::warden::{Prepare, Prepared, SpawnFailure};

use super::core::random_bits;
use super::environment;
use super::job::{Card as JobCard, Excerpt, PauseWish};
use super::review::{self, Caller, Case, Hearing};
use super::run;
use super::streams::{self, Keeping, Pumps};
use super::task::Card;
use super::{Core, Ending, Job, JobState, Reach, SessionState};

/// Pauses and resumes of one job that wait for its task; who asks for more waits to ask.
const PAUSES: usize = 8;

/// Where a job's standard input comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StdinMode {
    /// The null device.
    #[default]
    Null,
    /// The client.
    Pipe,
}

/// How long a start keeps its turn while the kernel opens its program. Who owns the file can have that take seconds (a lease,
/// fcntl(2); a file system of its own), and must not hold up the others.
const TURN: Duration = Duration::from_millis(50);

/// What its starter reads of what a job prints.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reading {
    /// Nothing: others may look at the newest bytes.
    #[default]
    Nothing,
    /// Everything from the first byte on, by a view that is on its way: the job is held back for it.
    All,
    /// What the rings hold at the end: they are kept whole until the session is over, and hold nothing back.
    Rings,
}

/// What a client asks of a new job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRequest {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Working directory; `None` is home.
    pub cwd: Option<String>,
    /// Variables to add.
    pub env: BTreeMap<String, String>,
    /// A terminal instead of pipes.
    pub terminal: Option<Terminal>,
    /// Standard input.
    pub stdin: StdinMode,
    /// Wall-clock limit.
    pub timeout: Option<Duration>,
    /// What a full ring does.
    pub overflow: Overflow,
    /// Size of each ring, bytes.
    pub ring: Option<u64>,
    /// What the starter reads of it.
    pub reading: Reading,
    /// Makes a retry safe.
    pub key: Option<String>,
    /// Free text for people.
    pub labels: BTreeMap<String, String>,
}

/// What a request asked for, without its key.
pub(super) type Digest = [u8; 32];

/// Where the outcome of a start appears, for the first asker and for repeats under its key.
pub(super) type StartCell = watch::Receiver<Option<Result<Arc<Job>, Failure>>>;

impl JobRequest {
    pub(super) fn digest(&self) -> Digest {
        let keyless = Self { key: None, reading: Reading::Nothing, ..self.clone() };
        Sha256::digest(format!("{keyless:?}")).into()
    }
}

/// What is to be started, for whom, and on which connection.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: JobRequest,
    /// Where it was taken already.
    pub(super) slot: Option<Slot>,
    /// The owner of the session, but perhaps with a credential that gives less than the opener's.
    pub(super) caller: Caller,
    pub(super) asker: ConnectionId,
}

/// The whole life of a job: started, run, ended. Returns the processes the kernel would not give up.
pub(super) async fn job(
    core: Arc<Core>,
    session: Card,
    asked: Asked,
    mut state: watch::Receiver<SessionState>,
    outcome: watch::Sender<Option<Result<Arc<Job>, Failure>>>,
) -> u32 {
    let Asked { request, slot, caller, asker } = asked;
    let begun = Instant::now();
    let start = Start { core: &core, session: &session, caller: &caller, request };
    let cleared = tokio::select! {
        biased;
        _ = state.wait_for(|s| !s.is_open()) => {
            Err(core.admitting().err().unwrap_or(Failure::NotFound("session")))
        }
        cleared = start.clear(slot) => cleared,
    };
    let started = match cleared {
        Ok(cleared) => start.release(cleared).await,
        Err(failure) => Err(failure),
    };
    match started {
        Err(failure) => {
            match failure {
                // Whoever asks beyond a limit asks often: his refusals are counted, and must not fill the log.
                Failure::LimitExceeded { .. } | Failure::RateLimited { .. } => {
                    tracing::debug!(session = %session.id, tenant = %caller.principal.tenant, ?failure, "job refused");
                }
                _ => {
                    tracing::info!(session = %session.id, tenant = %caller.principal.tenant, ?failure, "job refused");
                }
            }
            outcome.send_replace(Some(Err(failure)));
            0
        }
        Ok(Released { job, pumps, pauses, slot, limits }) => {
            let guard = run::Guard::new(core.clone(), job.clone());
            metrics::histogram!("execgate_spawn_seconds").record(begun.elapsed().as_secs_f64());
            tracing::debug!(stage = "spawn", job = %job.card.id, took = ?begun.elapsed(), "stage");
            core.registry.add_job(job.clone());
            // Whoever ends all jobs says so before he looks for them.
            let closing = state.borrow().closing;
            if let Some(reason) = closing.or_else(|| core.ending()) {
                job.end(Ending::kill(reason));
            }
            outcome.send_replace(Some(Ok(job.clone())));
            if let Ok(here) = core.registry.session(session.id, &session.owner, Reach::Own) {
                here.started(job, asker).await;
            }
            run::run(guard, pumps, pauses, slot, &limits, state).await
        }
    }
}

struct Start<'a> {
    core: &'a Arc<Core>,
    session: &'a Card,
    caller: &'a Caller,
    request: JobRequest,
}

/// Everything the release needs.
struct Ready {
    id: JobId,
    cleared: Cleared<Resolved>,
    prepared: Prepared,
    slot: Slot,
    share: Share,
    /// Held until the program runs, or should: the warden is what is shared most.
    turn: Turn,
}

struct Released {
    job: Arc<Job>,
    pumps: Pumps,
    pauses: mpsc::Receiver<PauseWish>,
    slot: Slot,
    limits: JobLimits,
}

impl Start<'_> {
    async fn clear(&self, slot: Option<Slot>) -> Result<Ready, Failure> {
        self.core.admitting()?;
        let ring_bytes = self.ring_bytes()?;
        let mut slot = match slot {
            Some(slot) => slot,
            None => self.core.start_slot(&self.caller.principal, self.session)?,
        };
        let share = self.share(ring_bytes)?;
        let turn = self.core.rooms.turns.take(&self.caller.principal.tenant).await?;
        self.core.rooms.audit_breaker.admit()?;
        self.core.rooms.breaker.admit()?;
        let program = self.request.argv.first().map(String::as_str);
        let mut hearing = Hearing::begin(self.core)?;
        hearing.charge(self.core, self.caller, CallMethod::JobStart, program).await?;
        let id = JobId::from_bits(random_bits()?);
        let command = self.command(id)?;
        let prepared = prepare(self.core, &self.caller.principal, self.session.id, id, &command).await?;
        let resolved = review::resolve(command, &prepared).await?;
        let case = Case {
            core: self.core,
            caller: self.caller,
            session: self.session.id,
            job: id,
            hearing,
            labels: review::labels(&self.session.labels, &self.request.labels),
        };
        let (cleared, prepared) = case.clear(resolved, prepared).await?;
        let granted = slot.grant(&cleared.terms().claims);
        granted.inspect_err(|_| self.core.rooms.audit.refused(&self.caller.principal, RefusedBy::Slots))?;
        self.core.admitting()?;
        Ok(Ready { id, cleared, prepared, slot, share, turn })
    }

    /// The job's part of the budget for streams.
    fn share(&self, ring_bytes: u32) -> Result<Share, Failure> {
        let tenant = &self.caller.principal.tenant;
        let taken = self.core.budget.take(tenant, self.core.settings.streams.job(ring_bytes));
        taken.map_err(|spent| Failure::LimitExceeded {
            whose: Whose::Caller,
            limit: "bytes of the streams of the tenant's jobs (its part of streams.budget)".to_owned(),
            value: spent.most,
        })
    }

    fn ring_bytes(&self) -> Result<u32, Failure> {
        let asked = self.core.settings.streams.ring_for(self.request.ring);
        asked.map_err(|refused| Failure::InvalidParams(format!("output.ring_bytes: {refused}")))
    }

    fn command(&self, id: JobId) -> Result<Command, Failure> {
        let identity = self.core.settings.identity(&self.caller.principal).ok_or_else(no_identity)?;
        let asked = environment::Asked {
            argv: self.request.argv.clone(),
            cwd: self.request.cwd.clone(),
            env: &self.request.env,
            terminal: self.request.terminal.clone(),
        };
        environment::compose(asked, id, &identity.home, &self.core.settings)
    }

    fn limits(&self, cleared: &Cleared<Resolved>) -> JobLimits {
        JobLimits { wall: self.request.timeout, ..JobLimits::default() }
            .strictest(&cleared.terms().limits)
            .strictest(&self.session.grant.job_limits)
            .strictest(&self.core.ceilings.load().of_job(&self.caller.principal))
    }

    async fn release(&self, ready: Ready) -> Result<Released, Failure> {
        let Ready { id, cleared, prepared, slot, share, turn } = ready;
        let limits = self.limits(&cleared);
        let size = cleared.value().command.terminal.as_ref().map(|t| t.size);
        let stdio = |error: std::io::Error| spawn_failed(SpawnStage::Stdio, &error, "standard streams");
        let (inner, ours) = streams::make(size, self.request.stdin == StdinMode::Pipe).map_err(stdio)?;
        let released = in_turn(turn, prepared.release(&cleared, inner, &limits)).await;
        let running = released.map_err(|failure| told_breaker(self.core, &self.caller.principal, failure))?;
        // Only a program that runs shows that spawning works.
        self.core.rooms.breaker.success();
        let overflow = self.request.overflow;
        let (ring_bytes, reading) = (self.ring_bytes()?, self.request.reading);
        let keeping = Keeping { overflow, ring_bytes, limit: limits.output, reading };
        let streams = streams::start(ours, keeping, &self.core.settings.streams).map_err(stdio)?;
        streams.output.hold(share);
        let command = &cleared.value().command;
        let card = JobCard {
            id,
            session: self.session.id,
            owner: self.caller.principal.clone(),
            argv: Excerpt::of(&command.argv),
            labels: self.request.labels.clone(),
            pid: running.pid().unsigned_abs(),
            started_at: SystemTime::now(),
            decision: cleared.terms().decision,
            terminal: command.terminal.is_some(),
            detachable: self.session.detach.is_some(),
        };
        tracing::info!(job = %id, session = %card.session, tenant = %card.owner.tenant, decision = %card.decision, pid = card.pid, "job started");
        let (pauses, wishes) = mpsc::channel(PAUSES);
        let job = Job {
            card,
            output: streams.output,
            stdin: streams.stdin,
            running: ArcSwapOption::from_pointee(running),
            master: Mutex::new(streams.terminal),
            state: watch::Sender::new(JobState::default()),
            ending: watch::Sender::new(None),
            pauses,
            since: Instant::now(),
            listeners: Mutex::default(),
        };
        Ok(Released { job: Arc::new(job), pumps: streams.pumps, pauses: wishes, slot, limits })
    }
}

/// Waits for what is done in this turn, and keeps the turn for [`TURN`] at most.
async fn in_turn<T>(turn: Turn, done: impl Future<Output = T>) -> T {
    let mut done = std::pin::pin!(done);
    let soon = timeout(TURN, &mut done).await;
    drop(turn);
    match soon {
        Ok(done) => done,
        Err(_) => done.await,
    }
}

/// Has the warden fork a leader that looks at the command and waits at the gate.
///
/// # Errors
/// [`Failure::SpawnFailed`] with stage and errno.
pub(super) async fn prepare(
    core: &Core,
    principal: &Principal,
    session: SessionId,
    job: JobId,
    command: &Command,
) -> Result<Prepared, Failure> {
    let identity = core.settings.identity(principal).ok_or_else(no_identity)?;
    let asked = Prepare {
        job,
        tenant: principal.tenant.to_string(),
        session,
        program: command.program().to_owned(),
        cwd: command.cwd.clone(),
        confine: core.ceilings.load().confine(principal).to_vec(),
        identity: identity.place,
    };
    let prepared = core.rooms.warden.prepare(asked).await;
    prepared.map_err(|failure| told_breaker(core, principal, failure))
}

/// Tells the breaker of a failure that was ours.
fn told_breaker(core: &Core, principal: &Principal, failure: SpawnFailure) -> Failure {
    let fault = if failure.is_of_the_request() { "request" } else { "gateway" };
    metrics::counter!("execgate_spawn_failures_total", "fault" => fault).increment(1);
    if !failure.is_of_the_request() {
        core.rooms.breaker.failure(Some(&principal.tenant));
        tracing::error!(tenant = %principal.tenant, %failure, "spawning failed");
    }
    Failure::SpawnFailed { stage: failure.stage, errno: failure.errno, subject: failure.subject }
}

fn spawn_failed(stage: SpawnStage, error: &std::io::Error, subject: &str) -> Failure {
    Failure::SpawnFailed { stage, errno: error.raw_os_error().unwrap_or(0), subject: subject.to_owned() }
}

pub(super) fn no_identity() -> Failure {
    Failure::SpawnFailed {
        stage: SpawnStage::Identity,
        errno: nix::errno::Errno::EPERM as i32,
        subject: "the operator gave this tenant no identity to run jobs as".to_owned(),
    }
}
