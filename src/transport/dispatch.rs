//! From a decoded call to its answer.
//!
//! Each call becomes one future that ends in a [`Reply`]. Acting on a job goes straight to the job; starting and opening
//! go through the session's task.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tracing::Instrument as _;

use crate::domain::{Authority, EndReason, Failure, JobId, RequestId, Signal, TerminalSize, Whose};
use crate::rpc::method::Until;
use crate::rpc::{self, Id, Method, Value, view};
use crate::session::{Ending, Job, Reach};

use super::connection::Connection;
use super::router::fresh_request_id;
use super::writer::Out;
use super::{jobs, sessions, views};

/// What answers a call, and what the writer is to do with it.
#[derive(Debug, Default)]
pub(super) struct Reply {
    /// `None` for a notification.
    text: Option<String>,
    follow: Vec<JobId>,
    after: Vec<JobId>,
}

/// What a method came to.
#[derive(Debug)]
pub(super) struct Outcome {
    value: Value,
    /// Jobs whose followers were held for this answer.
    follow: Vec<JobId>,
    /// Jobs whose `job.closed` comes before it.
    after: Vec<JobId>,
}

impl From<Value> for Outcome {
    fn from(value: Value) -> Self {
        Self { value, follow: Vec::new(), after: Vec::new() }
    }
}

impl Outcome {
    pub(super) fn following(value: Value, follow: Vec<JobId>) -> Self {
        Self { follow, ..value.into() }
    }

    pub(super) fn after_closed(value: Value, job: JobId) -> Self {
        Self { after: vec![job], ..value.into() }
    }
}

impl Reply {
    /// An error, answered when there is whom to answer.
    pub(super) fn error(id: Option<&Id>, failure: &Failure, request: &RequestId) -> Self {
        Self { text: id.map(|id| rpc::error(Some(id), failure, request)), ..Self::default() }
    }

    fn of(id: Option<&Id>, outcome: Result<Outcome, Failure>, request: &RequestId) -> Self {
        match outcome {
            Err(failure) => Self::error(id, &failure, request),
            Ok(Outcome { value, follow, after }) => {
                Self { text: id.map(|id| rpc::result(id, value)), follow, after }
            }
        }
    }

    pub(super) fn into_out(mut self) -> Option<Out> {
        // An answer that must come before anything of one job must not wait for another's end: two batches could wait for
        // each other.
        if !self.follow.is_empty() {
            self.after.clear();
        }
        let says_something = self.text.is_some() || !self.follow.is_empty();
        says_something.then_some(Out::Answer { text: self.text, follow: self.follow, after: self.after })
    }
}

/// Most bytes of the answer to a batch: what one message may be, so that the socket's write buffer takes it.
const MAX_BATCH_ANSWER: usize = 1 << 20;

/// The replies of a batch as one. Where they are too long together, the later ones say so instead.
pub(super) fn batch(replies: Vec<(Option<Id>, Reply)>) -> Option<Out> {
    let mut all = Reply::default();
    let (mut texts, mut bytes) = (Vec::new(), 0);
    for (id, mut reply) in replies {
        let long = reply.text.as_ref().map_or(0, String::len);
        if bytes + long > MAX_BATCH_ANSWER {
            let limit = "bytes of a batch's answer".to_owned();
            let failure =
                Failure::LimitExceeded { whose: Whose::Caller, limit, value: MAX_BATCH_ANSWER as u64 };
            reply.text = Reply::error(id.as_ref(), &failure, &fresh_request_id()).text;
        } else {
            bytes += long;
        }
        texts.extend(reply.text);
        all.follow.extend(reply.follow);
        all.after.extend(reply.after);
    }
    all.text = rpc::batch(&texts);
    all.into_out()
}

/// Answers one call.
pub(super) async fn answer(
    connection: Arc<Connection>,
    id: Option<Id>,
    method: Method,
    request: RequestId,
    since: Instant,
) -> Reply {
    let span = tracing::info_span!(
        "request",
        request_id = %request,
        connection = %connection.link.id(),
        tenant = %connection.caller.principal.tenant
    );
    span.in_scope(|| tracing::debug!(stage = "decode", took = ?since.elapsed(), "stage"));
    let outcome = run(&connection, method).instrument(span).await;
    let word = if outcome.is_ok() { "ok" } else { "error" };
    ::metrics::counter!("execgate_requests_total", "outcome" => word).increment(1);
    if let Err(failure) = &outcome {
        time_refusal(failure, since);
        tracing::debug!(request_id = %request, connection = %connection.link.id(), ?failure, "refused");
    }
    Reply::of(id.as_ref(), outcome, &request)
}

