//! Our standard streams, each way on a thread of its own: neither a read nor a write of them can be broken off, and whoever
//! waits for one must go on hearing the gateway and signals.

use std::collections::VecDeque;
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::io::Errno;
use tokio::sync::mpsc;

use crate::domain::StreamName;

/// Bytes of stdin read at once.
const CHUNK: usize = 16 * 1024;

/// Our standard input. An empty chunk is its end; nothing comes after that, or after an error.
pub(super) fn read_stdin() -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (out, chunks) = mpsc::channel(1);
    std::thread::spawn(move || {
        loop {
            let chunk = read_chunk();
            let last = chunk.as_ref().map_or(true, Vec::is_empty);
            if out.blocking_send(chunk).is_err() || last {
                return;
            }
        }
    });
    chunks
}

fn read_chunk() -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; CHUNK];
    let stdin = io::stdin();
    loop {
        match rustix::io::read(&stdin, &mut buffer) {
            Ok(n) => {
                buffer.truncate(n);
                return Ok(buffer);
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(stdin.as_fd(), PollFlags::POLLIN)?,
            // In the background of a shell that is gone nothing can be typed; a command that reads nothing runs on there.
            Err(Errno::IO) if stdin.is_terminal() => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Waits until a descriptor that somebody made non-blocking can be used.
fn wait(fd: BorrowedFd<'_>, what: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::new(fd, what)], PollTimeout::NONE) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// A part of a stream of the job.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) stream: StreamName,
    /// The offset of the byte after it.
    pub(super) end: u64,
    data: Vec<u8>,
}

/// Our standard output and error. What waits to be written is bounded by the windows that the gateway was given: a part is
/// acknowledged when it is written.
pub(super) struct Output {
    waiting: VecDeque<Part>,
    writer: mpsc::Sender<Part>,
    written: mpsc::Receiver<(Part, io::Result<()>)>,
    /// A part is being written.
    busy: bool,
}

impl Output {
    pub(super) fn new() -> Self {
        let (writer, mut parts) = mpsc::channel::<Part>(1);
        let (done, written) = mpsc::channel(1);
        std::thread::spawn(move || {
            while let Some(part) = parts.blocking_recv() {
                let outcome = write_out(&part);
                if done.blocking_send((part, outcome)).is_err() {
                    return;
                }
            }
        });
        Self { waiting: VecDeque::new(), writer, written, busy: false }
    }

    /// Bytes that wait to be written.
    pub(super) fn backlog(&self) -> usize {
        self.waiting.iter().map(|part| part.data.len()).sum()
    }

    /// Puts bytes in line; small ones are joined.
    pub(super) fn push(&mut self, stream: StreamName, end: u64, data: &[u8]) {
        match self.waiting.back_mut().filter(|part| part.stream == stream && part.data.len() < CHUNK) {
            Some(part) => {
                part.data.extend_from_slice(data);
                part.end = end;
            }
            None => self.waiting.push_back(Part { stream, end, data: data.to_vec() }),
        }
        self.hand_over();
    }

    fn hand_over(&mut self) {
        if self.busy {
            return;
        }
        let Some(part) = self.waiting.pop_front() else { return };
        // The thread waits for it, and the channel holds one.
        self.busy = self.writer.try_send(part).is_ok();
    }

    /// Whether something is not written yet.
    pub(super) const fn is_busy(&self) -> bool {
        self.busy
    }

    /// The next part that was written, or could not be: then nothing more is. Cancel safe.
    pub(super) async fn written(&mut self) -> Option<(Part, io::Result<()>)> {
        let written = self.written.recv().await;
        self.busy = false;
        if matches!(written, Some((_, Ok(())))) {
            self.hand_over();
        }
        written
    }

    /// Gives up what is not written; nobody is going to read it.
    pub(super) fn forget(&mut self) -> VecDeque<Part> {
        self.busy = false;
        std::mem::take(&mut self.waiting)
    }
}

fn write_out(part: &Part) -> io::Result<()> {
    match part.stream {
        StreamName::Stderr => write_all(io::stderr().as_fd(), &part.data),
        StreamName::Stdin | StreamName::Stdout | StreamName::Pty => {
            write_all(io::stdout().as_fd(), &part.data)
        }
    }
}

fn write_all(out: BorrowedFd<'_>, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        match rustix::io::write(out, data) {
            Ok(n) => data = data.get(n..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(out, PollFlags::POLLOUT)?,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}
