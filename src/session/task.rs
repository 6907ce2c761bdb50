//! The session's own task: job table, keys, ownership, and the end.
//!
//! Owned by the core's tracker. Ends when the session is closed and every tree of it is empty. It awaits only its
//! mailbox, its timers and the ends of its jobs' tasks.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::{Instrument as _, Span};

use crate::domain::{
    Claim, ConnectionId, DecisionId, EndReason, Failure, Principal, SessionGrant, SessionId,
};
use crate::quota::Slot;

use super::start::{self, Asked, StartCell};
use super::{Admission, Core, Ending, Job, Link, News};

/// Requests waiting for one session: each connection has a bounded number outstanding, so this is never full for
/// long.
const MAILBOX: usize = 64;

/// What is fixed about a session.
#[derive(Debug, Clone)]
pub struct Card {
    /// The session.
    pub id: SessionId,
    /// Whose it is.
    pub owner: Arc<Principal>,
    /// The client's labels.
    pub labels: BTreeMap<String, String>,
    /// What it may do.
    pub grant: SessionGrant,
    /// What policy claimed for every job of it.
    pub job_claims: Vec<Claim>,
    /// How long it lives on without a connection; `None` ends it with its connection.
    pub detach: Option<Duration>,
    /// When it was opened.
    pub opened_at: SystemTime,
    /// The decision that admitted it.
    pub decision: DecisionId,
}

/// What is so about a session now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionState {
    /// A connection owns it.
    pub attached: bool,
    /// It is being closed, and why.
    pub closing: Option<EndReason>,
    /// Jobs whose tree is not empty.
    pub jobs: u32,
}

impl SessionState {
    /// Whether jobs may still be started.
    pub const fn is_open(&self) -> bool {
        self.closing.is_none()
    }
}

/// A session as others hold it.
#[derive(Debug)]
pub struct Session {
    /// What is fixed about it.
    pub card: Card,
    mailbox: mpsc::Sender<Request>,
    state: watch::Receiver<SessionState>,
}

/// The answer to an attach.
#[derive(Debug, Clone)]
pub struct Attached {
    /// The session's jobs, ended ones included.
    pub jobs: Vec<Arc<Job>>,
}

/// The answer to a close.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionClosed {
    /// Jobs that were ended by it.
    pub jobs: u32,
    /// Processes that the kernel would not give up.
    pub survivors: u32,
}

#[derive(Debug)]
enum Request {
    Start {
        asked: Box<Asked>,
        /// Of the request that asks, so that every line about the job names it.
        span: Span,
        reply: oneshot::Sender<Result<StartCell, Failure>>,
    },
    Attach {
        link: Arc<Link>,
        takeover: bool,
        reply: oneshot::Sender<Result<Attached, Failure>>,
    },
    Close {
        reason: EndReason,
        word: &'static str,
        reply: Option<oneshot::Sender<SessionClosed>>,
    },
    Disconnect(Arc<Link>),
    Review,
    Started {
        job: Arc<Job>,
        asker: ConnectionId,
    },
}

impl Session {
    /// What is so now.
    pub fn state(&self) -> SessionState {
        *self.state.borrow()
    }

