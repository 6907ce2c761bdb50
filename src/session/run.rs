//! Running a job to its end: three facts, in order.
//!
//! The leader's death is told at once; the output that is still to come is waited for within bounds; then the tree
//! is killed, confirmed empty, and every pipe read to its end. Nothing already written is lost, and nothing
//! outlives the job.

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use crate::domain::{EndReason, ExitStatus, JobLimits, SignalTarget};
use crate::quota::Slot;
use crate::stream;
use crate::warden::{Emptied, Paused, Running, SignalFailure};

use super::job::PauseWish;
use super::streams::Pumps;
use super::{Closed, Core, Ending, Exited, Job, Pause, SessionState};

/// Watches over a started job until its tree is empty. Returns the processes the kernel would not give up.
pub(super) async fn run(
    mut guard: Guard,
    mut pumps: Pumps,
    pauses: mpsc::Receiver<PauseWish>,
    slot: Slot,
    limits: &JobLimits,
    mut session: watch::Receiver<SessionState>,
) -> u32 {
    let (core, job) = (guard.core.clone(), guard.job.clone());
    // Only this function lets go of it, at its end.
    let Some(running) = job.running.load_full() else { return 0 };
    let mut watch = Watch::new(&job, &running, limits);
    let status = watch.until_exited(pauses).await;
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
    let closed = closed(emptied, reason);
    // Before the end is told: who hears of it may ask for the place.
    let slot = give_back(slot, emptied.survivors);
    guard.over(closed);
    if let Some(slot) = slot {
        core.tracker.spawn(follow(job.clone(), running.clone(), slot));
    }
    let tail = core.settings.streams.tail_bytes;
    core.tracker.spawn(async move {
        pumps.ended(job.card.id).await;
        job.output.settle();
        let over = async {
            // A session whose task is gone is over too.
            let _ = session.wait_for(|state| !state.is_open()).await;
            job.output.forgive();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = job.output.keep_tail(tail) => {}
            () = over => {}
        }
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

fn closed(emptied: Emptied, reason: EndReason) -> Closed {
    let reason = if emptied.survivors == 0 { reason } else { EndReason::KillPending };
    Closed { survivors: emptied.survivors, reason, usage: emptied.usage }
}

/// Makes sure that a job is closed and retired, however its task ends. Made before anybody else knows the job.
pub(super) struct Guard {
    core: Arc<Core>,
    job: Arc<Job>,
    over: bool,
}

impl Guard {
    pub(super) const fn new(core: Arc<Core>, job: Arc<Job>) -> Self {
        Self { core, job, over: false }
    }

    fn over(&mut self, closed: Closed) {
        self.over = true;
        close(&self.core, &self.job, closed);
    }
}

fn close(core: &Core, job: &Arc<Job>, closed: Closed) {
    if closed.survivors == 0 {
        job.let_go();
    }
    job.set(|state| state.closed = Some(closed));
    core.registry.retire_job(job);
    let written: u64 = job.output.status().iter().map(|stream| stream.next).sum();
    metrics::counter!("execgate_stream_bytes_total").increment(written);
    metrics::counter!("execgate_jobs_ended_total", "reason" => closed.reason.as_str()).increment(1);
    let card = &job.card;
    tracing::info!(job = %card.id, session = %card.session, tenant = %card.owner.tenant, reason = closed.reason.as_str(), survivors = closed.survivors, "job closed");
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        let Some(running) = self.job.running.load_full() else { return };
        running.kill();
        let reason = EndReason::ServerFault;
        self.job.set(|state| {
            let after = self.job.since.elapsed();
            state.exited.get_or_insert(Exited { status: ExitStatus::Unknown, reason, after });
        });
        // It is closed when the tree is empty, here too: whether anybody survives is not known before.
        let (core, job) = (self.core.clone(), self.job.clone());
        self.core.tracker.spawn(async move { close(&core, &job, closed(running.emptied().await, reason)) });
    }
}

/// What can end a job, and when.
struct Watch<'a> {
    job: &'a Job,
    running: &'a Running,
    ending: watch::Receiver<Option<Ending>>,
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
        Self { job, running, ending, wall, kill_at: None, killed: false }
    }

    async fn until_exited(&mut self, mut pauses: mpsc::Receiver<PauseWish>) -> ExitStatus {
        // Asked of the warden, which may take its time; a stop does not wait for a pause that was asked before.
        let mut asked = FuturesOrdered::new();
        loop {
            let wall = self.wall.deadline();
            tokio::select! {
                biased;
                status = self.running.exited() => return status,
                Ok(()) = self.ending.changed() => {
                    asked.extend(self.begin_ending().map(|signal| ask(self.running, Some(signal), run_on())));
                }
                () = until(self.kill_at) => self.escalate(),
                () = until(wall), if !self.killed => self.job.end(Ending::kill(EndReason::Timeout)),
                () = self.job.output.over_limit().cancelled(), if !self.killed => {
                    self.job.end(Ending::kill(EndReason::OutputLimit));
                }
                Some((wish, answer)) = asked.next() => self.answered(wish, answer),
                Some(wish) = pauses.recv(), if asked.is_empty() => {
                    asked.push_back(ask(self.running, None, wish));
                }
            }
        }
    }

    /// The leader is dead; what is left of the tree may still write, within bounds.
    async fn until_drained(&mut self, settings: &stream::Settings) {
        // Seen now: a leader that is gone at once leaves the mark of the first look.
        if self.ending.borrow_and_update().is_some() {
            return;
        }
        self.wall.pause(false);
        tokio::select! {
            () = until(self.wall.deadline()) => {}
            drained = self.job.output.drain(settings) => {
                tracing::debug!(job = %self.job.card.id, ?drained, "output awaited");
            }
            _ = self.running.emptied() => {}
            () = self.job.output.over_limit().cancelled() => {}
            Ok(()) = self.ending.changed() => {}
        }
    }

    /// Kills, or returns the signal to begin with.
    fn begin_ending(&mut self) -> Option<i32> {
        let wish = (*self.ending.borrow_and_update())?;
        if wish.grace.is_zero() {
            self.killed = true;
            self.running.kill();
            return None;
        }
        let at = Instant::now() + wish.grace;
        // A wish that comes late cannot put off the end that an earlier one has set.
        self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
        Some(wish.signal)
    }

    fn answered(&mut self, wish: PauseWish, answer: Result<Paused, SignalFailure>) {
        let paused = match (answer, self.job.state().paused) {
            (Ok(Paused { paused, exact }), _) => paused.then_some(Pause { exact }),
            // It may have come on or not.
            (Err(SignalFailure::Errno(_)), Some(_)) => Some(Pause { exact: false }),
            (Err(_), before) => before,
        };
        self.job.set(|state| state.paused = paused);
        // Only what is known to stand still does not use up its time.
        self.wall.pause(paused.is_some_and(|pause| pause.exact));
        // A caller that is gone needs no answer.
        let _ = wish.answer.send(answer);
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

/// A stop's wish: nobody waits for what comes of it.
fn run_on() -> PauseWish {
    PauseWish { paused: false, answer: oneshot::channel().0 }
}

/// Asks for a pause or a resume; a stop's signal goes before. A job that has just exited needs neither: its exit is what comes
/// next.
async fn ask(
    running: &Running,
    signal: Option<i32>,
    wish: PauseWish,
) -> (PauseWish, Result<Paused, SignalFailure>) {
    if let Some(signal) = signal {
        let _ = running.signal(signal, SignalTarget::Group).await;
    }
    let answer = if wish.paused { running.pause().await } else { running.resume().await };
    (wish, answer)
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
