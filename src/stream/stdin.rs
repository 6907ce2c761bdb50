//! The way into a job: a bounded queue between whoever may write and the pipe or terminal.
//!
//! Accepting is all or nothing and never waits; the feed is a task of its own, so a job that reads nothing and prints
//! without end blocks neither. Credit is a level, not an event: whoever polls late sees the newest.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::io::Errno;
use rustix::termios::SpecialCodeIndex;
use tokio::io::Interest;
use tokio::net::unix::pipe;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Why bytes were not accepted; nothing of them was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StdinRefused {
    /// They do not fit now.
    #[error("stdin queue has {free} bytes free")]
    Busy {
        /// Bytes that would.
        free: u64,
    },
    /// They do not continue what was accepted.
    #[error("stdin continues at {expected}")]
    WrongOffset {
        /// The offset that would.
        expected: u64,
    },
    /// The end was sent, or nobody reads any more.
    #[error("stdin is closed")]
    Closed,
}

/// What a client may send: from `offset` on, `free` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StdinCredit {
    /// Bytes accepted in total.
    pub offset: u64,
    /// Bytes free in the queue.
    pub free: u64,
}

/// What the feed writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StdinPort {
    /// A pipe: the end is its closing.
    Pipe,
    /// A terminal's master: the end is its VEOF character, twice when the line is not empty (the first then only hands the
    /// line over, termios(3)).
    Terminal,
}

/// The stdin of one job. Cloning gives another handle to the same.
#[derive(Debug, Clone)]
pub struct Stdin {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// A lock and not a task: an offer must be answered at once, and it is held for one copy, never across an await.
    queue: Mutex<Queue>,
    /// Tells the feed that there is something to do.
    work: Notify,
}

#[derive(Debug)]
struct Queue {
    bytes: VecDeque<u8>,
    capacity: usize,
    accepted: u64,
    mouth: Mouth,
    /// Who polls the credit.
    watchers: Vec<Weak<Notify>>,
}

/// Whether more is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mouth {
    Open,
    /// The end is behind the last byte.
    Ending,
    Closed,
}

impl Queue {
    fn free(&self) -> usize {
        self.capacity - self.bytes.len()
    }

    fn credit(&self) -> StdinCredit {
        let free = match self.mouth {
            Mouth::Open => self.free() as u64,
            Mouth::Ending | Mouth::Closed => 0,
        };
        StdinCredit { offset: self.accepted, free }
    }

    fn wake(&mut self) {
        self.watchers.retain(|watcher| watcher.strong_count() > 0);
        for watcher in self.watchers.iter().filter_map(Weak::upgrade) {
            watcher.notify_one();
        }
    }
}

impl Stdin {
    /// An empty queue of `bytes` (from `Settings::stdin_bytes`).
    pub fn new(bytes: u32) -> Self {
        let queue = Queue {
            bytes: VecDeque::new(),
            capacity: usize::try_from(bytes).unwrap_or(usize::MAX),
            accepted: 0,
            mouth: Mouth::Open,
            watchers: Vec::new(),
        };
        Self { shared: Arc::new(Shared { queue: Mutex::new(queue), work: Notify::new() }) }
    }

    /// Accepts all of `data`, and the end behind it, or nothing. Returns the bytes accepted in total.
    ///
    /// # Errors
    /// See [`StdinRefused`].
    pub fn offer(&self, offset: Option<u64>, data: &[u8], eof: bool) -> Result<u64, StdinRefused> {
        let mut queue = self.lock();
        if queue.mouth != Mouth::Open {
            return Err(StdinRefused::Closed);
        }
        if offset.is_some_and(|offset| offset != queue.accepted) {
            return Err(StdinRefused::WrongOffset { expected: queue.accepted });
        }
        if data.len() > queue.free() {
            return Err(StdinRefused::Busy { free: queue.free() as u64 });
        }
        queue.bytes.extend(data);
        queue.accepted += data.len() as u64;
        if eof {
            queue.mouth = Mouth::Ending;
        }
        self.shared.work.notify_one();
        Ok(queue.accepted)
    }

    /// Watches the credit; `wake` is notified when [`StdinWatch::poll`] may have something.
    pub fn watch(&self, wake: &Arc<Notify>) -> StdinWatch {
        let mut queue = self.lock();
        queue.watchers.retain(|watcher| watcher.strong_count() > 0);
        if !queue.watchers.iter().any(|watcher| std::ptr::eq(watcher.as_ptr(), Arc::as_ptr(wake))) {
            queue.watchers.push(Arc::downgrade(wake));
        }
        wake.notify_one();
        StdinWatch { stdin: self.clone(), announced: None }
    }

    /// What may be sent now.
    pub fn credit(&self) -> StdinCredit {
        self.lock().credit()
    }