    /// Starts a job; [`Core::start_job`] is the way to it.
    pub(super) async fn start(&self, asked: Asked) -> Result<Arc<Job>, Failure> {
        let (reply, answer) = oneshot::channel();
        let (asked, span) = (Box::new(asked), Span::current());
        self.send(Request::Start { asked, span, reply }).await?;
        let mut cell = answer.await.map_err(|_| Failure::NotFound("session"))??;
        let outcome = cell.wait_for(Option::is_some).await;
        match outcome.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            Ok(None) | Err(_) => Err(Failure::Internal("the start broke off".to_owned())),
        }
    }

    /// Makes the connection the owner.
    ///
    /// # Errors
    /// [`Failure::Conflict`] while another connection owns it and `takeover` is false.
    pub async fn attach(&self, link: &Arc<Link>, takeover: bool) -> Result<Attached, Failure> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Attach { link: link.clone(), takeover, reply }).await?;
        answer.await.map_err(|_| Failure::NotFound("session"))?
    }

    /// Closes the session and waits until every tree is empty.
    ///
    /// # Errors
    /// [`Failure::NotFound`] when it is gone already.
    pub async fn close(&self, reason: EndReason, word: &'static str) -> Result<SessionClosed, Failure> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Close { reason, word, reply: Some(reply) }).await?;
        answer.await.map_err(|_| Failure::NotFound("session"))
    }

    /// Closes the session without waiting for it.
    pub async fn end(&self, reason: EndReason, word: &'static str) {
        // A session that is gone has nothing left to end.
        let _ = self.send(Request::Close { reason, word, reply: None }).await;
    }

    /// Tells the session that a connection is gone. Another connection's going changes nothing.
    pub async fn disconnect(&self, link: &Arc<Link>) {
        // A session that is gone has nothing left to do.
        let _ = self.send(Request::Disconnect(link.clone())).await;
    }

    /// Waits until no connection owns the session: it is detached or closing.
    pub(super) async fn left(&self) {
        // A session that is gone is left.
        let _ = self.state.clone().wait_for(|state| !state.attached || !state.is_open()).await;
    }

    /// Has the session end if it is detached and what its last owner was admitted with stands no more. An owner that is there
    /// watches over that itself.
    pub async fn review(&self) {
        // A session that is gone has nothing left to end.
        let _ = self.send(Request::Review).await;
    }

    /// Tells the session that a job which this connection asked for has started: whoever owns the session by now hears of it.
    pub(super) async fn started(&self, job: Arc<Job>, asker: ConnectionId) {
        // A session that is gone ends its jobs by itself.
        let _ = self.send(Request::Started { job, asker }).await;
    }

    async fn send(&self, request: Request) -> Result<(), Failure> {
        self.mailbox.send(request).await.map_err(|_| Failure::NotFound("session"))
    }
}

/// Starts the task of an admitted session.
pub(super) fn spawn(core: &Arc<Core>, card: Card, link: Arc<Link>, slot: Slot) -> Arc<Session> {
    let (mailbox, requests) = mpsc::channel(MAILBOX);
    let state = watch::Sender::new(SessionState { attached: true, ..SessionState::default() });
    let session = Arc::new(Session { card: card.clone(), mailbox, state: state.subscribe() });
    core.registry.add_session(session.clone());
    let now = Instant::now();
    let task = Task {
        core: core.clone(),
        expires: card.grant.max_duration.map(|d| now + d),
        card,
        requests,
        state,
        tenure: Tenure::Attached(link),
        starts: HashMap::new(),
        jobs: JoinSet::new(),
        last_busy: now,
        closing: None,
        _slot: slot,
    };
    core.tracker.spawn(task.run());
    session
}

/// Who owns the session.
enum Tenure {
    Attached(Arc<Link>),
    Detached { until: Instant, admission: Arc<dyn Admission> },
}

struct Closing {
    reason: EndReason,
    word: &'static str,
    ended: u32,
    replies: Vec<oneshot::Sender<SessionClosed>>,
}

struct Task {
    core: Arc<Core>,
    card: Card,
    requests: mpsc::Receiver<Request>,
    state: watch::Sender<SessionState>,
    tenure: Tenure,
    /// By key: what was asked, and the start it led to.
    starts: HashMap<String, (start::Digest, StartCell)>,
    jobs: JoinSet<u32>,
    expires: Option<Instant>,
    last_busy: Instant,
    closing: Option<Closing>,
    /// Counts against the limits until the task ends.
    _slot: Slot,
}

impl Task {
    async fn run(mut self) {
        let mut survivors = 0;
        while self.closing.is_none() || !self.jobs.is_empty() {
            let deadline = self.deadline();
            tokio::select! {
                Some(request) = self.requests.recv() => self.handle(request),
                Some(ended) = self.jobs.join_next() => survivors += self.job_ended(ended),
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => self.expire(),
            }
        }
        self.finish(survivors);
    }

