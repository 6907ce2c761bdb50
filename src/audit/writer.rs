//! The thread that writes, and the handle that others hold.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::domain::Principal;

use super::backlog::{Backlog, NoRoom};
use super::chain::Head;
use super::entry::{Keep, now_ms};
use super::mask::Masks;
use super::open::{Opened, open};
use super::tally::{RefusedBy, Tally};
use super::verify::rotated;
use super::{AuditRefused, Entry, OpenFailure, Settings, Sync};

/// How often refusals are written, a broken file is tried again, and lines reach the disk under [`Sync::EverySecond`].
const EVERY: Duration = Duration::from_secs(1);
/// How long the thread sleeps after a line instead of waiting for the next: who records need not wake it, which costs them more
/// than the line does. A burst is written together.
const LINGER: Duration = Duration::from_millis(2);
/// Least queue with which it lingers: what comes meanwhile must have room.
const LINGER_ROOM: usize = 1024;
/// How often the head goes to the normal log.
const HEAD_EVERY: Duration = Duration::from_secs(60);
/// How long after a rotation that failed the next one is tried: what it lacked, room or descriptors, somebody has to free.
const ROTATE_AGAIN: Duration = Duration::from_secs(10);

#[derive(Debug)]
enum Work {
    /// With the bytes it was counted as.
    Line(Box<Entry>, usize),
    Flush(oneshot::Sender<()>),
}

/// The decision log. Without a path it takes every line and keeps none.
#[derive(Debug)]
pub struct Audit {
    queue: Option<SyncSender<Work>>,
    state: Arc<State>,
    refuse_when_full: bool,
}

#[derive(Debug)]
struct State {
    broken: AtomicBool,
    lost: AtomicU64,
    backlog: Backlog,
    tally: Tally,
}

impl Audit {
    /// Opens the log and goes on with its chain. The thread ends with the last handle.
    ///
    /// # Errors
    /// That it cannot be opened, or that its chain is broken.
    pub fn open(settings: &Settings) -> Result<Self, OpenFailure> {
        let tally = Tally::new(settings.tenant_bytes);
        let state = Arc::new(State {
            broken: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            backlog: Backlog::new(settings.queue),
            tally,
        });
        let refuse_when_full = settings.refuse_when_full;
        let Some(path) = &settings.path else { return Ok(Self { queue: None, state, refuse_when_full }) };
        let failed = |error| OpenFailure::Io { path: path.clone(), error };
        let opened = open(path)?;
        let torn = opened.torn;
        let (queue, work) = sync_channel(settings.queue);
        let mut writer = Writer::new(path, opened, settings, state.clone());
        if torn > 0 {
            tracing::warn!(path = %path.display(), bytes = torn, "the decision log ended in half a line: it was taken off");
            writer.put(Held::About(
                json!({"time_ms": now_ms(), "hook": "log", "event": "torn", "bytes": torn}),
            ));
        }
        let thread = std::thread::Builder::new().name("audit".to_owned());
        thread.spawn(move || writer.run(&work)).map_err(failed)?;
        Ok(Self { queue: Some(queue), state, refuse_when_full })
    }

