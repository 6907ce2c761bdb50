//! From a pipe or terminal into a ring.
//!
//! ```text
//! Live ──leader dead──> Draining ──quiet──> (parked) ──tree empty──> Final ──end of file or nothing left──> ended
//! ```
//! Live reads whenever there are bytes and room. Draining does the same, but is *quiet* once no new byte came for
//! `drain_idle`, or `drain_total` is over; time without room does not count, for then it is the viewer that is slow. Final
//! reads what is left without waiting for more: nobody is left to write it.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::domain::StreamName;

use super::Settings;
use super::output::{Filled, Output};

/// How far the end of the job has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Phase {
    Live,
    Draining,
    Final,
}

/// The pumps of one job. Dropping them ends them.
#[derive(Debug)]
pub struct Pumps {
    tasks: JoinSet<()>,
    phase: watch::Sender<Phase>,
    /// How many pumps have ended or are quiet.
    quiet: watch::Receiver<usize>,
    count: usize,
    over: Arc<Notify>,
}

impl Pumps {
    /// Starts a pump for each descriptor, which must not block. `limit` bounds the bytes of all streams together.
    ///
    /// # Errors
    /// What the runtime says of a descriptor that cannot be polled.
    pub fn start(
        sources: Vec<(StreamName, OwnedFd)>,
        output: &Arc<Output>,
        limit: Option<u64>,
        settings: &Settings,
    ) -> io::Result<Self> {
        let phase = watch::Sender::new(Phase::Live);
        let (quieter, quiet) = watch::channel(0);
        let over = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        let count = sources.len();
        for (name, fd) in sources {
            let Some(stream) = output.index(name) else { continue };
            let pump = Pump {
                fd: super::polled(fd, Interest::READABLE)?,
                stream,
                output: output.clone(),
                phase: phase.subscribe(),
                quiet: quieter.clone(),
                limit,
                over: over.clone(),
                idle: settings.drain_idle,
                total: settings.drain_total,
            };
            tasks.spawn(pump.run());
        }
        Ok(Self { tasks, phase, quiet, count, over })
    }

    /// Completes when the output has passed the limit.
    pub async fn over_limit(&self) {
        self.over.notified().await;
    }

    /// The leader is dead: waits, within bounds, until no more output is to be expected.
    pub async fn drained(&mut self) {
        self.phase.send_replace(Phase::Draining);
        let count = self.count;
        // The senders live in the pumps: an error means that all have ended.
        let _ = self.quiet.wait_for(|quiet| *quiet >= count).await;
    }

    /// The tree is empty: reads what is left, and no more.
    pub fn read_to_end(&self) {
        self.phase.send_replace(Phase::Final);
    }

    /// Completes when every stream has ended.
    pub async fn ended(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

struct Pump {
    fd: AsyncFd<OwnedFd>,
    stream: usize,
    output: Arc<Output>,
    phase: watch::Receiver<Phase>,
    quiet: watch::Sender<usize>,
    limit: Option<u64>,
    over: Arc<Notify>,
    idle: Duration,
    total: Duration,
}

/// How a wait for bytes ended.
enum Waited {
    /// A read succeeded, or found no room.
    Filled(Filled),
    /// The phase changed: look again.
    Phase,
    /// It took too long.
    Quiet,
    /// There is nothing to read now.
    Empty,
}

impl Pump {
    /// Owned by the job's [`Pumps`]; ends at the end of the stream.
    async fn run(mut self) {
        let mut total = self.total;
        let mut told_quiet = false;
        loop {
            let phase = *self.phase.borrow_and_update();
            let patience = (phase == Phase::Draining && !told_quiet).then(|| self.idle.min(total));
            let since = Instant::now();
            let waited = match phase {
                Phase::Final => self.read_now(),
                Phase::Live | Phase::Draining => self.read_within(patience).await,
            };
            if phase == Phase::Draining {
                total = total.saturating_sub(since.elapsed());
            }
            match waited {
                Waited::Phase => {}
                Waited::Filled(Filled::Bytes(_)) => self.look_at_limit(),
                Waited::Filled(Filled::NoRoom) => self.wait_for_room().await,
                Waited::Filled(Filled::End) | Waited::Empty => break,
                Waited::Quiet => {
                    told_quiet = true;
                    self.quiet.send_modify(|quiet| *quiet += 1);
                }
            }
        }
        self.output.end(self.stream);
        if !told_quiet {
            self.quiet.send_modify(|quiet| *quiet += 1);
        }
    }

    async fn read_within(&mut self, patience: Option<Duration>) -> Waited {
        let Self { fd, stream, output, phase, .. } = self;
        let read = async {
            tokio::select! {
                filled = fd.async_io(Interest::READABLE, |fd| output.fill(*stream, fd.as_fd())) => {
                    Waited::Filled(ended_by_hangup(filled))
                }
                changed = phase.changed() => match changed {
                    Ok(()) => Waited::Phase,
                    Err(_) => Waited::Filled(Filled::End),
                },
            }
        };
        match patience {
            None => read.await,
            Some(patience) => timeout(patience, read).await.unwrap_or(Waited::Quiet),
        }
    }

    fn read_now(&self) -> Waited {
        match self.output.fill(self.stream, self.fd.get_ref().as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Waited::Empty,
            other => Waited::Filled(ended_by_hangup(other)),
        }
    }

    async fn wait_for_room(&mut self) {
        tokio::select! {
            () = self.output.room(self.stream) => {}
            changed = self.phase.changed() => if changed.is_err() {
                // The job's task is gone: nobody will say that the end has come.
                self.output.room(self.stream).await;
            },
        }
    }

    fn look_at_limit(&self) {
        if self.limit.is_some_and(|limit| self.output.produced() > limit) {
            self.over.notify_one();
        }
    }
}

/// A terminal whose last process is gone answers EIO: that is its end of file (pty(7)).
fn ended_by_hangup(filled: io::Result<Filled>) -> Filled {
    filled.unwrap_or(Filled::End)
}
