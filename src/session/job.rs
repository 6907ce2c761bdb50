//! A started job as others hold it: what it is, what state it is in, and how to act on it.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::domain::{
    DecisionId, EndReason, ExitStatus, Failure, JobId, Principal, SessionId, SignalTarget, TerminalSize,
    Usage,
};
use crate::stream::{Output, Stdin};
use crate::warden::{self, Paused, Running, SignalFailure};

/// How the leader ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exited {
    /// Its status.
    pub status: ExitStatus,
    /// Why.
    pub reason: EndReason,
    /// How long after the start.
    pub after: Duration,
}

/// The end: the tree is empty, or the kernel will not give it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// Processes still there; 0 unless the kernel holds on to them. Becomes 0 once it has let go of them.
    pub survivors: u32,
    /// Why it ended.
    pub reason: EndReason,
    /// What it used.
    pub usage: Usage,
}

/// How a paused job was paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// The kernel acknowledged that nothing of the tree runs.
    pub exact: bool,
}

/// What is so about a job now. Facts are added and never taken back, except the pause and the last survivors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JobState {
    /// Paused, and how.
    pub paused: Option<Pause>,
    /// The leader is dead.
    pub exited: Option<Exited>,
    /// The tree is empty.
    pub closed: Option<Closed>,
    /// A stop's grace ran out and the tree was killed.
    pub escalated: bool,
}

/// The wish to end a job. The first reason is the one reported; a later wish can only make it quicker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// Why.
    pub reason: EndReason,
    /// The signal to begin with.
    pub signal: i32,
    /// From that signal to KILL; zero kills at once.
    pub grace: Duration,
}

impl Ending {
    /// Kills at once.
    pub const fn kill(reason: EndReason) -> Self {
        Self { reason, signal: 9, grace: Duration::ZERO }
    }
}

/// How a stop went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Processes still there.
    pub survivors: u32,
    /// The grace ran out.
    pub escalated: bool,
    /// From the wish to the empty tree.
    pub elapsed: Duration,
}

/// The beginning of a command, for people to see: an ended job is kept for minutes, and the decision log has the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    /// Program and arguments, the last of them perhaps cut.
    pub argv: Vec<String>,
    /// That is all of it.
    pub is_whole: bool,
}

impl Excerpt {
    /// Most bytes in memory.
    const MOST: usize = 4096;

    pub(super) fn of(argv: &[String]) -> Self {
        let (mut room, mut shown) = (Self::MOST, Vec::new());
        for argument in argv {
            let part = argument.split_at(argument.floor_char_boundary(room)).0;
            shown.push(part.to_owned());
            let left = room.checked_sub(part.len() + size_of::<String>());
            let Some(left) = left.filter(|_| part.len() == argument.len()) else {
                return Self { argv: shown, is_whole: false };
            };
            room = left;
        }
        Self { argv: shown, is_whole: true }
    }
}

/// The wish to have a job paused or run on.
#[derive(Debug)]
pub(super) struct PauseWish {
    pub(super) paused: bool,
    /// Where what came of it is told.
    pub(super) answer: oneshot::Sender<Result<Paused, SignalFailure>>,
}

/// What is fixed about a started job.
#[derive(Debug, Clone)]
pub struct Card {
    /// The job.
    pub id: JobId,
    /// Its session.
    pub session: SessionId,
    /// Whose it is.
    pub owner: Arc<Principal>,
    /// What it runs, as reviewed.
    pub argv: Excerpt,
    /// The client's labels.
    pub labels: BTreeMap<String, String>,
    /// The leader's process id.
    pub pid: u32,
    /// When it was started.
    pub started_at: SystemTime,
    /// The decision that cleared it.
    pub decision: DecisionId,
    /// It has a terminal.
    pub terminal: bool,
    /// Its owner may come back to it: the session can be detached.
    pub detachable: bool,
}

/// A started job. Everybody who knows it shares this; its task alone writes the state.
#[derive(Debug)]
pub struct Job {
    /// What is fixed about it.
    pub card: Card,
    /// What it has written.
    pub output: Output,
    /// What it may still be given to read.
    pub stdin: Option<Stdin>,
    /// Until the tree is empty: an ended job is kept for minutes, and its descriptors must not be.
    pub(super) running: ArcSwapOption<Running>,
    // Held for one ioctl, never across an await.
    pub(super) master: Mutex<Option<OwnedFd>>,
    pub(super) state: watch::Sender<JobState>,
    pub(super) ending: watch::Sender<Option<Ending>>,
    pub(super) pauses: mpsc::Sender<PauseWish>,
    /// When its leader was let go.
    pub since: Instant,
    // Those who must hear of a change of the state; held for one walk, never across an await.
    pub(super) listeners: Mutex<Vec<Weak<Notify>>>,
}

impl Job {
    /// What is so now.
    pub fn state(&self) -> JobState {
        let mut state = *self.state.borrow();
        // What the leader left in the pipes is read after its exit, and may be more than the limit.
        if let Some(closed) = &mut state.closed
            && matches!(closed.reason, EndReason::Exited | EndReason::Signal)
            && self.output.over_limit().is_cancelled()
        {
            closed.reason = EndReason::OutputLimit;
        }
        state
    }

    /// Follows the state.
    pub fn watch(&self) -> watch::Receiver<JobState> {
        self.state.subscribe()
    }