    /// Accepts nothing any more and forgets what is queued.
    fn close(&self) {
        let mut queue = self.lock();
        queue.mouth = Mouth::Closed;
        queue.bytes = VecDeque::new();
        queue.wake();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The owner's view of the credit.
#[derive(Debug)]
pub struct StdinWatch {
    stdin: Stdin,
    announced: Option<StdinCredit>,
}

impl StdinWatch {
    /// The credit, when the client should be told: at first, and whenever it may send half a queue more than it knows.
    pub fn poll(&mut self) -> Option<StdinCredit> {
        let queue = self.stdin.lock();
        let credit = queue.credit();
        let half = (queue.capacity / 2) as u64;
        let due = match self.announced {
            None => true,
            Some(known) => credit.offset + credit.free >= known.offset + known.free + half.max(1),
        };
        drop(queue);
        if !due {
            return None;
        }
        self.announced = Some(credit);
        self.announced
    }
}

/// What one attempt to write came to.
enum Fed {
    /// Something was written.
    Bytes,
    /// Nothing is queued.
    Empty,
    /// Everything is written and the end is next.
    End {
        /// Whether the last byte left a line unfinished.
        line: Line,
    },
}

/// Where the terminal's line discipline stands, as far as we wrote to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Fresh,
    Begun,
}

/// Body of the task that moves what was accepted into `fd`. The job owns the task; it ends when the end is written, when
/// nobody reads any more, or at `job_ended`. Closes `fd` then.
///
/// `fd` becomes non-blocking. Must run inside a runtime with IO.
///
/// # Errors
/// Why writing failed; that the job closed its side is none.
pub fn feed(
    fd: OwnedFd,
    port: StdinPort,
    stdin: Stdin,
    job_ended: CancellationToken,
) -> impl Future<Output = io::Result<()>> + Send + 'static {
    // Made before the first poll: a task may be dropped without one.
    let closing = Closing(stdin);
    async move {
        let end = tokio::select! {
            biased;
            () = job_ended.cancelled() => Ok(()),
            end = run(fd, port, &closing.0) => end,
        };
        end.or_else(|error| match Errno::from_io_error(&error) {
            Some(Errno::PIPE | Errno::IO) => Ok(()),
            Some(_) | None => Err(error),
        })
    }
}

/// Closes the queue when the feed ends, however it does.
struct Closing(Stdin);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

async fn run(fd: OwnedFd, port: StdinPort, stdin: &Stdin) -> io::Result<()> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    // Unchecked: a terminal's master is polled and written as a pipe is.
    let fd = pipe::Sender::from_owned_fd_unchecked(fd)?;
    let mut line = Line::Fresh;
    loop {
        match attempt(&fd, || write(&fd, stdin, &mut line)).await {
            Ok(None | Some(Fed::Bytes)) => {}
            Ok(Some(Fed::Empty)) => stdin.shared.work.notified().await,
            Ok(Some(Fed::End { line })) => return finish(&fd, port, line).await,
            Err(error) => return Err(error),
        }
    }
}

/// Writes once `fd` may take something; `None` when it did not after all.
///
/// Waits for ever at a terminal that is full and that nobody holds any more: the runtime calls it ready from then on, and
/// each write would block, so that trying on would keep this thread from everything else.
async fn attempt<T>(fd: &pipe::Sender, write: impl FnOnce() -> io::Result<T>) -> io::Result<Option<T>> {
    let ready = fd.ready(Interest::WRITABLE).await?;
    match fd.try_io(write) {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        Err(_) if ready.is_write_closed() => std::future::pending().await,
        Err(_) => Ok(None),
    }
}

fn write(fd: impl AsFd, stdin: &Stdin, line: &mut Line) -> io::Result<Fed> {
    let mut queue = stdin.lock();
    if queue.bytes.is_empty() {
        return Ok(if queue.mouth == Mouth::Open { Fed::Empty } else { Fed::End { line: *line } });
    }
    let (first, second) = queue.bytes.as_slices();
    let slices = [IoSlice::new(first), IoSlice::new(second)];
    let written = rustix::io::retry_on_intr(|| rustix::io::writev(&fd, &slices))?;
    let written = written.min(queue.bytes.len());
    if let Some(last) = queue.bytes.drain(..written).next_back() {
        *line = if last == b'\n' { Line::Fresh } else { Line::Begun };
    }
    queue.wake();
    Ok(Fed::Bytes)
}

async fn finish(fd: &pipe::Sender, port: StdinPort, line: Line) -> io::Result<()> {
    let times = match (port, line) {
        (StdinPort::Pipe, _) => return Ok(()),
        (StdinPort::Terminal, Line::Fresh) => 1,
        (StdinPort::Terminal, Line::Begun) => 2,
    };
    let end = [rustix::termios::tcgetattr(fd)?.special_codes[SpecialCodeIndex::VEOF]; 2];
    let mut left = end.get(..times).unwrap_or_default();
    while !left.is_empty() {
        let written = attempt(fd, || Ok(rustix::io::write(fd, left)?)).await?;
        left = left.get(written.unwrap_or_default()..).unwrap_or_default();
    }
    Ok(())
}