    /// Queues a line; never waits.
    ///
    /// # Errors
    /// [`AuditRefused`] when it cannot be kept and must be, or when the tenant's share of the log or of its queue is used up.
    pub fn record(&self, entry: Entry) -> Result<(), AuditRefused> {
        let Some(queue) = &self.queue else { return Ok(()) };
        if !self.state.tally.has_share(&entry.principal().tenant) {
            return Err(AuditRefused::Tenant);
        }
        let refused = match self.queued(queue, entry) {
            Ok(()) => return Ok(()),
            Err(NoRoom::Full) => AuditRefused::Full,
            Err(NoRoom::Share) => AuditRefused::Backlog,
        };
        if self.refuse_when_full {
            return Err(refused);
        }
        self.state.lost.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn queued(&self, queue: &SyncSender<Work>, entry: Entry) -> Result<(), NoRoom> {
        let (tenant, bytes) = (entry.principal().tenant.clone(), entry.bytes());
        // Counted before it is there: the writer may take it at once.
        self.state.backlog.enter(&tenant, bytes)?;
        let broken = self.state.broken.load(Ordering::Acquire);
        if !broken && queue.try_send(Work::Line(Box::new(entry), bytes)).is_ok() {
            return Ok(());
        }
        self.state.backlog.leave(&tenant, bytes);
        Err(NoRoom::Full)
    }

    /// Counts a refusal by something that asks no policy; written once a second for each principal.
    pub fn refused(&self, principal: &Principal, by: RefusedBy) {
        if self.queue.is_some() {
            self.state.tally.refused(principal, by);
        }
    }

    /// Waits until what was recorded so far is on the disk.
    pub async fn flush(&self) {
        let Some(queue) = self.queue.clone() else { return };
        let (done, flushed) = oneshot::channel();
        // The queue may be full: asking waits on a thread of its own.
        let asked = tokio::task::spawn_blocking(move || queue.send(Work::Flush(done)).is_ok()).await;
        if asked.unwrap_or(false) {
            // A writer that is gone has nothing left to flush.
            let _ = flushed.await;
        }
    }

    /// Whether lines can be kept.
    ///
    /// # Errors
    /// What is wrong.
    pub fn health(&self) -> Result<String, String> {
        match (&self.queue, self.state.broken.load(Ordering::Acquire)) {
            (None, _) => Ok("off".to_owned()),
            (Some(_), false) => Ok(format!("on, {} lost", self.lost())),
            (Some(_), true) => Err("the log cannot be written".to_owned()),
        }
    }

    /// Lines that wait to be written.
    pub fn waiting(&self) -> usize {
        self.state.backlog.lines()
    }

    /// Lines that were lost since the start.
    pub fn lost(&self) -> u64 {
        self.state.lost.load(Ordering::Relaxed)
    }
}

/// The next piece of work: what is there; after a moment, if it should linger; then whatever comes in time.
fn next(work: &Receiver<Work>, linger: bool, wait: Duration) -> Result<Work, RecvTimeoutError> {
    if let Ok(work) = work.try_recv() {
        return Ok(work);
    }
    if linger {
        std::thread::sleep(LINGER);
    }
    work.recv_timeout(wait)
}

/// What is to be written next.
enum Held {
    /// A decision, with the bytes it was counted as.
    Decision(Box<Entry>, usize),
    /// Something else than one decision.
    About(Value),
    /// How many were lost, as of when it is written.
    Lost,
}

struct Writer {
    path: PathBuf,
    /// Two that write to one log would break its chain.
    file: Flock<File>,
    head: Head,
    length: u64,
    settings: Settings,
    /// What could not be written, oldest first: while there is any the log is broken, and nothing else is taken. Bounded by the
    /// backlog, in which it still counts.
    held: VecDeque<Held>,
    masks: Masks,
    state: Arc<State>,
    unsynced: Option<Instant>,
    /// Half a line is at the end of the file, and nothing may be joined to it.
    torn: bool,
    /// When a rotation failed last.
    not_rotated: Option<Instant>,
    /// The lost lines that the log tells of.
    lost_told: u64,
    /// The head that was told last, and when.
    told: Option<(u64, Instant)>,
}

impl Writer {
    fn new(path: &Path, opened: Opened, settings: &Settings, state: Arc<State>) -> Self {
        Self {
            path: path.to_owned(),
            file: opened.file,
            head: opened.head,
            length: opened.length,
            settings: settings.clone(),
            held: VecDeque::new(),
            masks: Masks::new(&settings.mask),
            state,
            unsynced: None,
            torn: false,
            not_rotated: None,
            lost_told: 0,
            told: None,
        }
    }

    fn run(mut self, work: &Receiver<Work>) {
        let mut looked = Instant::now();
        let mut linger = false;
        loop {
            let next = next(work, linger, EVERY.saturating_sub(looked.elapsed()));
            linger = matches!(next, Ok(Work::Line(..))) && self.settings.queue >= LINGER_ROOM;
            match next {
                Ok(Work::Line(entry, bytes)) => self.put(Held::Decision(entry, bytes)),
                Ok(Work::Flush(done)) => {
                    self.look();
                    self.sync_now();
                    // Nobody has to wait for the answer.
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.look();
                    self.sync_now();
                    self.give_up();
                    return self.tell_head();
                }
            }
            if looked.elapsed() >= EVERY {
                looked = Instant::now();
                self.every_second();
            }
        }
    }

    fn every_second(&mut self) {
        self.look();
        if self.settings.sync == Sync::EverySecond {
            self.sync_now();
        }
        let due = self.told.is_none_or(|(lines, at)| lines != self.head.lines && at.elapsed() >= HEAD_EVERY);
        if due {
            self.tell_head();
        }
    }

    /// Whether a broken log can be written again; and if it can, what else there is to say.
    fn look(&mut self) {
        if self.is_broken() && !self.mended() {
            return;
        }
        let refusals = self.state.tally.take_refusals();
        refusals.into_iter().for_each(|line| self.put(Held::About(line)));
        if self.state.lost.load(Ordering::Relaxed) != self.lost_told {
            self.put(Held::Lost);
        }
    }

    /// Nothing is taken before what failed is in the file: a shorter line would fit where it did not, and be taken for the end
    /// of the trouble.
    fn mended(&mut self) -> bool {
        if self.held.is_empty() {
            // It was the disk that failed, not a line: found out by writing one.
            self.held.push_back(Held::Lost);
        }
        let mended = self.catch_up() && (self.settings.sync == Sync::Never || self.sync_now());
        if mended {
            self.state.broken.store(false, Ordering::Release);
            let lost = self.state.lost.load(Ordering::Relaxed);
            tracing::warn!(lost, "the decision log can be written again");
        }
        mended
    }

    /// Writes a line, or holds it until that can be done.
    fn put(&mut self, line: Held) {
        self.held.push_back(line);
        if !self.is_broken() {
            self.catch_up();
        }
    }

