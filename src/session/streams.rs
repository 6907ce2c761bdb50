//! Joining a job's descriptors to its rings and its stdin queue.

use std::io;
use std::os::fd::OwnedFd;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::domain::{JobId, TerminalSize};
use crate::stream::{Output, Overflow, Plumbing, Settings, Source, Stdin, StdinPort, Terms, feed, pump};
use crate::warden::{PipeEnds, PtyEnds, Stdio};

use super::start::Reading;

/// Our ends of a job's streams.
#[derive(Debug)]
pub(super) enum Ends {
    Pipes(PipeEnds),
    Terminal(PtyEnds),
}

/// A job's streams at work.
#[derive(Debug)]
pub(super) struct Streams {
    pub(super) output: Output,
    pub(super) pumps: Pumps,
    pub(super) stdin: Option<Stdin>,
    /// The terminal, to change its size.
    pub(super) terminal: Option<OwnedFd>,
}

/// The tasks that move a job's bytes. Dropping them ends the streams.
#[derive(Debug)]
pub(super) struct Pumps {
    tasks: JoinSet<io::Result<()>>,
    last_call: CancellationToken,
    /// Keeps the terminal from ending while the job has let go of it: as long as the tree lives, somebody may open it anew.
    terminal: Option<OwnedFd>,
}

impl Pumps {
    /// The tree is empty: what was written is in the pipes by now.
    pub(super) fn last_call(&mut self) {
        self.terminal = None;
        self.last_call.cancel();
    }

    /// Completes when every stream has ended. One that broke is told here: its viewers cannot tell its end from another.
    pub(super) async fn ended(&mut self, job: JobId) {
        while let Some(ended) = self.tasks.join_next().await {
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!(%job, %error, "a stream of the job broke: what was in it is lost")
                }
                Err(broken) => {
                    metrics::counter!("execgate_task_panics_total").increment(1);
                    tracing::error!(%job, error = %broken, "the task of a stream broke: what was in it is lost");
                }
            }
        }
    }
}

/// How a job's output is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keeping {
    pub(super) overflow: Overflow,
    pub(super) ring_bytes: u32,
    /// Most bytes of all streams.
    pub(super) limit: Option<u64>,
    pub(super) reading: Reading,
}

/// Makes both ends of a job's streams.
pub(super) fn make(size: Option<TerminalSize>, stdin: bool) -> io::Result<(Stdio, Ends)> {
    match size {
        Some(size) => Stdio::pty(size).map(|(job, ours)| (job, Ends::Terminal(ours))),
        None => Stdio::pipes(stdin).map(|(job, ours)| (job, Ends::Pipes(ours))),
    }
}

/// Sets the streams to work.
pub(super) fn start(ends: Ends, keeping: Keeping, settings: &Settings) -> io::Result<Streams> {
    let (plumbing, sources, input, terminal, held) = match ends {
        Ends::Pipes(ends) => {
            let sources = vec![(Source::Stdout, ends.stdout), (Source::Stderr, ends.stderr)];
            (Plumbing::Pipes, sources, ends.stdin.map(|fd| (fd, StdinPort::Pipe)), None, None)
        }
        Ends::Terminal(ends) => {
            let (reading, writing) = (ends.master.try_clone()?, ends.master.try_clone()?);
            (
                Plumbing::Terminal,
                vec![(Source::Pty, reading)],
                Some((writing, StdinPort::Terminal)),
                Some(ends.master),
                Some(ends.slave),
            )
        }
    };
    let Keeping { overflow, ring_bytes, limit, reading } = keeping;
    let (viewers, courtesy) = (settings.viewers, settings.courtesy);
    let output = Output::new(Terms { plumbing, overflow, ring_bytes, limit, viewers, courtesy });
    match reading {
        Reading::Nothing => {}
        Reading::All => output.await_writer(),
        Reading::Rings => output.owe(),
    }
    let last_call = CancellationToken::new();
    let mut tasks = JoinSet::new();
    for (source, fd) in sources {
        tasks.spawn(pump(fd, source, output.clone(), last_call.clone()));
    }
    let stdin = input.map(|(fd, port)| {
        let stdin = Stdin::new(settings.stdin_bytes);
        tasks.spawn(feed(fd, port, stdin.clone(), last_call.clone()));
        stdin
    });
    Ok(Streams { output, pumps: Pumps { tasks, last_call, terminal: held }, stdin, terminal })
}
