//! Bytes on their way into a job: a bounded queue and the task that empties it.
//!
//! An offer is taken whole or not at all. Credit is the offset up to which offers will be taken; it is looked up by
//! whoever tells the client, and never queued.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::Output;

/// The end-of-file character of a terminal in its usual mode (termios(3), VEOF). It ends the input only at the start
/// of a line; after an unfinished line it hands that over, and a second one ends the input.
const VEOF: u8 = 4;

/// How much stdin may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credit {
    /// Bytes taken in total.
    pub offset: u64,
    /// Bytes free in the queue.
    pub free: u32,
}

/// Why an offer was not taken; nothing of it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StdinRefused {
    /// It is larger than what is free.
    Busy {
        /// Bytes free.
        free: u64,
    },
    /// It does not begin where the last one ended.
    WrongOffset {
        /// Where that was.
        expected: u64,
    },
    /// The job no longer reads, or its input was ended.
    Closed,
}

/// The way into a job's standard input. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stdin {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    // Held for one copy of at most the queue, never across an await.
    queue: Mutex<Queue>,
    most: usize,
    changed: Notify,
    output: Arc<Output>,
}

#[derive(Debug)]
struct Queue {
    bytes: BytesMut,
    accepted: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The client has ended its input; what is queued is still written.
    Ending,
    /// Nobody reads any more.
    Closed,
}

impl Stdin {
    /// Starts the task that writes to `fd`, which must not block; it ends with the input, or when nobody reads. `output`
    /// is woken when there is new credit.
    ///
    /// # Errors
    /// What the runtime says of a descriptor that cannot be polled.
    pub fn start(
        fd: OwnedFd,
        terminal: bool,
        most: usize,
        output: Arc<Output>,
        tracker: &TaskTracker,
    ) -> io::Result<Self> {
        let fd = super::polled(fd, Interest::WRITABLE)?;
        let queue = Queue { bytes: BytesMut::new(), accepted: 0, state: State::Open };
        let shared = Arc::new(Shared { queue: Mutex::new(queue), most, changed: Notify::new(), output });
        tracker.spawn(write_out(shared.clone(), fd, terminal));
        Ok(Self { shared })
    }

    /// Takes the bytes, and the end of the input, or nothing. Returns the bytes taken in total.
    ///
    /// # Errors
    /// Why nothing was taken.
    pub fn offer(&self, offset: Option<u64>, data: &[u8], eof: bool) -> Result<u64, StdinRefused> {
        let mut queue = self.shared.queue();
        if queue.state != State::Open {
            return Err(StdinRefused::Closed);
        }
        if offset.is_some_and(|offset| offset != queue.accepted) {
            return Err(StdinRefused::WrongOffset { expected: queue.accepted });
        }
        let free = self.shared.most.saturating_sub(queue.bytes.len());
        if data.len() > free {
            return Err(StdinRefused::Busy { free: free as u64 });
        }
        queue.bytes.extend_from_slice(data);
        queue.accepted += data.len() as u64;
        if eof {
            queue.state = State::Ending;
        }
        self.shared.changed.notify_one();
        Ok(queue.accepted)
    }

    /// The job no longer reads: what is queued is dropped.
    pub fn close(&self) {
        self.shared.close();
    }

    /// The credit, when it was never told or half the queue has come free since. `told` remembers what was.
    pub fn credit_if_changed(&self, told: &mut Option<u64>) -> Option<Credit> {
        let queue = self.shared.queue();
        if queue.state != State::Open {
            return None;
        }
        let free = self.shared.most.saturating_sub(queue.bytes.len()) as u64;
        let limit = queue.accepted + free;
        let half = self.shared.most as u64 / 2;
        if told.is_some_and(|told| limit < told + half) {
            return None;
        }
        *told = Some(limit);
        Some(Credit { offset: queue.accepted, free: u32::try_from(free).unwrap_or(u32::MAX) })
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        let mut queue = self.queue();
        queue.state = State::Closed;
        queue.bytes = BytesMut::new();
        drop(queue);
        self.changed.notify_one();
    }
}

/// What the writing task finds when it looks.
enum Next {
    Write,
    Wait,
    End,
}

/// Writes the queue out. Ends when the input has ended and is written, when nobody reads, or when the job is over.
async fn write_out(shared: Arc<Shared>, fd: AsyncFd<OwnedFd>, terminal: bool) {
    let mut half_told = 0;
    loop {
        let next = {
            let queue = shared.queue();
            match (queue.state, queue.bytes.is_empty()) {
                (State::Closed, _) => return,
                (State::Open | State::Ending, false) => Next::Write,
                (State::Open, true) => Next::Wait,
                (State::Ending, true) => Next::End,
            }
        };
        match next {
            Next::Wait => shared.changed.notified().await,
            Next::End => break,
            Next::Write => {
                let written = tokio::select! {
                    written = fd.async_io(Interest::WRITABLE, |fd| write_once(&shared, fd)) => written,
                    () = shared.changed.notified() => continue,
                };
                match written {
                    Ok(n) => half_told += n,
                    Err(_) => return shared.close(),
                }
                if half_told >= shared.most / 2 {
                    half_told = 0;
                    shared.output.wake();
                }
            }
        }
    }
    if terminal {
        // A terminal cannot be half closed; a job that is gone needs no end of file.
        let _ = fd.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd.as_fd(), &[VEOF])?)).await;
    }
}

fn write_once(shared: &Shared, fd: &OwnedFd) -> io::Result<usize> {
    let mut queue = shared.queue();
    let n = rustix::io::write(fd.as_fd(), &queue.bytes)?;
    bytes::Buf::advance(&mut queue.bytes, n);
    Ok(n)
}