/// Measures a refusal that is the server's way of keeping its load bounded; others take what the answer takes.
pub(super) fn time_refusal(failure: &Failure, since: Instant) {
    match failure {
        Failure::LimitExceeded { .. }
        | Failure::RateLimited { .. }
        | Failure::Unavailable { .. }
        | Failure::Draining => {
            ::metrics::histogram!("execgate_refusal_seconds").record(since.elapsed().as_secs_f64());
        }
        Failure::Parse(_)
        | Failure::InvalidRequest(_)
        | Failure::MethodNotFound(_)
        | Failure::InvalidParams(_)
        | Failure::Internal(_)
        | Failure::Unauthenticated
        | Failure::Forbidden(_)
        | Failure::PolicyDenied(_)
        | Failure::PolicyFailed { .. }
        | Failure::NotFound(_)
        | Failure::Conflict(_)
        | Failure::SpawnFailed { .. }
        | Failure::Finished
        | Failure::Busy { .. } => {}
    }
}

async fn run(on: &Arc<Connection>, method: Method) -> Result<Outcome, Failure> {
    match method {
        Method::ServerInfo => Ok(views::server_info(on).into()),
        Method::Discover => Ok(rpc::discover(env!("CARGO_PKG_VERSION")).into()),
        Method::PolicyList => admin(on, "policy.list").map(|()| views::policies(on).into()),
        Method::PolicyReload => {
            admin(on, "policy.reload")?;
            on.core.request_reload().await.map(|what| view::reloaded(&what).into())
        }
        Method::ServerDrain => {
            admin(on, "server.drain")?;
            on.core.request_drain();
            Ok(view::nothing().into())
        }
        Method::SessionOpen(open) => sessions::open(on, open).await,
        Method::SessionAttach { session, takeover } => sessions::attach(on, session, takeover).await,
        Method::SessionList => Ok(sessions::list(on).into()),
        Method::SessionGet(session) => sessions::get(on, session).map(Outcome::from),
        Method::SessionClose(session) => sessions::close(on, session).await.map(Outcome::from),
        Method::JobStart(start) => jobs::start(on, *start).await,
        Method::PolicyExplain(start) => jobs::explain(on, *start).await.map(Outcome::from),
        Method::JobList(session) => Ok(jobs::list(on, session).into()),
        Method::JobAttach(attach) => jobs::attach(on, &attach),
        Method::JobDetach(job) => jobs::detach(on, job).map(Outcome::from),
        Method::JobAck { job, stream, offset, window } => {
            jobs::ack(on, job, stream, offset, window).map(Outcome::from)
        }
        Method::JobStdin { job, data, eof } => jobs::stdin(on, job, &data, eof).map(Outcome::from),
        Method::JobGet { job, tail } => jobs::get(on, job, tail).map(Outcome::from),
        Method::JobSignal { job, signal, target } => {
            let job = find(on, job, Reach::Own)?;
            job.signal(signal.number(), target).await.map(|()| view::delivered().into())
        }
        Method::JobPause(job) => {
            let now = find(on, job, Reach::Own)?.pause().await?;
            Ok(view::paused(now.paused, now.exact).into())
        }
        Method::JobResume(job) => {
            let now = find(on, job, Reach::Own)?.resume().await?;
            Ok(view::paused(now.paused, now.exact).into())
        }
        Method::JobStop { job, signal, grace } => stop(on, job, signal, grace).await,
        Method::JobKill(job) => stop(on, job, Signal::KILL, Duration::ZERO).await,
        Method::JobResize { job, size } => resize(on, job, size),
        Method::JobWait { job, until, timeout } => wait(on, job, until, timeout).await.map(Outcome::from),
    }
}

pub(super) fn find(on: &Connection, job: JobId, reach: Reach) -> Result<Arc<Job>, Failure> {
    on.core.registry.job(job, &on.caller.principal, reach)
}

fn admin(on: &Connection, method: &'static str) -> Result<(), Failure> {
    match on.caller.principal.authority {
        Authority::Admin => Ok(()),
        Authority::Caller | Authority::TenantAdmin => Err(Failure::Forbidden(method)),
    }
}

async fn stop(on: &Connection, job: JobId, signal: Signal, grace: Duration) -> Result<Outcome, Failure> {
    let job = find(on, job, Reach::Administer)?;
    let wish = Ending { reason: EndReason::Killed, signal: signal.number(), grace };
    let stopped = job.stop(wish).await?;
    let value = view::stopped(stopped.survivors, stopped.escalated, stopped.elapsed);
    Ok(Outcome::after_closed(value, job.card.id))
}

fn resize(on: &Connection, job: JobId, size: TerminalSize) -> Result<Outcome, Failure> {
    find(on, job, Reach::Own)?.resize(size)?;
    Ok(view::nothing().into())
}

async fn wait(on: &Connection, job: JobId, until: Until, limit: Option<Duration>) -> Result<Value, Failure> {
    let job = find(on, job, Reach::Administer)?;
    let reached = async {
        match until {
            Until::Exited => job.exited().await.map(drop),
            Until::Closed => job.closed().await.map(drop),
        }
    };
    match limit {
        None => reached.await?,
        // What it is when the time is over is the answer, whether it has come so far or not.
        Some(limit) => timeout(limit, reached).await.unwrap_or(Ok(()))?,
    }
    Ok(views::job(&job).value())
}
