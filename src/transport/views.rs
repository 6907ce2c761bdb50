//! Sessions and jobs as the protocol shows them.

use crate::rpc::view::{self, JobView, ServerInfo, SessionView};
use crate::rpc::{Value, method};
use crate::session::{Job, Session};

use super::connection::Connection;

pub(super) fn job(job: &Job) -> JobView<'_> {
    let (card, state) = (&job.card, job.state());
    JobView {
        id: card.id,
        session: card.session,
        owner: &card.owner,
        argv: &card.argv.argv,
        argv_cut: !card.argv.is_whole,
        labels: &card.labels,
        pid: card.pid,
        started_at: card.started_at,
        decision: card.decision,
        paused: state.paused.map(|p| p.exact),
        exited: state.exited.map(|e| (e.status, e.reason)),
        closed: state.closed.map(|c| (c.survivors, c.reason, c.usage)),
        streams: job.output.status().into_iter().map(|s| (s.stream, s.oldest, s.next)).collect(),
    }
}

pub(super) fn session(session: &Session) -> SessionView<'_> {
    let (card, state) = (&session.card, session.state());
    SessionView {
        id: card.id,
        owner: &card.owner,
        labels: &card.labels,
        grant: &card.grant,
        detach: card.detach,
        decision: card.decision,
        opened_at: card.opened_at,
        attached: state.attached,
        jobs: state.jobs,
    }
}

pub(super) fn server_info(on: &Connection) -> Value {
    let settings = &on.settings;
    let most = on.core.ceilings.load();
    let limits = [
        ("message_bytes", settings.max_message as u64),
        ("payload_bytes", crate::rpc::frame::MAX_PAYLOAD as u64),
        ("outstanding", settings.max_outstanding as u64),
        ("requests_per_second", settings.requests_per_second.into()),
        ("sessions", most.sessions.into()),
        ("jobs", most.jobs.into()),
        ("command_bytes", method::MAX_COMMAND_BYTES as u64),
        ("command_items", method::MAX_COMMAND_ITEMS as u64),
    ];
    ServerInfo {
        version: env!("CARGO_PKG_VERSION"),
        epoch: &on.core.epoch,
        principal: &on.caller.principal,
        containment: on.core.rooms.warden.containment(),
        limits: &limits,
    }
    .value()
}

pub(super) fn policies(on: &Connection) -> Value {
    let policies = on.core.rooms.policies.list();
    let shown = policies
        .iter()
        .map(|p| view::policy(&p.name, &p.module, &p.version, &p.hooks, &p.digest, p.mode))
        .collect();
    let status = on.core.rooms.policies.status();
    let failed = status.failed.as_ref().map(|failed| (failed.at, failed.why.as_str()));
    view::policies(shown, status.generation, status.since, status.failures, failed)
}
