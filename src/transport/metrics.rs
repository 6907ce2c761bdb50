//! `GET /metrics`: for admins, and for those who come in by the admin's door.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ::metrics::{counter, gauge};
use axum::extract::{Extension, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use crate::session::Core;

use super::auth::Identified;
use super::caller::Peer;
use super::health::may_look_inside;
use super::router::{Gateway, text};

/// Renders the metrics; the server gives it, because the room of the metrics is above this one.
#[derive(Clone)]
pub struct Render(Arc<dyn Fn() -> String + Send + Sync>);

impl Render {
    /// By this.
    pub fn new(render: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self(Arc::new(render))
    }
}

impl std::fmt::Debug for Render {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Render")
    }
}

/// What is so now is looked up when somebody asks; what happened was counted when it did.
pub(super) async fn metrics(
    State(gateway): State<Gateway>,
    Extension(peer): Extension<Peer>,
    caller: Result<Identified, Response>,
) -> Response {
    if !may_look_inside(&peer, caller.as_ref().ok()) {
        return match caller {
            Ok(_) => text(StatusCode::FORBIDDEN, "metrics are for admins; or ask on server.admin_listen"),
            Err(refused) => refused,
        };
    }
    look(&gateway.core);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], (gateway.render.0)()).into_response()
}

fn look(core: &Core) {
    let number = |n: usize| n as f64;
    let yes = |so: bool| f64::from(u8::from(so));
    let (sessions, jobs) = core.registry.alive();
    gauge!("execgate_sessions").set(number(sessions));
    gauge!("execgate_jobs").set(number(jobs));
    let (sessions, jobs) = core.rooms.slots.held();
    gauge!("execgate_slots_sessions").set(sessions);
    gauge!("execgate_slots_jobs").set(jobs);
    for breaker in [&core.rooms.breaker, &core.rooms.audit_breaker] {
        gauge!("execgate_breaker_open", "breaker" => breaker.kept().as_str()).set(yes(!breaker.is_closed()));
    }
    gauge!("execgate_warden_up").set(yes(!core.rooms.warden.is_gone()));
    gauge!("execgate_policy_generation").set(core.rooms.policies.generation() as f64);
    gauge!("execgate_audit_ok").set(yes(core.rooms.audit.health().is_ok()));
    gauge!("execgate_audit_queue_lines").set(core.rooms.audit.waiting() as f64);
    counter!("execgate_audit_lost_total").absolute(core.rooms.audit.lost());
    gauge!("execgate_draining").set(yes(core.is_leaving()));
    let memory = &core.memory;
    gauge!("execgate_resident_bytes").set(memory.resident.load(Ordering::Relaxed) as f64);
    gauge!("execgate_memory_bound_bytes").set(memory.bound.load(Ordering::Relaxed) as f64);
    gauge!("execgate_memory_pressure").set(f64::from(memory.pressure() as u8));
}
