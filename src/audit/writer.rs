//! The thread that writes, and the handle that others hold.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::chain::{self, Head};
use super::{AuditRefused, Entry, OpenFailure, Settings, Sync};

/// How long lines may wait for the disk under [`Sync::EverySecond`].
const EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
enum Work {
    Line(Box<Entry>),
    Flush(oneshot::Sender<()>),
}

/// The decision log. Without a path it takes every line and keeps none.
#[derive(Debug)]
pub struct Audit {
    queue: Option<SyncSender<Work>>,
    state: Arc<State>,
    refuse_when_full: bool,
}

#[derive(Debug, Default)]
struct State {
    broken: AtomicBool,
    lost: AtomicU64,
}

impl Audit {
    /// Opens the log and goes on with its chain. The thread ends with the last handle.
    ///
    /// # Errors
    /// That it cannot be opened, or that its chain is broken.
    pub fn open(settings: &Settings) -> Result<Self, OpenFailure> {
        let state = Arc::new(State::default());
        let refuse_when_full = settings.refuse_when_full;
        let Some(path) = &settings.path else { return Ok(Self { queue: None, state, refuse_when_full }) };
        let failed = |error| OpenFailure::Io { path: path.clone(), error };
        let (file, head) = open(path)?;
        let (queue, work) = sync_channel(settings.queue);
        let writer = Writer { file, head, sync: settings.sync, state: state.clone(), unsynced: None };
        let thread = std::thread::Builder::new().name("audit".to_owned());
        thread.spawn(move || writer.run(&work)).map_err(failed)?;
        Ok(Self { queue: Some(queue), state, refuse_when_full })
    }

    /// Queues a line; never waits.
    ///
    /// # Errors
    /// [`AuditRefused`] when it cannot be kept and must be.
    pub fn record(&self, entry: Entry) -> Result<(), AuditRefused> {
        let Some(queue) = &self.queue else { return Ok(()) };
        let queued =
            !self.state.broken.load(Ordering::Acquire) && queue.try_send(Work::Line(Box::new(entry))).is_ok();
        if queued {
            return Ok(());
        }
        if self.refuse_when_full {
            return Err(AuditRefused);
        }
        self.state.lost.fetch_add(1, Ordering::Relaxed);
        Ok(())
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
            (Some(_), false) => Ok(format!("on, {} lost", self.state.lost.load(Ordering::Relaxed))),
            (Some(_), true) => Err("the log cannot be written".to_owned()),
        }
    }
}

fn open(path: &Path) -> Result<(File, Head), OpenFailure> {
    let failed = |error| OpenFailure::Io { path: path.to_owned(), error };
    let mut file =
        OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).map_err(failed)?;
    let head = chain::follow(&mut BufReader::new(&file))
        .map_err(|bad| OpenFailure::Broken { path: path.to_owned(), bad })?;
    file.seek(SeekFrom::End(0)).map_err(failed)?;
    Ok((file, head))
}

struct Writer {
    file: File,
    head: Head,
    sync: Sync,
    state: Arc<State>,
    unsynced: Option<Instant>,
}

impl Writer {
    fn run(mut self, work: &Receiver<Work>) {
        loop {
            let patience = self.unsynced.map_or(EVERY, |since| EVERY.saturating_sub(since.elapsed()));
            match work.recv_timeout(patience) {
                Ok(Work::Line(entry)) => self.write(&entry),
                Ok(Work::Flush(done)) => {
                    self.sync_now();
                    // Nobody has to wait for the answer.
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.sync_now(),
            }
            if self.sync == Sync::EverySecond && self.unsynced.is_some_and(|since| since.elapsed() >= EVERY) {
                self.sync_now();
            }
        }
    }

    fn write(&mut self, entry: &Entry) {
        let (line, head) = self.head.join(entry.value());
        match self.file.write_all(line.as_bytes()) {
            Ok(()) => {
                self.head = head;
                self.unsynced.get_or_insert_with(Instant::now);
                self.state.broken.store(false, Ordering::Release);
            }
            Err(error) => self.broken(&error),
        }
        if self.sync == Sync::Always {
            self.sync_now();
        }
    }

    fn sync_now(&mut self) {
        if self.unsynced.take().is_some()
            && let Err(error) = self.file.sync_data()
        {
            self.broken(&error);
        }
    }

    fn broken(&self, error: &std::io::Error) {
        if !self.state.broken.swap(true, Ordering::AcqRel) {
            tracing::error!(%error, "the decision log cannot be written");
        }
        self.state.lost.fetch_add(1, Ordering::Relaxed);
    }
}
