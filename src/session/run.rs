//! Running a job to its end: three facts, in order.
//!
//! The leader's death is told at once; the output that is still to come is waited for within bounds; then the tree
//! is killed, confirmed empty, and every pipe read to its end. Nothing already written is lost, and nothing
//! outlives the job.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::domain::{EndReason, ExitStatus, JobLimits, SignalTarget};
use crate::quota::Slot;
use crate::stream;
use crate::warden::Running;

use super::streams::Pumps;
use super::{Closed, Core, Ending, Exited, Job, SessionState};

/// Watches over a started job until its tree is empty. Returns the processes the kernel would not give up.
pub(super) async fn run(
    core: &Arc<Core>,
    job: Arc<Job>,
    mut pumps: Pumps,
    slot: Slot,
    limits: &JobLimits,
    mut session: watch::Receiver<SessionState>,
) -> u32 {
    let mut guard = Guard { core: core.clone(), job: job.clone(), over: false };
    // Only this function lets go of it, at its end.
    let Some(running) = job.running.load_full() else { return 0 };
    let mut watch = Watch::new(&job, &running, limits);
    let status = watch.until_exited().await;
    let reason = watch.reason(status);
    tracing::debug!(stage = "exit", job = %job.card.id, took = ?job.since.elapsed(), "stage");
    job.set(|state| {
        state.paused = None;
        state.exited = Some(Exited { status, reason, after: job.since.elapsed() });
    });
    watch.until_drained(&core.settings.streams).await;
    running.kill();
    let emptied = running.emptied().await;
    pumps.last_call();
    let closed = Closed {
        survivors: emptied.survivors,
        reason: if emptied.survivors == 0 { reason } else { EndReason::KillPending },
        usage: emptied.usage,
    };
    // Before the end is told: who hears of it may ask for the place.
    let slot = give_back(slot, emptied.survivors);
    guard.over(closed);
    if let Some(slot) = slot {
        core.tracker.spawn(follow(job.clone(), running.clone(), slot));
    }
    let tail = core.settings.streams.tail_bytes;
    core.tracker.spawn(async move {
        pumps.ended().await;
        job.output.settle();
        let over = async {
            // A session whose task is gone is over too.
            let _ = session.wait_for(|state| !state.is_open()).await;
            job.output.forgive();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = job.output.read_out() => {}
            () = over => {}
        }
        job.output.shrink_to_tail(tail);
    });
    closed.survivors
}

/// Gives the slot back at once, unless the kernel holds on to processes: what still lives is charged to whom it belongs.
fn give_back(slot: Slot, survivors: u32) -> Option<Slot> {
    (survivors > 0).then_some(slot)
}

/// Follows what the kernel would not give up to its end: then the slot is given back, and whoever asks about the job sees that
/// it is gone. It is not told anew: `job.closed` comes once. Owned by the tracker.
async fn follow(job: Arc<Job>, running: Arc<Running>, slot: Slot) {
    running.swept().await;
    job.let_go();
    job.set(|state| state.closed = state.closed.map(|closed| Closed { survivors: 0, ..closed }));
    drop(slot);
}

/// Makes sure that a job is closed and retired, however its task ends.
struct Guard {
    core: Arc<Core>,
    job: Arc<Job>,
    over: bool,
}

impl Guard {
    fn over(&mut self, closed: Closed) {
        self.over = true;
        if closed.survivors == 0 {
            self.job.let_go();
        }
        self.job.set(|state| state.closed = Some(closed));
        self.core.registry.retire_job(&self.job);
        let written: u64 = self.job.output.status().iter().map(|stream| stream.next).sum();
        metrics::counter!("execgate_stream_bytes_total").increment(written);
        metrics::counter!("execgate_jobs_ended_total", "reason" => closed.reason.as_str()).increment(1);
        let card = &self.job.card;
        tracing::info!(job = %card.id, session = %card.session, tenant = %card.owner.tenant, reason = closed.reason.as_str(), survivors = closed.survivors, "job closed");
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        if let Some(running) = self.job.running.load_full() {
            running.kill();
        }
        let reason = EndReason::ServerFault;
        self.job.set(|state| {
            let after = self.job.since.elapsed();
            state.exited.get_or_insert(Exited { status: ExitStatus::Unknown, reason, after });
        });
        self.over(Closed { survivors: 0, reason, usage: Default::default() });
    }
}

