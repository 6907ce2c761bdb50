//! Reads one stream of a job into its ring until there is nothing more to read.
//!
//! ```text
//!            room ┌────────┐ last call      ┌───────────────────────────┐ would block, end of file
//! start ────────> │ live   │ ─────────────> │ last: reads what is there │ ──────────────────────────> ended
//!                 └────────┘                └───────────────────────────┘
//!                     └── end of file, error ───────────────────────────────────────────────────────> ended
//! ```
//!
//! A descendant that holds the pipe can keep the end of file away for ever. So the job task makes the *last call* once
//! the tree is empty: whatever was written is in the pipe by then, and a read that would block is the end.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use tokio::net::unix::pipe;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::output::{Filled, Output};
use super::source::Source;

/// Body of the task that moves `source` of a job from `fd` into `output`. The job owns the task; it ends at the end of the
/// stream or at the `last_call`, and if it is dropped earlier the stream ends with it. However it ends, the stream has ended
/// for its viewers.
///
/// `fd` becomes non-blocking. Must run inside a runtime with IO.
///
/// # Errors
/// Why reading failed: what was not read is lost.
pub fn pump(
    fd: OwnedFd,
    source: Source,
    output: Output,
    last_call: CancellationToken,
) -> impl Future<Output = io::Result<()>> + Send + 'static {
    // Made before the first poll: a task may be dropped without one.
    let ending = Ending { output, source };
    async move { run(fd, source, &ending.output, &last_call).await }
}

/// Ends the stream when the pump does, however it does.
struct Ending {
    output: Output,
    source: Source,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.output.end(self.source);
    }
}

async fn run(fd: OwnedFd, source: Source, output: &Output, last_call: &CancellationToken) -> io::Result<()> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    // Unchecked: a terminal's master is polled and read as a pipe is.
    let fd = pipe::Receiver::from_owned_fd_unchecked(fd)?;
    while is_live(&fd, last_call).await? {
        match fd.try_io(|| read(&fd, source, output)) {
            // The readiness was stale; it is cleared now.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
            Ok(filled) => {
                if settle(filled, source, output, last_call).await.is_break() {
                    return Ok(());
                }
            }
        }
    }
    loop {
        // Past the runtime's readiness: only the kernel knows that nothing is left.
        match read(&fd, source, output) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
            Ok(filled) => {
                if settle(filled, source, output, last_call).await.is_break() {
                    return Ok(());
                }
                tokio::task::consume_budget().await;
            }
        }
    }
}

/// Waits for something to read; false at the last call.
async fn is_live(fd: &pipe::Receiver, last_call: &CancellationToken) -> io::Result<bool> {
    tokio::select! {
        biased;
        () = last_call.cancelled() => Ok(false),
        ready = fd.readable() => ready.map(|()| true),
    }
}

/// Waits where the pump has to; breaks where the end is.
async fn settle(
    filled: Filled,
    source: Source,
    output: &Output,
    last_call: &CancellationToken,
) -> ControlFlow<()> {
    match filled {
        Filled::Bytes => ControlFlow::Continue(()),
        Filled::NoRoom => {
            output.room(source).await;
            ControlFlow::Continue(())
        }
        Filled::Polite(left) => {
            // Whether they came on or not, the next attempt sees.
            timeout(left, output.room(source)).await.unwrap_or_default();
            ControlFlow::Continue(())
        }
        Filled::End => ControlFlow::Break(()),
        Filled::OverLimit => {
            // The pipe stays open until the tree is gone: a SIGPIPE would hide why the job ended.
            last_call.cancelled().await;
            ControlFlow::Break(())
        }
    }
}

fn read(fd: impl AsFd, source: Source, output: &Output) -> io::Result<Filled> {
    output.fill(source, |slices| match rustix::io::retry_on_intr(|| rustix::io::readv(&fd, slices)) {
        // A terminal of which the last process is gone (Linux tty_read).
        Err(Errno::IO) if source == Source::Pty => Ok(0),
        read => Ok(read?),
    })
}
