//! The memory bound: computed at start, printed, and held.
//!
//! What is measured is the gateway's own resident memory, not the host's pressure, which a tenant could cause. Near the
//! bound new sessions are refused, then connections; what runs goes on, and is what gives memory back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::audit;
use crate::policy;
use crate::session::{Core, Pressure};

use super::setup::Setup;

/// How often resident memory is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// From this part of the bound on, in percent, no new sessions.
const NO_SESSIONS: u64 = 92;
/// From this part of the bound on, in percent, no new connections.
const NO_CONNECTIONS: u64 = 95;
/// An idle session: its task, its entries in tables, its connection's tasks.
const SESSION: u64 = 32 << 10;
/// An ended job besides its tails: the beginning of its command, its labels, its entries in tables.
const ENDED: u64 = 16 << 10;
/// Buffers of a connection besides one message: reading, writing, TLS.
const BUFFERS: u64 = 8 << 10 | 256 << 10;

/// Resident memory of this process, bytes (proc(5): the second number of statm, in pages).
pub(super) fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages.saturating_mul(u64::try_from(page).ok()?))
}

/// What all that the limits allow can take at once, bytes; what the process takes when it has started comes on top.
pub(super) fn allowed(setup: &Setup) -> u64 {
    let (session, transport) = (&setup.session, &setup.transport);
    let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let connection = number(transport.max_message).saturating_add(BUFFERS);
    // Two streams, each with its tail.
    let ended = u64::from(session.streams.tail_bytes).saturating_mul(2).saturating_add(ENDED);
    let guests = setup.policy.policies.iter().map(|policy| policy.memory).max().unwrap_or_default();
    [
        session.streams.budget,
        connection.saturating_mul(number(transport.max_connections)),
        SESSION.saturating_mul(setup.ceilings.sessions.into()),
        guests.saturating_add(number(policy::ANSWER)).saturating_mul(number(setup.policy.pool)),
        number(audit::MAX_WAITING),
        ended.saturating_mul(number(session.kept.most)),
    ]
    .into_iter()
    .fold(0, u64::saturating_add)
}

/// Looks at resident memory and sets the pressure. Ends with the server.
pub(super) async fn watch(core: Arc<Core>, stop: CancellationToken) {
    let mut every = interval(LOOK);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Pressure::None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {}
        }
        let Some(resident) = resident() else { continue };
        let bound = core.memory.bound.load(Ordering::Relaxed).max(1);
        let pressure = match resident.saturating_mul(100) / bound {
            NO_CONNECTIONS.. => Pressure::NoConnections,
            NO_SESSIONS.. => Pressure::NoSessions,
            _ => Pressure::None,
        };
        core.memory.resident.store(resident, Ordering::Relaxed);
        core.memory.set_pressure(pressure);
        if pressure != last {
            tracing::warn!(?pressure, resident, bound, "memory pressure changed");
            last = pressure;
        }
    }
}
