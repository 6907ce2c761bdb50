//! The gateway's end of the link: what all handles share, and the one task that reads it.
//!
//! Requests are sent by whoever has one; events are read by the task alone and put where their waiters look. The
//! task never waits for a send, so warden and gateway cannot wait for each other. It is spawned by
//! [`super::Warden::launch`], owned by nobody, and ends with the link: when the warden dies or the last
//! [`super::Warden`] is dropped. Its last act is to kill what the warden left.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Child;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use rustix::io::Errno as LinkErrno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::leaf;
use super::link::{self, Received};
use super::proto::{self, Answer, FromWarden, MAX_MESSAGE, ToWarden, WireFacts, WireUsage};
use super::running::{Emptied, SLACK, SignalFailure, SpawnFailure};
use super::settings::Settings;
use super::{resolve, sys};
use crate::domain::{Breach, ExitStatus, SpawnStage, Usage};

/// How long the gateway waits for the instance to be empty after it killed it itself.
const EMERGENCY: Duration = Duration::from_secs(2);

/// The profile that every job has.
const BASE: &str = "base";

/// How often it looks where no notice may come: the kernel's is lost when the group goes before it is sent, and without
/// a descriptor there is none.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How far a running job has come to its end.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    pub(super) status: Option<ExitStatus>,
    pub(super) breach: Option<Breach>,
    pub(super) emptied: Option<Emptied>,
    pub(super) swept: bool,
}

/// A good answer to prepare or release.
#[derive(Debug)]
pub(super) enum Reply {
    Facts(Box<WireFacts>),
    Started { pid: i32, pidfd: OwnedFd },
}

/// Waits for a good answer or a failure.
pub(super) type Awaited = oneshot::Receiver<Result<Reply, SpawnFailure>>;

/// The warden's life as the gateway sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Serving,
    /// The link ended; what could be killed from here is killed.
    Gone,
    /// The process is reaped.
    Ended {
        clean: bool,
    },
}

struct Entry {
    /// Who waits for the answer to prepare or release.
    waiter: Option<oneshot::Sender<Result<Reply, SpawnFailure>>>,
    /// The failure of a job at its gate that nobody was waiting for.
    early: Option<SpawnFailure>,
    /// The pidfd of its keeper: that one outlives the warden, and ends when the job is.
    keeper: Option<OwnedFd>,
    progress: watch::Sender<Progress>,
}

#[derive(Default)]
struct Table {
    jobs: HashMap<u64, Entry>,
    asks: HashMap<u64, oneshot::Sender<Answer>>,
    /// Jobs whose kill did not fit into the socket; at most one entry a job.
    urgent: Vec<u64>,
    closed: bool,
}

/// What all handles of one warden share.
pub(super) struct Shared {
    pub(super) link: AsyncFd<OwnedFd>,
    pub(super) settings: Settings,
    pub(super) life: watch::Sender<Life>,
    /// A lock, not a task: it guards map operations of a few lines that never wait, and `Drop` must reach it.
    table: Mutex<Table>,
    next: AtomicU64,
    urgent: Notify,
}

