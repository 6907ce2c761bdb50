//! Running until told to stop, and stopping in order.
//!
//! Told to stop: no new sessions or jobs, every client is told, jobs have their grace. Then TERM, `kill_grace`, KILL; every
//! session is closed, every socket gets close 1012, the log is flushed, the warden leaves. A second signal kills at once.

use std::time::Duration;

use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::time::{Instant, timeout};

use crate::domain::{EndReason, Signal};
use crate::session::{Drain, Ending};

use super::Server;

/// Beyond `kill_grace`: how long killed trees may take to be empty, and sockets to say goodbye.
const SLACK: Duration = Duration::from_secs(2);

/// How a gateway ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// As it was told to.
    InOrder,
    /// The warden was gone.
    WardenGone,
}

impl Server {
    /// Serves until SIGTERM or SIGINT (or an admin's drain), then shuts down in order.
    ///
    /// # Errors
    /// What the kernel says when signals cannot be waited for.
    pub async fn run(self) -> std::io::Result<Left> {
        let mut stop = Stop { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? };
        // A closed terminal or a reader of our log that went away must not end the gateway silently.
        let _hangup = signal(SignalKind::hangup())?;
        let core = self.core.clone();
        tokio::select! {
            () = stop.wanted() => {}
            () = core.drain_requested() => {}
            () = core.rooms.warden.gone() => {
                tracing::error!("the warden is gone: every job was killed; leaving");
                self.goodbye().await;
                return Ok(Left::WardenGone);
            }
        }
        self.drain(&mut stop).await;
        Ok(Left::InOrder)
    }

    /// Shuts down in order without waiting for a signal.
    pub async fn shut_down(self) {
        self.end(Duration::ZERO).await;
        self.goodbye().await;
    }

    async fn drain(self, stop: &mut Stop) {
        let registry = &self.core.registry;
        let jobs = registry.running().len();
        tracing::info!(jobs, grace = ?self.setup.drain_grace, "draining");
        let deadline = Instant::now() + self.setup.drain_grace;
        self.core.set_drain(Drain::Draining { deadline });
        let grace = tokio::select! {
            done = timeout(self.setup.drain_grace, registry.no_job()) => done.map_or(self.setup.session.kill_grace, |()| Duration::ZERO),
            () = stop.wanted() => Duration::ZERO,
        };
        tokio::select! {
            () = self.end(grace) => {}
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
        let sessions = registry.every_session();
        for session in &sessions {
            // A session that is gone by now is what we want.
            drop(timeout(SLACK, session.close(EndReason::Shutdown, "shutdown")).await);
        }
    }

    async fn goodbye(self) {
        self.stop.cancel();
        self.listening.cancel();
        self.tracker.close();
        if timeout(SLACK, self.tracker.wait()).await.is_err() {
            tracing::warn!(tasks = self.tracker.len(), "some tasks did not end in time");
        }
        self.core.rooms.audit.flush().await;
        let orderly = self.core.rooms.warden.shutdown().await;
        tracing::info!(orderly, "gone");
    }
}

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
