//! The circuit breakers: on spawning, and on the decision log.
//!
//! ```text
//! closed ──enough failures of ours, of two tenants or the probe──> open ──rest over──> half open ──one try──> closed
//!                                                                    ^────────────────────failure──┘
//! ```
//! Only failures of ours are reported here; a client's mistakes cannot open it, and neither can one tenant alone.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::domain::Failure;

use super::Settings;

/// What a breaker keeps from being tried for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Starting processes.
    Spawning,
    /// Recording decisions.
    DecisionLog,
}

impl Kept {
    /// Its name in metrics and health.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Spawning => "spawn",
            Self::DecisionLog => "audit",
        }
    }

    const fn what(self) -> &'static str {
        match self {
            Self::Spawning => "spawning keeps failing on this host",
            Self::DecisionLog => "the decision log keeps refusing lines",
        }
    }
}

/// The breaker is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}; the next try is in {retry_after:?}", kept.what())]
pub struct Open {
    /// What it keeps.
    pub kept: Kept,
    /// When to try again.
    pub retry_after: Duration,
}

impl From<Open> for Failure {
    fn from(open: Open) -> Self {
        Self::Unavailable { what: open.kept.what().to_owned(), retry_after: open.retry_after }
    }
}

#[derive(Debug)]
enum State {
    Closed(VecDeque<Mark>),
    Open { until: Instant },
    HalfOpen { since: Instant },
}

#[derive(Debug)]
struct Mark {
    at: Instant,
    /// `None` is the probe.
    tenant: Option<Arc<str>>,
}

/// Stops something while it keeps failing.
#[derive(Debug)]
pub struct Breaker {
    kept: Kept,
    // Held for a look at a short list; never across an await.
    state: Mutex<State>,
    failures: usize,
    window: Duration,
    rest: Duration,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(kept: Kept, settings: &Settings) -> Self {
        Self {
            kept,
            state: Mutex::new(State::Closed(VecDeque::new())),
            failures: settings.breaker_failures,
            window: settings.breaker_window,
            rest: settings.breaker_rest,
        }
    }

    /// Whether [`Self::admit`] would refuse now; asking changes nothing.
    ///
    /// # Errors
    /// [`Open`] with the time to wait.
    pub fn look(&self) -> Result<(), Open> {
        self.wait(&self.state(), Instant::now()).map_or(Ok(()), Err)
    }

    /// Whether one more may be tried. When the rest is over, one may, and its outcome decides.
    ///
    /// # Errors
    /// [`Open`] with the time to wait.
    pub fn admit(&self) -> Result<(), Open> {
        let now = Instant::now();
        let mut state = self.state();
        if let Some(open) = self.wait(&state, now) {
            return Err(open);
        }
        match &*state {
            State::Closed(_) => {}
            State::Open { .. } | State::HalfOpen { .. } => *state = State::HalfOpen { since: now },
        }
        Ok(())
    }

    fn wait(&self, state: &State, now: Instant) -> Option<Open> {
        let until = match state {
            State::Closed(_) => return None,
            State::Open { until } => *until,
            // A try whose outcome was never told must not keep everybody out for ever.
            State::HalfOpen { since } => *since + self.rest,
        };
        (now < until).then(|| Open { kept: self.kept, retry_after: until - now })
    }

    /// What it keeps.
    pub const fn kept(&self) -> Kept {
        self.kept
    }

    /// Whether it is closed; asking changes nothing.
    pub fn is_closed(&self) -> bool {
        matches!(*self.state(), State::Closed(_))
    }

    /// A try succeeded.
    pub fn success(&self) {
        let mut state = self.state();
        if !matches!(*state, State::Closed(_)) {
            tracing::info!(breaker = self.kept.as_str(), "it works again: the breaker closes");
            *state = State::Closed(VecDeque::new());
        }
    }

    /// A try of the tenant's, or the probe, failed through no fault of a client.
    pub fn failure(&self, tenant: Option<&Arc<str>>) {
        let now = Instant::now();
        let mut state = self.state();
        let opens = match &mut *state {
            State::Open { .. } => false,
            State::HalfOpen { .. } => true,
            State::Closed(marks) => {
                marks.push_back(Mark { at: now, tenant: tenant.cloned() });
                while marks.front().is_some_and(|m| now - m.at > self.window) {
                    marks.pop_front();
                }
                marks.len() >= self.failures && is_widespread(marks)
            }
        };
        if opens {
            tracing::error!(breaker = self.kept.as_str(), rest = ?self.rest, "{}: the breaker opens", self.kept.what());
            *state = State::Open { until: now + self.rest };
        }
        if let State::Closed(marks) = &mut *state {
            // One tenant alone can add marks for ever without opening it; keep what can still matter.
            while marks.len() > 2 * self.failures {
                marks.pop_front();
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The probe has failed, or two tenants have.
fn is_widespread(marks: &VecDeque<Mark>) -> bool {
    let first = marks.front().and_then(|m| m.tenant.as_ref());
    marks.iter().any(|m| m.tenant.is_none() || m.tenant.as_ref() != first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(breaker: &Breaker, tenant: &str, times: usize) {
        (0..times).for_each(|_| breaker.failure(Some(&tenant.into())));
    }

    #[tokio::test(start_paused = true)]
    async fn five_failures_of_two_tenants_open_it_and_one_success_closes_it() {
        let breaker = Breaker::new(Kept::Spawning, &Settings::default());
        fail(&breaker, "a", 4);
        assert_eq!(breaker.admit(), Ok(()));
        fail(&breaker, "b", 1);
        assert_eq!(breaker.admit(), Err(Open { kept: Kept::Spawning, retry_after: Duration::from_secs(5) }));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!((breaker.look(), breaker.look()), (Ok(()), Ok(())), "a look takes nothing");
        assert_eq!(breaker.admit(), Ok(()), "one may try");
        assert!(breaker.look().is_err());
        assert!(breaker.admit().is_err(), "and only one");
        breaker.success();
        assert_eq!(breaker.admit(), Ok(()));
        assert!(breaker.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_try_opens_it_again() {
        let breaker = Breaker::new(Kept::Spawning, &Settings::default());
        (0..5).for_each(|_| breaker.failure(None));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(breaker.admit(), Ok(()));
        breaker.failure(None);
        assert_eq!(breaker.admit(), Err(Open { kept: Kept::Spawning, retry_after: Duration::from_secs(5) }));
    }

    #[tokio::test(start_paused = true)]
    async fn one_tenant_alone_never_opens_it() {
        let breaker = Breaker::new(Kept::Spawning, &Settings::default());
        fail(&breaker, "a", 1000);
        assert!(breaker.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_long_ago_do_not_count() {
        let breaker = Breaker::new(Kept::Spawning, &Settings::default());
        fail(&breaker, "a", 4);
        tokio::time::advance(Duration::from_secs(11)).await;
        fail(&breaker, "b", 1);
        assert!(breaker.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_whose_outcome_was_never_told_does_not_wedge_it() {
        let breaker = Breaker::new(Kept::Spawning, &Settings::default());
        (0..5).for_each(|_| breaker.failure(None));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(breaker.admit(), Ok(()));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(breaker.admit(), Ok(()));
    }
}
