//! `/livez` and `/readyz`.
//!
//! Alive means that the event loop turns. Ready means that a process was really spawned, spoke, exited and was
//! reaped within the last second, and that nothing else stands in the way. One probe at a time serves everybody who
//! asks: asking often costs nothing more.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::domain::Authority;
use crate::session::{Core, Pressure};

use super::auth::Identified;
use super::caller::Peer;
use super::router::{Gateway, text};

/// The event loop stalls when it was silent for so long.
const STALLED: Duration = Duration::from_secs(5);

/// How long a probe's answer stands.
const FRESH: Duration = Duration::from_secs(1);

/// When the event loop last turned. Set by a task, read by others.
#[derive(Debug)]
pub struct Pulse {
    start: std::time::Instant,
    last_ms: AtomicU64,
    limit: Duration,
}

impl Default for Pulse {
    /// With the usual patience.
    fn default() -> Self {
        Self::with_limit(STALLED)
    }
}

impl Pulse {
    /// A pulse that stands still once it was silent for so long.
    pub fn with_limit(limit: Duration) -> Self {
        Self { start: std::time::Instant::now(), last_ms: AtomicU64::new(0), limit }
    }

    /// The event loop turns.
    pub fn beat(&self) {
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(ms, Ordering::Relaxed);
    }

    /// How long ago it last did.
    pub fn silent_for(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.last_ms.load(Ordering::Relaxed)))
    }

    /// Whether that is not too long.
    pub fn is_fresh(&self) -> bool {
        self.silent_for() < self.limit
    }
}

/// The last probe, and the way to the next.
#[derive(Debug, Default)]
pub struct Health {
    // Held for a look, never across an await. The probe is a task of its own, so that it is single flight and counts, whoever
    // of those who wait for its answer has left.
    last: Mutex<Option<Answer>>,
}

/// `None` while the probe is under way.
type Answer = watch::Receiver<Option<Probe>>;

#[derive(Debug, Clone)]
struct Probe {
    at: Instant,
    outcome: Result<Duration, String>,
}

/// What stands between this server and new work, component by component.
#[derive(Debug, Clone)]
pub struct Components(Vec<(&'static str, Result<String, String>)>);

impl Components {
    /// Every component is well.
    pub fn is_ready(&self) -> bool {
        self.0.iter().all(|(_, outcome)| outcome.is_ok())
    }
}

impl Health {
    /// Looks at every component; spawns a probe when the last one is older than a second.
    pub async fn look(&self, core: &Arc<Core>) -> Components {
        let spawn = match self.probe(core).await {
            Ok(took) => Ok(format!("{} us", took.as_micros())),
            Err(why) => Err(why),
        };
        let (sessions, jobs) = core.registry.alive();
        let most = core.ceilings.load();
        let room = (jobs as u64) < u64::from(most.jobs)
            && (sessions as u64) < u64::from(most.sessions)
            && core.memory.pressure() == Pressure::None;
        let load = format!("{sessions} sessions, {jobs} jobs");
        Components(vec![
            ("spawn", spawn),
            (
                "warden",
                if core.rooms.warden.is_gone() { Err("gone".to_owned()) } else { Ok("serving".to_owned()) },
            ),
            ("policies", Ok(policies(core))),
            ("audit", core.rooms.audit.health()),
            ("capacity", if room { Ok(load) } else { Err(format!("full: {load}")) }),
            ("breakers", breakers(core)),
            ("drain", if core.is_leaving() { Err("draining".to_owned()) } else { Ok("no".to_owned()) }),
        ])
    }

    async fn probe(&self, core: &Arc<Core>) -> Result<Duration, String> {
        let mut answer = self.answer(core);
        let broke_off = || Err("the probe broke off".to_owned());
        let probe = answer.wait_for(Option::is_some).await.ok().and_then(|probe| probe.clone());
        probe.map_or_else(broke_off, |probe| probe.outcome)
    }

    /// The answer of a probe that is fresh or under way, else of one that begins now.
    fn answer(&self, core: &Arc<Core>) -> Answer {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = last.as_ref().filter(|answer| stands(answer)) {
            return answer.clone();
        }
        let (done, answer) = watch::channel(None);
        let core_of_probe = core.clone();
        core.tracker.spawn(async move {
            let outcome = core_of_probe.rooms.warden.probe().await.map_err(|e| e.to_string());
            match &outcome {
                Ok(_) => core_of_probe.rooms.breaker.success(),
                Err(_) => core_of_probe.rooms.breaker.failure(None),
            }
            done.send_replace(Some(Probe { at: Instant::now(), outcome }));
        });
        *last = Some(answer.clone());
        answer
    }
}

fn stands(answer: &Answer) -> bool {
    match answer.borrow().as_ref() {
        Some(probe) => probe.at.elapsed() < FRESH,
        // A probe that broke off answers nobody.
        None => answer.has_changed().is_ok(),
    }
}

fn breakers(core: &Core) -> Result<String, String> {
    let open: Vec<_> = [&core.rooms.breaker, &core.rooms.audit_breaker]
        .into_iter()
        .filter(|breaker| !breaker.is_closed())
        .map(|breaker| format!("{}: open", breaker.kept().as_str()))
        .collect();
    if open.is_empty() { Ok("closed".to_owned()) } else { Err(open.join(", ")) }
}

/// A generation is in force, whatever became of attempts to replace it; those are told too.
fn policies(core: &Core) -> String {
    let status = core.rooms.policies.status();
    match status.failed {
        None => format!("generation {}", status.generation),
        Some(failed) => format!("generation {}; a reload failed: {}", status.generation, failed.why),
    }
}

/// `GET /livez`: whether the event loop turns, and nothing else.
pub(super) async fn livez(State(gateway): State<Gateway>) -> Response {
    match gateway.pulse.is_fresh() {
        true => text(StatusCode::OK, "ok"),
        false => text(StatusCode::SERVICE_UNAVAILABLE, "the event loop stalls"),
    }
}

/// `GET /readyz`: 200 when every component is well, else 503. Which is not, and why, is for admins and those who come in by
/// the admin's door: it tells how busy and how broken the server is.
pub(super) async fn readyz(
    State(gateway): State<Gateway>,
    Extension(peer): Extension<Peer>,
    caller: Result<Identified, Response>,
) -> Response {
    let components = gateway.health.look(&gateway.core).await;
    let status = if components.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let shown: &[_] = if may_look_inside(&peer, caller.as_ref().ok()) { &components.0 } else { &[] };
    (status, Json(crate::rpc::health(components.is_ready(), shown))).into_response()
}

/// Whether numbers and reasons are shown to whom asks.
pub(super) fn may_look_inside(peer: &Peer, caller: Option<&Identified>) -> bool {
    peer.admin_door || caller.is_some_and(|caller| caller.principal.authority == Authority::Admin)
}