    fn handle(&mut self, request: Request) {
        if !matches!(request, Request::Review) {
            self.last_busy = Instant::now();
        }
        match request {
            Request::Start { asked, span, reply } => {
                // Nobody waits for the answer of a caller that is gone.
                let _ = reply.send(self.start(*asked, span));
            }
            Request::Attach { link, takeover, reply } => {
                let _ = reply.send(self.attach(link, takeover));
            }
            Request::Close { reason, word, reply } => self.close(reason, word, reply),
            Request::Disconnect(link) => self.disconnect(&link),
            Request::Review => match &self.tenure {
                Tenure::Detached { admission, .. } if !admission.stands() => {
                    self.close(EndReason::Disconnect, "expired", None);
                }
                Tenure::Detached { .. } | Tenure::Attached(_) => {}
            },
            Request::Started { job, asker } => match &self.tenure {
                Tenure::Attached(owner) if owner.id() == asker => {}
                Tenure::Attached(owner) => {
                    job.output.change_hands(None);
                    owner.tell(News::Follow(job));
                }
                Tenure::Detached { .. } => job.output.change_hands(None),
            },
        }
    }

    fn start(&mut self, asked: Asked, span: Span) -> Result<StartCell, Failure> {
        if self.closing.is_some() {
            return Err(Failure::NotFound("session"));
        }
        if !self.is_owner(asked.asker) {
            return Err(Failure::Conflict(
                "another connection owns the session; take it over first".to_owned(),
            ));
        }
        let Some(key) = asked.request.key.clone() else {
            return Ok(self.begin(asked, span));
        };
        let digest = asked.request.digest();
        if let Some((earlier, cell)) = self.starts.get(&key)
            && is_of_use(cell, &self.core, &self.card.owner)
        {
            return match *earlier == digest {
                true => Ok(cell.clone()),
                false => Err(Failure::Conflict(format!("key {key:?} was used with other parameters"))),
            };
        }
        self.forget_dead_keys();
        let cell = self.begin(asked, span);
        self.starts.insert(key, (digest, cell.clone()));
        Ok(cell)
    }

    fn begin(&mut self, asked: Asked, span: Span) -> StartCell {
        let (outcome, cell) = watch::channel(None);
        let job = start::job(self.core.clone(), self.card.clone(), asked, self.state.subscribe(), outcome);
        self.jobs.spawn(self.core.tracker.track_future(job.instrument(span)));
        self.publish();
        cell
    }

    /// A key lives as long as its job is kept.
    fn forget_dead_keys(&mut self) {
        let (core, owner) = (&self.core, &self.card.owner);
        self.starts.retain(|_, (_, cell)| is_of_use(cell, core, owner));
    }

    fn attach(&mut self, link: Arc<Link>, takeover: bool) -> Result<Attached, Failure> {
        if self.closing.is_some() {
            return Err(Failure::NotFound("session"));
        }
        match &self.tenure {
            Tenure::Attached(owner) if owner.id() == link.id() => return Ok(self.attached()),
            Tenure::Attached(_) if !takeover => {
                return Err(Failure::Conflict(
                    "another connection owns the session; say `takeover` to take it".to_owned(),
                ));
            }
            Tenure::Attached(_) | Tenure::Detached { .. } => {}
        }
        let here = self.core.registry.session(self.card.id, &self.card.owner, super::Reach::Own)?;
        if !link.own(here) {
            return Err(Failure::NotFound("connection"));
        }
        // Only now: a connection that took it and was gone already would leave a session that nobody ends.
        if let Tenure::Attached(owner) = &self.tenure {
            owner.tell(News::Lost(self.card.id));
            self.hand_over(owner);
        }
        self.tenure = Tenure::Attached(link);
        self.publish();
        Ok(self.attached())
    }

    /// A connection that lost the session must not hold its jobs back, however long it takes to hear of it.
    fn hand_over(&self, from: &Link) {
        for job in self.core.registry.jobs(&self.card.owner, Some(self.card.id)) {
            job.output.change_hands(Some(from.wake()));
        }
    }

    fn attached(&self) -> Attached {
        Attached { jobs: self.core.registry.jobs(&self.card.owner, Some(self.card.id)) }
    }