/// What can end a job, and when.
struct Watch<'a> {
    job: &'a Job,
    running: &'a Running,
    ending: watch::Receiver<Option<Ending>>,
    state: watch::Receiver<super::JobState>,
    wall: Wall,
    kill_at: Option<Instant>,
    /// The tree was killed: nothing more can be done to it.
    killed: bool,
}

impl<'a> Watch<'a> {
    fn new(job: &'a Job, running: &'a Running, limits: &JobLimits) -> Self {
        let mut ending = job.ending.subscribe();
        ending.mark_changed();
        let wall = Wall { left: limits.wall, since: Some(job.since) };
        Self { job, running, ending, state: job.watch(), wall, kill_at: None, killed: false }
    }

    async fn until_exited(&mut self) -> ExitStatus {
        loop {
            let wall = self.wall.deadline();
            tokio::select! {
                biased;
                status = self.running.exited() => return status,
                Ok(()) = self.ending.changed() => self.begin_ending().await,
                () = until(self.kill_at) => self.escalate(),
                () = until(wall), if !self.killed => self.job.end(Ending::kill(EndReason::Timeout)),
                () = self.job.output.over_limit(), if !self.killed => {
                    self.job.end(Ending::kill(EndReason::OutputLimit));
                }
                Ok(()) = self.state.changed() => {
                    // Only what is known to stand still does not use up its time.
                    let still = self.state.borrow_and_update().paused.is_some_and(|pause| pause.exact);
                    self.wall.pause(still);
                }
            }
        }
    }

    /// The leader is dead; what is left of the tree may still write, within bounds.
    async fn until_drained(&mut self, settings: &stream::Settings) {
        if self.kill_at.is_some() || self.ending.borrow().is_some() {
            return;
        }
        self.wall.pause(false);
        tokio::select! {
            () = until(self.wall.deadline()) => {}
            _ = self.job.output.drain(settings) => {}
            _ = self.running.emptied() => {}
            Ok(()) = self.ending.changed() => {}
        }
    }

    async fn begin_ending(&mut self) {
        let Some(wish) = *self.ending.borrow_and_update() else { return };
        if wish.grace.is_zero() {
            self.killed = true;
            self.running.kill();
            return;
        }
        // A job that has just exited needs neither signal nor thaw; its exit is what comes next.
        let _ = self.running.signal(wish.signal, SignalTarget::Group).await;
        let _ = self.running.resume().await;
        self.job.set(|state| state.paused = None);
        self.kill_at = Some(Instant::now() + wish.grace);
    }

    fn escalate(&mut self) {
        self.kill_at = None;
        self.killed = true;
        self.job.set(|state| state.escalated = true);
        self.running.kill();
    }

    /// The first wish to end the job is why it ended; without one, the limit it met; else it ended by itself.
    fn reason(&self, status: ExitStatus) -> EndReason {
        let breach = self.running.breach().map(EndReason::from);
        match (*self.ending.borrow(), breach, status) {
            (Some(wish), _, _) => wish.reason,
            (None, Some(limit), _) => limit,
            (None, None, ExitStatus::Code(_)) => EndReason::Exited,
            (None, None, ExitStatus::Signal { .. }) => EndReason::Signal,
            (None, None, ExitStatus::Unknown) => EndReason::ServerFault,
        }
    }
}

/// The wall-clock budget; it stands still while the job is paused.
struct Wall {
    left: Option<std::time::Duration>,
    since: Option<Instant>,
}

impl Wall {
    fn deadline(&self) -> Option<Instant> {
        Some(self.since? + self.left?)
    }

    fn pause(&mut self, paused: bool) {
        match (paused, self.since) {
            (true, Some(since)) => {
                self.left = self.left.map(|left| left.saturating_sub(since.elapsed()));
                self.since = None;
            }
            (false, None) => self.since = Some(Instant::now()),
            (true, None) | (false, Some(_)) => {}
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
