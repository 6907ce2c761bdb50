//! Turns: whose start is decided and made next.
//!
//! A decision and the start behind it use what all tenants share: the policies' pool, the threads that read scripts, the
//! warden's one thread. So many go on at once; who comes then waits in the queue of his tenant, and the tenants take turns,
//! so that one who floods waits for himself.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::domain::Failure;

use super::Settings;

/// When to come back after a turn that was not to be had: a queue is worked off in less.
const RETRY: Duration = Duration::from_secs(1);

/// Why there is no turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoTurn {
    /// The tenant's queue is full.
    #[error("{most} calls of the tenant wait for their turn already")]
    Crowded {
        /// How many may wait.
        most: usize,
    },
    /// It did not come in time.
    #[error("the call's turn did not come within {waited:?}")]
    Late {
        /// How long it may take.
        waited: Duration,
    },
}

impl From<NoTurn> for Failure {
    fn from(none: NoTurn) -> Self {
        Self::Unavailable { what: none.to_string(), retry_after: RETRY }
    }
}

/// The turns of all tenants. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Turns {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    // Held for a few steps on two short lists, never across an await.
    state: Mutex<State>,
    most: usize,
    most_waiting: usize,
    wait: Duration,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    /// Who waits, by tenant; no queue is empty.
    waiting: HashMap<Arc<str>, VecDeque<oneshot::Sender<()>>>,
    /// Whose turn is next: every tenant with a queue, once.
    order: VecDeque<Arc<str>>,
}

/// A turn. Dropping it gives it to the next.
#[derive(Debug)]
pub struct Turn {
    shared: Arc<Shared>,
}

/// Somebody who waits. Gives up its place, and the turn it was given and could not take.
struct Waiting {
    shared: Arc<Shared>,
    tenant: Arc<str>,
    called: oneshot::Receiver<()>,
}

impl Turns {
    /// All turns free.
    pub fn new(settings: &Settings) -> Self {
        let shared = Shared {
            state: Mutex::default(),
            most: settings.turns.max(1),
            most_waiting: settings.waiting_per_tenant,
            wait: settings.turn_wait,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Whether the tenant may wait at all; nothing is taken.
    ///
    /// # Errors
    /// [`NoTurn::Crowded`]
    pub fn look(&self, tenant: &Arc<str>) -> Result<(), NoTurn> {
        self.shared.has_place(&self.shared.state(), tenant)
    }

    /// Waits for the tenant's turn.
    ///
    /// # Errors
    /// [`NoTurn`]
    pub async fn take(&self, tenant: &Arc<str>) -> Result<Turn, NoTurn> {
        let called = {
            let mut state = self.shared.state();
            if state.taken < self.shared.most {
                state.taken += 1;
                return Ok(Turn { shared: self.shared.clone() });
            }
            self.shared.has_place(&state, tenant)?;
            let (call, called) = oneshot::channel();
            let queue = state.waiting.entry(tenant.clone()).or_default();
            queue.push_back(call);
            if queue.len() == 1 {
                state.order.push_back(tenant.clone());
            }
            called
        };
        let mut waiting = Waiting { shared: self.shared.clone(), tenant: tenant.clone(), called };
        match timeout(self.shared.wait, &mut waiting.called).await {
            Ok(_) => Ok(Turn { shared: self.shared.clone() }),
            Err(_) => Err(NoTurn::Late { waited: self.shared.wait }),
        }
    }
}

impl State {
    fn forget_those_gone(&mut self, tenant: &Arc<str>) {
        let Some(queue) = self.waiting.get_mut(tenant) else { return };
        queue.retain(|call| !call.is_closed());
        if queue.is_empty() {
            self.waiting.remove(tenant);
            self.order.retain(|next| next != tenant);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_place(&self, state: &State, tenant: &Arc<str>) -> Result<(), NoTurn> {
        match state.waiting.get(tenant).is_some_and(|queue| queue.len() >= self.most_waiting) {
            true => Err(NoTurn::Crowded { most: self.most_waiting }),
            false => Ok(()),
        }
    }

    /// Calls the next who is still there; tenants take turns.
    fn pass(&self) {
        let mut state = self.state();
        while let Some(tenant) = state.order.pop_front() {
            let Some(queue) = state.waiting.get_mut(&tenant) else { continue };
            let next = queue.pop_front();
            if queue.is_empty() {
                state.waiting.remove(&tenant);
            } else {
                state.order.push_back(tenant);
            }
            if next.is_some_and(|call| call.send(()).is_ok()) {
                return;
            }
        }
        state.taken = state.taken.saturating_sub(1);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.shared.pass();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.called.close();
        // Called and gone in the same moment: the turn must not be lost. One that was taken has been received.
        if self.called.try_recv().is_ok() {
            self.shared.pass();
        } else {
            self.shared.state().forget_those_gone(&self.tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn turns(most: usize, waiting: usize) -> Turns {
        let settings = Settings { turns: most, waiting_per_tenant: waiting, ..Settings::default() };
        Turns::new(&settings)
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_floods_waits_for_himself_and_the_other_is_next() {
        let turns = turns(1, 100);
        let (a, b) = (Arc::from("a"), Arc::from("b"));
        let held = turns.take(&a).await.unwrap();
        let mut flood: Vec<_> = (0..50).map(|_| Box::pin(turns.take(&a))).collect();
        for waiting in &mut flood {
            assert!(waiting.now_or_never().is_none());
        }
        let mut other = Box::pin(turns.take(&b));
        assert!((&mut other).now_or_never().is_none());
        drop(held);
        let first = (&mut flood[0]).now_or_never().expect("a came first").unwrap();
        drop(first);
        let second = other.now_or_never().expect("b is next, before 49 of a").unwrap();
        drop(second);
        assert!((&mut flood[1]).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_has_a_bound_and_a_wait_has_one() {
        let turns = turns(1, 1);
        let (a, b) = (Arc::from("a"), Arc::from("b"));
        let _held = turns.take(&a).await.unwrap();
        let mut waiting = Box::pin(turns.take(&a));
        assert!((&mut waiting).now_or_never().is_none());
        assert_eq!(turns.look(&a), Err(NoTurn::Crowded { most: 1 }));
        assert_eq!(turns.take(&a).await.err(), Some(NoTurn::Crowded { most: 1 }));
        assert_eq!(turns.look(&b), Ok(()));
        assert_eq!(waiting.await.err(), Some(NoTurn::Late { waited: Duration::from_secs(5) }));
        assert_eq!(turns.look(&a), Ok(()), "who waited in vain gives his place up");
        let left = turns.take(&a).now_or_never();
        assert!(left.is_none());
        assert_eq!(turns.look(&a), Ok(()), "and so does who left");
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_given_to_one_who_left_goes_to_the_next() {
        let turns = turns(1, 10);
        let a: Arc<str> = "a".into();
        let held = turns.take(&a).await.unwrap();
        let mut gone = Box::pin(turns.take(&a));
        let mut called = Box::pin(turns.take(&a));
        let mut last = Box::pin(turns.take(&a));
        for waiting in [&mut gone, &mut called, &mut last] {
            assert!(waiting.now_or_never().is_none());
        }
        drop(gone);
        drop(held);
        drop(called);
        let taken =
            last.now_or_never().expect("neither the one who left nor the one who was called keeps it");
        drop(taken);
        assert!(turns.take(&a).now_or_never().is_some());
    }
}