impl Shared {
    pub(super) fn new(link: AsyncFd<OwnedFd>, settings: Settings) -> Self {
        Self {
            link,
            settings,
            life: watch::Sender::new(Life::Serving),
            table: Mutex::default(),
            next: AtomicU64::new(1),
            urgent: Notify::new(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The places of profiles in the hello. `base` needs none: every job has it.
    pub(super) fn places(&self, names: &[String]) -> Result<Vec<u32>, SpawnFailure> {
        let known = &self.settings.profiles;
        let place = |name: &String| {
            let place = known.iter().position(|profile| profile.name == *name);
            let unknown = || SpawnFailure::new(SpawnStage::Confine, Errno::ENOENT, name);
            place.and_then(|place| u32::try_from(place).ok()).ok_or_else(unknown)
        };
        names.iter().filter(|name| *name != BASE).map(place).collect()
    }

    /// Enters a job that is about to be prepared.
    pub(super) fn enter(&self) -> Result<(u64, Awaited, watch::Receiver<Progress>), SpawnFailure> {
        let (number, (waiter, awaited)) = (self.number(), oneshot::channel());
        let progress = watch::Sender::new(Progress::default());
        let seen = progress.subscribe();
        let mut table = self.table();
        if table.closed {
            return Err(gone());
        }
        table.jobs.insert(number, Entry { waiter: Some(waiter), early: None, keeper: None, progress });
        Ok((number, awaited, seen))
    }

    /// Waits anew, for the start of a prepared job.
    pub(super) fn expect_start(&self, number: u64) -> Result<Awaited, SpawnFailure> {
        let (waiter, awaited) = oneshot::channel();
        let mut table = self.table();
        let entry = table.jobs.get_mut(&number).ok_or_else(gone)?;
        match entry.early.take() {
            Some(failure) => Err(failure),
            None => {
                entry.waiter = Some(waiter);
                Ok(awaited)
            }
        }
    }

    /// Waits for an answer that the warden owes within `bound`.
    pub(super) async fn reply(
        &self,
        awaited: Awaited,
        bound: Duration,
        stage: SpawnStage,
    ) -> Result<Reply, SpawnFailure> {
        match timeout(bound + SLACK, awaited).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(SpawnFailure::new(stage, Errno::ETIMEDOUT, "warden")),
        }
    }

    /// Forgets a job; true when the warden may still have it.
    pub(super) fn forget(&self, number: u64) -> bool {
        self.table().jobs.remove(&number).is_some()
    }

    /// Sends one request, waiting for room. Cancel safe: a packet goes whole or not at all.
    pub(super) async fn send(&self, request: &ToWarden, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let bytes = proto::encode(request, MAX_MESSAGE).ok_or(Errno::EMSGSIZE)?;
        loop {
            match link::send(self.link.get_ref().as_fd(), &bytes, fds) {
                Ok(()) => return Ok(()),
                Err(LinkErrno::AGAIN) => self.room().await,
                Err(errno) => return Err(Errno::from_raw(errno.raw_os_error())),
            }
        }
    }

    /// Waits until the socket has room. By a descriptor of its own, for as long as somebody waits: every message that the
    /// warden takes makes room, and would wake this process each time.
    async fn room(&self) {
        let own = self.link.get_ref().try_clone();
        match own.and_then(|own| sys::async_fd(own, Interest::WRITABLE)) {
            Ok(own) => drop(own.writable().await),
            Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }

    /// Asks for a kill: at once, or by the reading task as soon as the socket has room. Never waits.
    pub(super) fn kill(&self, number: u64) {
        if self.try_kill(number) {
            return;
        }
        let mut table = self.table();
        if !table.urgent.contains(&number) {
            table.urgent.push(number);
        }
        drop(table);
        self.urgent.notify_one();
    }

    /// False when the socket has no room now.
    fn try_kill(&self, job: u64) -> bool {
        let bytes = proto::encode(&ToWarden::Kill { job }, MAX_MESSAGE).unwrap_or_default();
        !matches!(link::send(self.link.get_ref().as_fd(), &bytes, &[]), Err(LinkErrno::AGAIN))
    }

    /// One question and its answer, within the bound of the slowest (a pause).
    pub(super) async fn ask(&self, request: impl FnOnce(u64) -> ToWarden) -> Result<Answer, SignalFailure> {
        let (ask, (waiter, awaited)) = (self.number(), oneshot::channel());
        {
            let mut table = self.table();
            if table.closed {
                return Err(SignalFailure::Gone);
            }
            table.asks.insert(ask, waiter);
        }
        let _question = Question { shared: self, ask };
        self.send(&request(ask), &[]).await.map_err(|_| SignalFailure::Gone)?;
        match timeout(self.settings.pause + SLACK, awaited).await {
            Ok(answer) => answer.map_err(|_| SignalFailure::Gone),
            Err(_) => Err(SignalFailure::Errno(Errno::ETIMEDOUT as i32)),
        }
    }

    /// Puts an event where its waiter looks. Events about jobs that were forgotten are nobody's.
    fn deliver(&self, event: FromWarden, fds: Vec<OwnedFd>) {
        let mut table = self.table();
        match event {
            FromWarden::Ready(_) | FromWarden::Unfit { .. } => {}
            FromWarden::Prepared { job, facts } => table.answer(job, Ok(Reply::Facts(facts))),
            FromWarden::Failed { job, failure } => table.answer(job, Err(failure.into())),
            FromWarden::Started { job, pid } => {
                let mut fds = fds.into_iter();
                let started = fds.next().map(|pidfd| Reply::Started { pid, pidfd });
                if let Some(entry) = table.jobs.get_mut(&job) {
                    entry.keeper = fds.next();
                }
                let lost = || SpawnFailure::new(SpawnStage::Fork, Errno::EMFILE, "pidfd");
                table.answer(job, started.ok_or_else(lost));
            }
            FromWarden::Exited { job, status, breach } => table.progress(job, |p| {
                p.status = Some(status);
                p.breach = breach.map(|b| b.0);
            }),
            FromWarden::Emptied { job, survivors, usage } => {
                table.progress(job, |p| p.end(Emptied { survivors, usage: usage.into() }));
                if survivors == 0 {
                    table.jobs.remove(&job);
                }
            }
            FromWarden::Swept { job } => {
                table.progress(job, |p| p.swept = true);
                table.jobs.remove(&job);
            }
            FromWarden::Answer { ask, answer } => {
                if let Some(waiter) = table.asks.remove(&ask) {
                    let _ = waiter.send(answer);
                }
            }
        }
    }
}

impl Table {
    fn answer(&mut self, job: u64, answer: Result<Reply, SpawnFailure>) {
        let Some(entry) = self.jobs.get_mut(&job) else { return };
        match (entry.waiter.take(), answer) {
            (Some(waiter), answer) => drop(waiter.send(answer)),
            (None, Err(failure)) => entry.early = Some(failure),
            (None, Ok(_)) => {}
        }
    }

    fn progress(&mut self, job: u64, change: impl FnOnce(&mut Progress)) {
        if let Some(entry) = self.jobs.get(&job) {
            entry.progress.send_modify(change);
        }
    }
}

impl Progress {
    fn end(&mut self, emptied: Emptied) {
        self.status.get_or_insert(ExitStatus::Unknown);
        self.emptied.get_or_insert(emptied);
        self.swept |= emptied.survivors == 0;
    }
}

impl From<WireUsage> for Usage {
    fn from(wire: WireUsage) -> Self {
        Self {
            user: wire.user.map(Duration::from_micros),
            system: wire.system.map(Duration::from_micros),
            max_rss: wire.max_rss,
            processes_peak: wire.processes_peak,
        }
    }
}

/// A question in flight; forgotten when its asker goes away.
struct Question<'a> {
    shared: &'a Shared,
    ask: u64,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.shared.table().asks.remove(&self.ask);
    }
}

fn gone() -> SpawnFailure {
    SpawnFailure::new(SpawnStage::Fork, Errno::ESHUTDOWN, "warden")
}

/// What the gateway needs to end everything without the warden.
#[derive(Debug)]
pub(super) struct Emergency {
    pub(super) kill: File,
    pub(super) events: OwnedFd,
}

/// Reads the link to its end, then ends what is left.
pub(super) async fn read(shared: Arc<Shared>, mut child: Child, emergency: Option<Emergency>) {
    let mut scratch = link::scratch();
    loop {
        let urgent = !shared.table().urgent.is_empty();
        tokio::select! {
            ready = shared.link.readable() => {
                let Ok(mut ready) = ready else { break };
                match receive_all(&shared, &mut scratch) {
                    Ok(()) => ready.clear_ready(),
                    Err(End) => break,
                }
            }
            () = shared.room(), if urgent => send_urgent(&shared),
            () = shared.urgent.notified(), if !urgent => {}
        }
    }
    end_everything(&shared, &mut child, emergency).await;
}

/// The link has ended.
struct End;

fn receive_all(shared: &Shared, scratch: &mut [u8]) -> Result<(), End> {
    loop {
        match link::receive(shared.link.get_ref().as_fd(), scratch) {
            Ok(Received::Packet(bytes, fds)) => match proto::decode(&bytes) {
                Some(event) => shared.deliver(event, fds),
                None => tracing::error!("the warden sent a packet that is no message"),
            },
            Ok(Received::Garbage) => tracing::error!("the warden sent a packet that is too long"),
            Err(LinkErrno::AGAIN) => return Ok(()),
            Ok(Received::End) | Err(_) => return Err(End),
        }
    }
}

/// Sends kills that had to wait, until the socket is full again.
fn send_urgent(shared: &Shared) {
    let waiting = std::mem::take(&mut shared.table().urgent);
    let left: Vec<u64> = waiting.into_iter().skip_while(|number| shared.try_kill(*number)).collect();
    shared.table().urgent.extend(left);
}

async fn end_everything(shared: &Shared, child: &mut Child, emergency: Option<Emergency>) {
    if let Some(emergency) = &emergency
        && let Err(error) = (&emergency.kill).write_all(b"1")
    {
        // ENODEV: an orderly warden has already removed the instance.
        tracing::debug!(%error, "the instance's cgroup.kill");
    }
    let left = {
        let mut table = shared.table();
        table.closed = true;
        table.asks.clear();
        std::mem::take(&mut table.jobs)
    };
    shared.life.send_replace(Life::Gone);
    // Where there are groups the kernel says when they are empty; elsewhere the end of a keeper does.
    let (survivors, clean) = match emergency {
        Some(emergency) => (u32::from(!empty_within(emergency.events, EMERGENCY).await), None),
        None => {
            let clean = reap(child, shared.settings.shutdown).await;
            (u32::from(!clean), Some(clean))
        }
    };
    let end = Instant::now() + EMERGENCY;
    for entry in left.into_values() {
        let survivors = match entry.keeper {
            Some(keeper) => u32::from(!ended_by(keeper, end).await),
            None => survivors,
        };
        entry.progress.send_modify(|p| p.end(Emptied { survivors, usage: Usage::default() }));
    }
    let clean = match clean {
        Some(clean) => clean,
        None => reap(child, shared.settings.shutdown).await,
    };
    shared.life.send_replace(Life::Ended { clean });
}

/// Whether a process is gone in time.
async fn ended_by(pidfd: OwnedFd, end: Instant) -> bool {
    let Ok(pidfd) = sys::async_fd(pidfd, Interest::READABLE) else { return false };
    timeout_at(end, pidfd.readable()).await.is_ok_and(|ready| ready.is_ok())
}

/// Whether the instance's group is empty, or gone, in time.
async fn empty_within(events: OwnedFd, bound: Duration) -> bool {
    let Ok(events) = sys::async_fd(events, Interest::PRIORITY) else { return false };
    let empty = async {
        loop {
            let mut text = [0; 256];
            let populated = match rustix::io::pread(events.get_ref(), &mut text, 0) {
                Ok(read) => text.get(..read).is_some_and(|t| t.starts_with(b"populated 1")),
                Err(_) => false,
            };
            if !populated {
                return;
            }
            match timeout(LOOK_AGAIN, events.ready(Interest::PRIORITY)).await {
                Ok(Ok(mut ready)) => ready.clear_ready(),
                Ok(Err(_)) => {}
                Err(_) => put_down(events.get_ref()).await,
            }
        }
    };
    timeout(bound, empty).await.is_ok()
}

/// Ends who outlived the kill of the instance, as far as this process may.
async fn put_down(events: &OwnedFd) {
    let Some(path) = std::fs::read_link(resolve::magic(events)).ok() else { return };
    let Some(group) = path.parent().map(std::path::Path::to_owned) else { return };
    // A thousand members take longer than a thread of the runtime may be kept.
    let _ = tokio::task::spawn_blocking(move || leaf::put_down(&group)).await;
}

/// Reaps the warden, killing it if it does not end by itself. True when it ended with success.
async fn reap(child: &mut Child, bound: Duration) -> bool {
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed());
    let pidfd =
        pid.and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK).ok());
    if let Some(pidfd) = pidfd.and_then(|fd| sys::async_fd(fd, Interest::READABLE).ok())
        && timeout(bound, pidfd.readable()).await.is_err()
    {
        tracing::error!("the warden did not end in time");
        let _ = child.kill();
        let _ = timeout(SLACK, pidfd.readable()).await;
    }
    child.try_wait().ok().flatten().is_some_and(|status| status.success())
}
