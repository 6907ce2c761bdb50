//! One call of one guest: a fresh instance, the call, and what went wrong with it.

use std::time::{Duration, Instant};

use wasmtime::component::Instance;
use wasmtime::{Store, Trap};

use crate::domain::Charge;
use crate::verdict::{Admission, Broken, Fault, Permission, Verdict};

use super::bindings::exports::execgate::policy::{command, rate, session};
use super::convert::{self, Nonsense};
use super::engine::{Bounds, Guest, Machine};
use super::load::Ready;

/// What a policy said, or how it broke; and how long it took.
pub(super) type Said<P> = (Result<Verdict<P>, Broken>, Duration);

/// Asks one policy about a command. `None`: it has no such hook.
pub(super) fn review(
    machine: &Machine,
    ready: &Ready,
    bounds: Bounds,
    request: &command::CommandRequest,
) -> Option<Said<Permission>> {
    let hook = ready.hooks.command.as_ref()?;
    let ask = |store: &mut Store<Guest>, instance: &Instance| {
        let guest = hook.load(&mut *store, instance)?;
        guest.call_review(store, request)
    };
    Some(call(machine, ready, bounds, ask, convert::command_verdict))
}

/// Asks one policy about a session. `None`: it has no such hook.
pub(super) fn admit(
    machine: &Machine,
    ready: &Ready,
    bounds: Bounds,
    request: &session::SessionRequest,
) -> Option<Said<Admission>> {
    let hook = ready.hooks.session.as_ref()?;
    let ask = |store: &mut Store<Guest>, instance: &Instance| {
        let guest = hook.load(&mut *store, instance)?;
        guest.call_admit(store, request)
    };
    Some(call(machine, ready, bounds, ask, convert::session_verdict))
}

/// Asks one policy what a call costs. `None`: it has no such hook.
pub(super) fn charge(
    machine: &Machine,
    ready: &Ready,
    bounds: Bounds,
    request: &rate::Call,
) -> Option<Said<Vec<Charge>>> {
    let hook = ready.hooks.rate.as_ref()?;
    let ask = |store: &mut Store<Guest>, instance: &Instance| {
        let guest = hook.load(&mut *store, instance)?;
        guest.call_charge_for(store, request)
    };
    Some(call(machine, ready, bounds, ask, convert::charges))
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
