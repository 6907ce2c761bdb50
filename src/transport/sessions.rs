//! The session methods.

use std::sync::Arc;

use crate::domain::{EndReason, Failure, SessionId};
use crate::rpc::method::SessionOpen;
use crate::rpc::{Value, view};
use crate::session::{Reach, Session, SessionRequest};

use super::connection::Connection;
use super::dispatch::Outcome;
use super::views;

pub(super) async fn open(on: &Connection, open: SessionOpen) -> Result<Outcome, Failure> {
    let request =
        SessionRequest { labels: open.labels, detach: open.detach.then_some(open.detach_ttl), key: open.key };
    let opened = on.core.open(&on.caller, request, &on.link).await?;
    Ok(views::session(&opened.session).opened().into())
}

pub(super) async fn attach(on: &Connection, session: SessionId, takeover: bool) -> Result<Outcome, Failure> {
    let session = find(on, session, Reach::Own)?;
    let attached = session.attach(&on.link, takeover).await?;
    let shown = attached.jobs.iter().map(|job| views::job(job).value());
    let unended = attached.jobs.iter().filter(|job| job.state().closed.is_none());
    let follow = unended.filter(|job| on.mute((*job).clone(), 1)).map(|job| job.card.id).collect();
    Ok(Outcome::following(view::session_attached(session.card.id, shown), follow))
}

pub(super) fn list(on: &Connection) -> Value {
    let sessions = on.core.registry.sessions(&on.caller.principal);
    view::list("sessions", sessions.iter().map(|s| views::session(s).value()))
}

pub(super) fn get(on: &Connection, session: SessionId) -> Result<Value, Failure> {
    find(on, session, Reach::Administer).map(|s| views::session(&s).value())
}

pub(super) async fn close(on: &Connection, session: SessionId) -> Result<Value, Failure> {
    let closed = find(on, session, Reach::Administer)?.close(EndReason::Killed, "closed").await?;
    Ok(view::session_closed(closed.jobs, closed.survivors))
}

/// The named session, or the connection's own, made by the first call that needs it: one that was taken over is another's.
pub(super) async fn named_or_default(
    on: &Connection,
    session: Option<SessionId>,
) -> Result<Arc<Session>, Failure> {
    if let Some(session) = session {
        return find(on, session, Reach::Own);
    }
    let mut default = on.default_session.lock().await;
    if let Some(open) = default.as_ref().filter(|session| is_own(on, session)) {
        return Ok(open.clone());
    }
    let opened = on.core.open(&on.caller, SessionRequest::default(), &on.link).await?;
    Ok(default.insert(opened.session).clone())
}

/// The named session, or the connection's own if it has been made.
pub(super) async fn named_or_there(
    on: &Connection,
    session: Option<SessionId>,
) -> Result<Option<Arc<Session>>, Failure> {
    match session {
        Some(session) => find(on, session, Reach::Own).map(Some),
        None => Ok(on.default_session.lock().await.clone().filter(|session| is_own(on, session))),
    }
}

fn is_own(on: &Connection, session: &Session) -> bool {
    session.state().is_open() && on.link.owns(session.card.id)
}

fn find(on: &Connection, session: SessionId, reach: Reach) -> Result<Arc<Session>, Failure> {
    on.core.registry.session(session, &on.caller.principal, reach)
}