    /// Writes what is held. Whether all of it was written, and synced where each line must be.
    fn catch_up(&mut self) -> bool {
        while let Some(held) = self.held.pop_front() {
            let lost = self.state.lost.load(Ordering::Relaxed);
            let (line, head) = match &held {
                Held::Decision(entry, _) => self
                    .head
                    .join([Keep::Most, Keep::Gist].into_iter().map(|keep| entry.value(&self.masks, keep))),
                Held::About(value) => self.head.join([value.clone()]),
                Held::Lost => self
                    .head
                    .join([json!({"time_ms": now_ms(), "hook": "log", "event": "lost", "lines": lost})]),
            };
            if !self.append(&line, head) {
                self.held.push_front(held);
                return false;
            }
            match held {
                Held::Decision(entry, bytes) => {
                    let tenant = &entry.principal().tenant;
                    self.state.tally.wrote(tenant, line.len());
                    self.state.backlog.leave(tenant, bytes);
                }
                Held::About(_) => {}
                Held::Lost => self.lost_told = lost,
            }
            if self.settings.sync == Sync::Always && !self.sync_now() {
                return false;
            }
        }
        true
    }

    /// What is held at the end is lost.
    fn give_up(&mut self) {
        let lines = self.held.drain(..).filter(|held| !matches!(held, Held::Lost)).count() as u64;
        if lines > 0 {
            self.state.lost.fetch_add(lines, Ordering::Relaxed);
            tracing::error!(lines, "the decision log could not be written to the end; these lines are lost");
        }
    }

    /// Whether the line was written.
    fn append(&mut self, line: &str, head: Head) -> bool {
        let tried = self.not_rotated.is_some_and(|at| at.elapsed() < ROTATE_AGAIN);
        if self.length > 0 && self.length + line.len() as u64 > self.settings.rotate && !tried {
            self.rotate();
        }
        let written = self.whole(line);
        match &written {
            Ok(()) => {
                self.head = head;
                self.length += line.len() as u64;
                self.unsynced.get_or_insert_with(Instant::now);
            }
            Err(error) => self.broken(error),
        }
        written.is_ok()
    }

    /// Writes a line whole, or leaves nothing of it that a later one could be joined to.
    fn whole(&mut self, line: &str) -> std::io::Result<()> {
        if self.torn {
            self.file.set_len(self.length)?;
            self.torn = false;
        }
        self.file.write_all(line.as_bytes()).inspect_err(|_| {
            self.torn = self.file.set_len(self.length).is_err();
        })
    }

    /// Begins another file. When that fails, this one goes on.
    fn rotate(&mut self) {
        self.sync_now();
        self.tell_head();
        self.not_rotated = None;
        if let Err(error) = self.shift() {
            self.not_rotated = Some(Instant::now());
            tracing::error!(%error, again_in = ?ROTATE_AGAIN, "the decision log cannot be rotated; it grows on");
        }
    }

    /// The next file is there before an older one is moved, and moving begins at the first number that is free, so that what
    /// breaks off half-way loses nothing, and is gone on with.
    fn shift(&mut self) -> std::io::Result<()> {
        let next = self.next_file();
        if std::fs::symlink_metadata(&next).is_ok_and(|left| left.is_file() && left.len() == 0) {
            std::fs::remove_file(&next)?;
        }
        let file = OpenOptions::new().read(true).append(true).create_new(true).mode(0o600).open(&next)?;
        let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)?;
        // More were kept before, perhaps: what is left must be one chain.
        let over = (self.settings.keep + 1..).map(|number| rotated(&self.path, number));
        let over: Vec<_> = over.take_while(|path| path.exists()).collect();
        over.iter().rev().try_for_each(std::fs::remove_file)?;
        let name = |number| if number == 0 { self.path.clone() } else { rotated(&self.path, number) };
        let free = (0..=self.settings.keep).find(|number| !name(*number).exists());
        for number in (0..free.unwrap_or(self.settings.keep)).rev() {
            std::fs::rename(name(number), name(number + 1))?;
        }
        std::fs::rename(&next, &self.path)?;
        (self.file, self.length) = (file, 0);
        Ok(())
    }

    /// What the next file is called until it takes its place; a crash may leave an empty one.
    fn next_file(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".next");
        PathBuf::from(name)
    }

    fn tell_head(&mut self) {
        self.told = Some((self.head.lines, Instant::now()));
        tracing::info!(path = %self.path.display(), lines = self.head.lines, head = self.head.hash, "the decision log's head");
    }

    /// Whether what was written is on the disk.
    fn sync_now(&mut self) -> bool {
        if self.unsynced.take().is_none() {
            return true;
        }
        self.file.sync_data().inspect_err(|error| self.broken(error)).is_ok()
    }

    fn is_broken(&self) -> bool {
        self.state.broken.load(Ordering::Acquire)
    }

    fn broken(&self, error: &std::io::Error) {
        if !self.state.broken.swap(true, Ordering::AcqRel) {
            tracing::error!(%error, "the decision log cannot be written");
        }
    }
}

#[cfg(test)]
mod tests;
