//! Running until told to stop, and stopping in order.
//!
//! Told to stop: for `drain.delay` only readiness says so. Then no new sessions or jobs, every client is told, jobs have their grace. Then TERM, `kill_grace`, KILL; every
//! session is closed, every socket gets close 1012, the warden leaves, the log is flushed. A second signal kills at once.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::config::Loaded;
use crate::domain::{EndReason, Signal};
use crate::session::{Drain, Ending, ReloadWish};

use super::reload::{Fresh, Live, Source};
use super::setup::Setup;
use super::{Server, systemd, watch};

/// Beyond `kill_grace`: how long killed trees may take to be empty, and sockets to say goodbye.
const SLACK: Duration = Duration::from_secs(2);

/// How long the last lines of the decision log may take to reach the disk: one that hangs must not keep the process.
const FLUSH: Duration = Duration::from_secs(5);

/// How a gateway ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// As it was told to.
    InOrder,
    /// The warden was gone.
    WardenGone,
}

impl Server {
    /// Serves until SIGTERM or SIGINT (or an admin's drain), then shuts down in order. SIGHUP and an admin's reload read the
    /// configuration again, from `source`; `loaded` is the one in force.
    pub async fn run(self, signals: Told, loaded: Loaded, source: Source) -> Left {
        let Told { mut stop, mut hangup } = signals;
        let core = self.core.clone();
        let live = Arc::new(self.live(loaded, source));
        let mut reloading = None;
        self.tracker.spawn(watch::files(live.clone(), self.policy_files.clone(), self.stop.clone()));
        systemd::ready();
        loop {
            tokio::select! {
                () = stop.wanted() => break,
                () = core.drain_requested() => break,
                // One at a time: signals that come meanwhile are one signal, and the calls of admins wait in a short queue.
                _ = hangup.recv(), if reloading.is_none() => reloading = Some(self.reload(&live, None)),
                Some(wish) = core.reload_requested(), if reloading.is_none() => {
                    reloading = Some(self.reload(&live, Some(wish)));
                }
                () = ended(&mut reloading) => reloading = None,
                () = core.rooms.warden.gone() => {
                    tracing::error!("the warden is gone: every job was killed; leaving");
                    self.goodbye().await;
                    return Left::WardenGone;
                }
            }
        }
        systemd::stopping();
        let Times { delay, grace, kill_grace } = Times::of(&live.current().setup);
        self.drain(&mut stop, delay, grace, kill_grace).await;
        Left::InOrder
    }

    /// Shuts down in order without waiting for a signal.
    pub async fn shut_down(self) {
        self.end(Duration::ZERO).await;
        self.goodbye().await;
    }

    fn live(&self, loaded: Loaded, source: Source) -> Live {
        Live {
            core: self.core.clone(),
            access: self.access.clone(),
            names: self.names.clone(),
            bounds: self.bounds.clone(),
            tls: self.tls.clone(),
            places: self.setup.warden.max_jobs,
            base: self.base,
            source,
            current: Mutex::new(Arc::new(Fresh { loaded, setup: self.setup.clone() })),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// In a task of its own: a signal to stop must not wait for policies to compile.
    fn reload(&self, live: &Arc<Live>, wish: Option<ReloadWish>) -> JoinHandle<()> {
        let live = live.clone();
        self.tracker.spawn(async move {
            systemd::reloading();
            let outcome = live.reload().await;
            // One that is leaving has said so, and is not ready again.
            if !live.core.is_leaving() {
                systemd::ready();
            }
            // An admin that is gone needs no answer.
            let _ = wish.map(|wish| wish.send(outcome));
        })
    }

    async fn drain(self, stop: &mut Stop, delay: Duration, grace: Duration, kill_grace: Duration) {
        let registry = &self.core.registry;
        self.core.set_drain(Drain::Leaving);
        let hurry = timeout(delay, stop.wanted()).await.is_ok();
        let jobs = registry.running().len();
        tracing::info!(jobs, ?grace, "draining");
        self.core.set_drain(Drain::Draining { deadline: Instant::now() + grace });
        let kill_grace = tokio::select! {
            biased;
            () = std::future::ready(()), if hurry => Duration::ZERO,
            done = timeout(grace, registry.no_job()) => done.map_or(kill_grace, |()| Duration::ZERO),
            () = stop.wanted() => Duration::ZERO,
        };
        tokio::select! {
            () = self.end(kill_grace) => {}
            () = stop.wanted() => self.end(Duration::ZERO).await,
        }
        self.goodbye().await;
    }

    /// Ends every job, waits for empty trees, closes every session.
    async fn end(&self, grace: Duration) {
        let registry = &self.core.registry;
        self.core.set_drain(Drain::Ending);
        let wish = Ending { reason: EndReason::Shutdown, signal: Signal::TERM.number(), grace };
        registry.running().iter().for_each(|job| job.end(wish));
        if timeout(grace + SLACK, registry.no_job()).await.is_err() {
            tracing::error!(
                jobs = registry.running().len(),
                "jobs outlived their kill; the warden sees to them"
            );
        }
        let closing = async {
            // All at once: one that is slow must not make the others wait. One that is gone is what we want.
            let sessions = registry.every_session();
            let close = sessions.iter().map(|session| session.close(EndReason::Shutdown, "shutdown"));
            drop(join_all(close).await);
        };
        drop(timeout(SLACK, closing).await);
    }

    async fn goodbye(self) {
        self.stop.cancel();
        self.listening.cancel();
        self.tracker.close();
        if timeout(SLACK, self.tracker.wait()).await.is_err() {
            tracing::warn!(tasks = self.tracker.len(), "some tasks did not end in time");
        }
        let orderly = self.core.rooms.warden.shutdown().await;
        if timeout(FLUSH, self.core.rooms.audit.flush()).await.is_err() {
            tracing::error!(
                lines = self.core.rooms.audit.waiting(),
                "the decision log could not be flushed within {FLUSH:?}: its last lines may be missing; look at its disk"
            );
        }
        tracing::info!(orderly, "gone");
    }
}

/// Completes when the reload under way is over; never when there is none.
async fn ended(reloading: &mut Option<JoinHandle<()>>) {
    match reloading {
        // One that broke off is over too, and has changed nothing or all.
        Some(task) => drop(task.await),
        None => std::future::pending().await,
    }
}

/// How long each part of the drain may take.
struct Times {
    delay: Duration,
    grace: Duration,
    kill_grace: Duration,
}

impl Times {
    fn of(setup: &Setup) -> Self {
        Self { delay: setup.drain_delay, grace: setup.drain_grace, kill_grace: setup.session.kill_grace }
    }
}

/// The signals that a server is told something by.
#[derive(Debug)]
pub struct Told {
    stop: Stop,
    hangup: Signals,
}

impl Told {
    /// Begins to listen for them; before, each ends the process as it is. Must be called within a runtime.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn listen() -> std::io::Result<Self> {
        let stop = Stop { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? };
        Ok(Self { stop, hangup: signal(SignalKind::hangup())? })
    }
}

#[derive(Debug)]
struct Stop {
    term: Signals,
    int: Signals,
}

impl Stop {
    /// Completes at SIGTERM or SIGINT.
    async fn wanted(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}