    /// Has `wake` notified at every change of the state.
    pub fn listen(&self, wake: &Arc<Notify>) {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        // A job that tells nothing any more would otherwise remember every connection that ever looked at it.
        listeners.retain(|listener| listener.strong_count() > 0);
        if !listeners.iter().any(|known| known.as_ptr() == Arc::as_ptr(wake)) {
            listeners.push(Arc::downgrade(wake));
        }
        wake.notify_one();
    }

    /// Wishes the job ended; returns at once.
    pub fn end(&self, wish: Ending) {
        self.ending.send_if_modified(|current| match current {
            None => {
                *current = Some(wish);
                true
            }
            Some(earlier) if wish.grace < earlier.grace => {
                *current = Some(Ending { reason: earlier.reason, ..wish });
                true
            }
            Some(_) => false,
        });
    }

    /// Ends the job and waits until its tree is empty (or the kernel will not give it up).
    ///
    /// # Errors
    /// [`Failure::Finished`] when it had already closed.
    pub async fn stop(&self, wish: Ending) -> Result<Stopped, Failure> {
        if self.state().closed.is_some() {
            return Err(Failure::Finished);
        }
        let since = Instant::now();
        self.end(wish);
        let closed = self.closed().await?;
        let escalated = self.state().escalated;
        Ok(Stopped { survivors: closed.survivors, escalated, elapsed: since.elapsed() })
    }

    /// Waits until the leader is dead.
    ///
    /// # Errors
    /// [`Failure::Internal`] when the job's task broke.
    pub async fn exited(&self) -> Result<Exited, Failure> {
        self.state_where(|state| state.exited).await
    }

    /// Waits until the tree is empty.
    ///
    /// # Errors
    /// [`Failure::Internal`] when the job's task broke.
    pub async fn closed(&self) -> Result<Closed, Failure> {
        self.state_where(|state| state.closed).await
    }

    async fn state_where<T>(&self, fact: impl Fn(&JobState) -> Option<T>) -> Result<T, Failure> {
        let mut watch = self.watch();
        let state = watch.wait_for(|state| fact(state).is_some()).await;
        let state = state.map_err(|_| Failure::Internal("the job's task ended early".to_owned()))?;
        fact(&state).ok_or_else(|| Failure::Internal("the job's state went back".to_owned()))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// [`Failure::Finished`] when the leader is gone.
    pub async fn signal(&self, signal: i32, target: SignalTarget) -> Result<(), Failure> {
        self.alive()?;
        self.running()?.signal(signal, target).await.map_err(|e| signal_failure(&e))
    }

    /// Pauses the tree; pausing a paused job changes nothing. A stop at the same moment has it run on: then the answer says so.
    ///
    /// # Errors
    /// [`Failure::Finished`] when the leader is gone.
    pub async fn pause(&self) -> Result<Paused, Failure> {
        self.have_paused(true).await
    }

    /// Lets a paused tree run on; resuming a running job changes nothing.
    ///
    /// # Errors
    /// [`Failure::Finished`] when the leader is gone.
    pub async fn resume(&self) -> Result<Paused, Failure> {
        self.have_paused(false).await
    }

    /// By the job's task, one wish after the other: so the state is what the warden answered last.
    async fn have_paused(&self, paused: bool) -> Result<Paused, Failure> {
        self.alive()?;
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.pauses.send(PauseWish { paused, answer }).await.ok()?;
            answered.await.ok()
        };
        tokio::select! {
            biased;
            Some(answer) = asked => answer.map_err(|e| signal_failure(&e)),
            // A wish that is sent as its receiver goes may lie in the channel for ever.
            _ = self.exited() => Err(Failure::Finished),
        }
    }

    /// Changes the size of the terminal.
    ///
    /// # Errors
    /// [`Failure::Finished`] when the leader is gone, [`Failure::InvalidParams`] without a terminal.
    pub fn resize(&self, size: TerminalSize) -> Result<(), Failure> {
        self.alive()?;
        let master = self.master();
        let master = master.as_ref().ok_or_else(|| {
            Failure::InvalidParams("the job has no terminal; start it with `pty` to give it one".to_owned())
        })?;
        warden::resize(master, size).map_err(|e| Failure::Internal(format!("resize: {e}")))
    }

    fn running(&self) -> Result<Arc<Running>, Failure> {
        self.running.load_full().ok_or(Failure::Finished)
    }

    fn master(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.master.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tree is empty: gives back what only a living job needs.
    pub(super) fn let_go(&self) {
        self.running.store(None);
        *self.master() = None;
    }

    fn alive(&self) -> Result<(), Failure> {
        match self.state().exited {
            None => Ok(()),
            Some(_) => Err(Failure::Finished),
        }
    }

    /// Changes the state and wakes every viewer.
    pub(super) fn set(&self, change: impl FnOnce(&mut JobState)) {
        self.state.send_modify(change);
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.iter().filter_map(Weak::upgrade).for_each(|listener| listener.notify_one());
    }
}

fn signal_failure(failure: &SignalFailure) -> Failure {
    match failure {
        SignalFailure::Finished => Failure::Finished,
        SignalFailure::NoForeground => {
            Failure::InvalidParams("target: the job has no terminal with a foreground group".to_owned())
        }
        SignalFailure::Errno(_) | SignalFailure::Gone => Failure::Internal(format!("signal: {failure}")),
    }
}