    fn disconnect(&mut self, link: &Arc<Link>) {
        if !self.is_owner(link.id()) {
            return;
        }
        match self.card.detach {
            // A reload may have looked for detached sessions just before this one was.
            Some(_) if !link.admission.stands() => self.close(EndReason::Disconnect, "expired", None),
            Some(ttl) => {
                let admission = link.admission.clone();
                self.tenure = Tenure::Detached { until: Instant::now() + ttl, admission };
                self.hand_over(link);
            }
            None => self.close(EndReason::Disconnect, "disconnect", None),
        }
        self.publish();
    }

    fn close(
        &mut self,
        reason: EndReason,
        word: &'static str,
        reply: Option<oneshot::Sender<SessionClosed>>,
    ) {
        let alive = self.alive();
        let closing = self.closing.get_or_insert(Closing { reason, word, ended: alive, replies: Vec::new() });
        closing.replies.extend(reply);
        self.publish();
        self.end_jobs();
    }

    /// Ends every job that has started; one that is still starting sees the closing session by itself.
    fn end_jobs(&self) {
        let Some(closing) = &self.closing else { return };
        for job in self.core.registry.jobs(&self.card.owner, Some(self.card.id)) {
            job.end(Ending::kill(closing.reason));
        }
    }

    fn job_ended(&mut self, ended: Result<u32, tokio::task::JoinError>) -> u32 {
        // A session is idle from the end of its last job on.
        self.last_busy = Instant::now();
        self.publish();
        match ended {
            Ok(survivors) => survivors,
            Err(broken) => {
                metrics::counter!("execgate_task_panics_total").increment(1);
                tracing::error!(session = %self.card.id, error = %broken, "a job's task broke: closing the session");
                self.close(EndReason::ServerFault, "server_fault", None);
                0
            }
        }
    }

    /// The next moment at which the session may end by itself.
    fn deadline(&self) -> Option<Instant> {
        if self.closing.is_some() {
            return None;
        }
        let idle = self.card.grant.idle.filter(|_| self.jobs.is_empty()).map(|d| self.last_busy + d);
        let detached = match &self.tenure {
            Tenure::Attached(_) => None,
            Tenure::Detached { until, .. } => Some(*until),
        };
        [self.expires, idle, detached].into_iter().flatten().min()
    }

    fn expire(&mut self) {
        let now = Instant::now();
        let (reason, word) = match (&self.tenure, self.expires) {
            (_, Some(expires)) if expires <= now => (EndReason::Timeout, "expired"),
            (Tenure::Detached { until, .. }, _) if *until <= now => (EndReason::Disconnect, "disconnect"),
            _ => (EndReason::Timeout, "idle"),
        };
        self.close(reason, word, None);
    }

    fn finish(self, survivors: u32) {
        self.core.registry.remove_session(self.card.id);
        let Some(closing) = self.closing else { return };
        if let Tenure::Attached(link) = &self.tenure {
            link.tell(News::Closed { session: self.card.id, reason: closing.word });
        }
        for reply in closing.replies {
            // A caller that is gone needs no answer.
            let _ = reply.send(SessionClosed { jobs: closing.ended, survivors });
        }
        tracing::info!(session = %self.card.id, reason = closing.word, jobs = closing.ended, survivors, "session closed");
    }

    fn is_owner(&self, connection: ConnectionId) -> bool {
        matches!(&self.tenure, Tenure::Attached(owner) if owner.id() == connection)
    }

    fn alive(&self) -> u32 {
        u32::try_from(self.jobs.len()).unwrap_or(u32::MAX)
    }

    fn publish(&self) {
        let attached = matches!(self.tenure, Tenure::Attached(_));
        let state =
            SessionState { attached, closing: self.closing.as_ref().map(|c| c.reason), jobs: self.alive() };
        self.state.send_if_modified(|current| std::mem::replace(current, state) != state);
    }
}

/// Whether a repeat under the key is answered by this start: it is under way, or its job is kept still.
fn is_of_use(cell: &StartCell, core: &Core, owner: &Principal) -> bool {
    match &*cell.borrow() {
        Some(outcome) => {
            outcome.as_ref().is_ok_and(|job| core.registry.job(job.card.id, owner, super::Reach::Own).is_ok())
        }
        None => cell.has_changed().is_ok(),
    }
}
