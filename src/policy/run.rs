//! One call of one guest: a fresh instance, the call, and what went wrong with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use wasmtime::component::Instance;
use wasmtime::{Store, Trap};

use crate::domain::{Charge, Origin, Principal, Resolved, SessionId, UsageCounts};
use crate::verdict::{Admission, Broken, Denial, Fault, Permission, Verdict};

use super::convert::{self, Nonsense};
use super::engine::{Bounds, Guest, Machine};
use super::load::Ready;

/// A call that rate policies are asked about.
#[derive(Debug, Clone)]
pub struct Call {
    /// Who.
    pub principal: Arc<Principal>,
    /// From where.
    pub origin: Origin,
    /// `session.open` or `job.start`.
    pub method: &'static str,
    /// The program, as the client wrote it.
    pub program: Option<String>,
}

/// A command that command policies are asked about.
#[derive(Debug, Clone)]
pub struct CommandRequest {
    /// Who.
    pub principal: Arc<Principal>,
    /// From where.
    pub origin: Origin,
    /// In which session.
    pub session: SessionId,
    /// What, with its facts.
    pub resolved: Resolved,
    /// The session's labels with the job's on top.
    pub labels: BTreeMap<String, String>,
    /// What is in use; advice.
    pub usage: UsageCounts,
}

/// A session that session policies are asked about.
#[derive(Debug, Clone)]
pub struct SessionRequest {
    /// Who.
    pub principal: Arc<Principal>,
    /// From where.
    pub origin: Origin,
    /// The id it would have.
    pub session: SessionId,
    /// The client's labels.
    pub labels: BTreeMap<String, String>,
    /// What is in use; advice.
    pub usage: UsageCounts,
}

/// When a decision is made, UTC.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) unix_ms: u64,
    /// 1 is Monday.
    pub(super) weekday: u8,
    pub(super) minute_of_day: u16,
}

impl Moment {
    pub(super) fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
        // 1970-01-01 was a Thursday.
        let weekday = u8::try_from((days + 3) % 7 + 1).unwrap_or(1);
        let minute_of_day = u16::try_from(seconds / 60).unwrap_or(0);
        Self { unix_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX), weekday, minute_of_day }
    }
}

/// Asks one policy about a command. `None`: it has no such hook.
pub(super) fn review(
    machine: &Machine,
    ready: &Ready,
    bounds: Bounds,
    grants: &[String],
    request: &CommandRequest,
    moment: Moment,
) -> Option<(Result<Verdict<Permission>, Broken>, Duration)> {
    let hook = ready.hooks.command.as_ref()?;
    let ask = |store: &mut Store<Guest>, instance: &Instance| {
        let guest = hook.load(&mut *store, instance)?;
        guest.call_review(store, &convert::command_request(request, grants, moment))
    };
    Some(call(machine, ready, bounds, ask, convert::command_verdict))
}

/// Asks one policy about a session. `None`: it has no such hook.
pub(super) fn admit(
    machine: &Machine,
    ready: &Ready,
    bounds: Bounds,
    request: &SessionRequest,
    moment: Moment,
) -> Option<(Result<Verdict<Admission>, Broken>, Duration)> {
    let hook = ready.hooks.session.as_ref()?;
    let ask = |store: &mut Store<Guest>, instance: &Instance| {
        let guest = hook.load(&mut *store, instance)?;
        guest.call_admit(store, &convert::session_request(request, moment))
    };
    Some(call(machine, ready, bounds, ask, convert::session_verdict))
}

/// Asks one policy what a call costs. `None`: it has no such hook.
pub(super) fn charge(
    machine: &Machine,
    ready: &Ready,
    bounds: Bounds,
    request: &Call,
    moment: Moment,
) -> Option<Result<Result<Vec<Charge>, Denial>, Broken>> {
    let hook = ready.hooks.rate.as_ref()?;
    let ask = |store: &mut Store<Guest>, instance: &Instance| {
        let guest = hook.load(&mut *store, instance)?;
        guest.call_charge_for(store, &convert::call(request, moment))
    };
    Some(call(machine, ready, bounds, ask, convert::charges).0)
}

/// A fresh instance, one question, and the answer made sense of. The store is dropped whatever happened.
fn call<A, T>(
    machine: &Machine,
    ready: &Ready,
    bounds: Bounds,
    ask: impl FnOnce(&mut Store<Guest>, &Instance) -> wasmtime::Result<A>,
    read: impl FnOnce(A) -> Result<T, Nonsense>,
) -> (Result<T, Broken>, Duration) {
    let started = Instant::now();
    let mut store = machine.store(bounds);
    let answer = instantiate(&mut store, ready).and_then(|instance| ask(&mut store, &instance));
    let outcome = match answer {
        Ok(answer) => read(answer).map_err(|nonsense| Broken { fault: Fault::BadAnswer, detail: nonsense.0 }),
        Err(error) => Err(broken(&store, &error)),
    };
    (outcome, started.elapsed())
}

fn instantiate(store: &mut Store<Guest>, ready: &Ready) -> wasmtime::Result<Instance> {
    let instance = ready.pre.instantiate(&mut *store)?;
    if let Some(settings) = &ready.configure {
        let plugin = ready.hooks.plugin.load(&mut *store, &instance)?;
        if plugin.call_configure(store, settings)?.is_err() {
            wasmtime::bail!("it refused the settings it had accepted");
        }
    }
    Ok(instance)
}

/// What kind of fault an error is. What the host saw go wrong comes first: a guest that is refused memory traps.
fn broken(store: &Store<Guest>, error: &wasmtime::Error) -> Broken {
    let fault = match (store.data().fault, error.downcast_ref::<Trap>()) {
        (Some(fault), _) => fault,
        (None, Some(_)) => Fault::Trap,
        // An answer that cannot be lifted: pointers out of bounds, text that is not UTF-8, unknown cases.
        (None, None) => Fault::BadAnswer,
    };
    Broken { fault, detail: format!("{error:#}") }
}
