//! A job that is followed to its end: its output to ours, our input and signals to it.
//!
//! What is not written yet is not acknowledged, so a slow reader holds the job back and nobody else; the gateway and signals
//! are heard meanwhile. A signal that a gateway does not answer is not waited for twice.

use std::io;
use std::process::ExitCode;

use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, sleep_until};

use crate::domain::StreamName;
use crate::rpc::frame;

use super::client::{Client, Incoming, refusal};
use super::output::{Trouble, complain};
use super::stdio::{Output, Part, read_stdin};
use super::terminal;

/// Bytes of each stream that may be under way.
pub(super) const WINDOW: u32 = 1 << 20;
/// Bytes of all streams that a gateway may have sent and that are not written.
const MOST_WAITING: usize = 2 * WINDOW as usize;
/// A second interrupt within this time kills.
const IMPATIENT: Duration = Duration::from_secs(1);
/// How long a second signal is waited for while the first one has no answer.
const MOMENT: Duration = Duration::from_secs(2);
/// Shortest time between two sizes of the window: who drags its edge makes hundreds, and only the last one counts.
const RESIZE_PACE: Duration = Duration::from_millis(100);

/// What we are to the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is ours, and ends with us.
    Owner,
    /// It is ours to write to and to signal, and its session lives on without us.
    Guest,
    /// We only look.
    Observer,
}

/// The signals that are passed on, with their names.
struct Signals {
    list: Vec<(Signal, &'static str)>,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let of = |kind: SignalKind, name| signal(kind).map(|s| (s, name));
        let list = vec![
            of(SignalKind::interrupt(), "SIGINT")?,
            of(SignalKind::terminate(), "SIGTERM")?,
            of(SignalKind::hangup(), "SIGHUP")?,
            of(SignalKind::quit(), "SIGQUIT")?,
        ];
        Ok(Self { list })
    }

    async fn next(&mut self) -> &'static str {
        let waits = self.list.iter_mut().map(|(signal, name)| {
            Box::pin(async move {
                signal.recv().await;
                *name
            })
        });
        futures_util::future::select_all(waits).await.0
    }
}

/// The terminal's size, as far as the job was told.
#[derive(Default)]
struct Size {
    /// When it is to be told.
    due: Option<Instant>,
    told_at: Option<Instant>,
    /// The request that tells it.
    request: Option<u64>,
}

impl Size {
    /// It is another one now.
    fn changed(&mut self) {
        let now = Instant::now();
        let paced = self.told_at.map_or(now, |at| now.max(at + RESIZE_PACE));
        self.due.get_or_insert(paced);
    }
}

/// The signal that the gateway has not answered.
struct Unanswered {
    request: u64,
    /// When to leave without an answer: set by another signal.
    leave: Option<Instant>,
}

/// A job that is followed to its end.
pub(super) struct Follow {
    client: Client,
    job: String,
    channel: u32,
    standing: Standing,
    /// Up to which offset stdin may be sent.
    credit: Option<u64>,
    sent: u64,
    /// The end of stdin was sent.
    ended: bool,
    output: Output,
    exit: Option<ExitCode>,
    interrupted: Option<Instant>,
    unanswered: Option<Unanswered>,
    size: Size,
    /// Why the job was ended before its time; comes before its own code.
    trouble: Option<Trouble>,
}

impl Follow {
    /// Follows what `started` answers: its job, on its channel.
    pub(super) fn of(client: Client, started: &Value, standing: Standing) -> Self {
        let job = started.get("job").or_else(|| started.pointer("/status/job"));
        let channel = started.get("channel").and_then(Value::as_u64).and_then(|c| u32::try_from(c).ok());
        Self {
            client,
            job: job.and_then(Value::as_str).unwrap_or_default().to_owned(),
            channel: channel.unwrap_or_default(),
            standing,
            credit: None,
            sent: 0,
            ended: standing == Standing::Observer,
            output: Output::new(),
            exit: None,
            interrupted: None,
            unanswered: None,
            size: Size::default(),
            trouble: None,
        }
    }

    /// The job's terminal is not as large as ours yet.
    pub(super) fn resized(mut self) -> Self {
        self.size.changed();
        self
    }

    /// Passes everything on, both ways, until the job is closed; then takes leave of the gateway.
    pub(super) async fn until_closed(mut self, pty: bool) -> Result<ExitCode, Trouble> {
        let pty = pty && self.standing != Standing::Observer;
        let raw = pty.then(terminal::Raw::enter).flatten();
        let deaf = |e: io::Error| Trouble::failed(format!("signals cannot be waited for: {e}"));
        let mut signals = Signals::new().map_err(deaf)?;
        let resized = signal(SignalKind::window_change()).map_err(deaf)?;
        let outcome = self.attend(pty, raw.is_some(), &mut signals, resized).await;
        self.client.close().await;
        let outcome = self.finish(outcome, &mut signals).await;
        drop(raw);
        outcome
    }

    async fn attend(
        &mut self,
        pty: bool,
        typed: bool,
        signals: &mut Signals,
        mut resized: Signal,
    ) -> Result<ExitCode, Trouble> {
        // Who only looks leaves what is typed to others.
        let mut stdin = if self.ended { mpsc::channel(1).1 } else { read_stdin() };
        let mut pending: Option<Vec<u8>> = None;
        loop {
            if let Some(chunk) = pending.take() {
                pending = self.feed(chunk).await?;
            }
            let wants_input = pending.is_none() && !self.ended;
            let leave = self.unanswered.as_ref().and_then(|unanswered| unanswered.leave);
            tokio::select! {
                incoming = self.client.next() => if let Some(code) = self.heard(incoming).await? { return Ok(code) },
                Some(written) = self.output.written(), if self.output.is_busy() => self.wrote(written).await?,
                chunk = stdin.recv(), if wants_input => match chunk.unwrap_or_else(|| Ok(Vec::new())) {
                    // Nothing that is typed ends a terminal in raw mode: it hung up.
                    Ok(chunk) if chunk.is_empty() && typed && self.standing == Standing::Guest => return Err(self.left()),
                    Ok(chunk) => pending = Some(chunk),
                    Err(error) => self.unread(&error).await?,
                },
                name = signals.next() => self.pass_on(name).await?,
                () = until(leave) => return Err(self.deserted()),
                _ = resized.recv(), if pty => self.size.changed(),
                () = until(self.size.due), if pty => self.tell_size().await?,
            }
        }
    }

    /// What came is written, whatever became of the gateway; a signal ends the waiting for whoever reads it.
    async fn finish(
        &mut self,
        outcome: Result<ExitCode, Trouble>,
        signals: &mut Signals,
    ) -> Result<ExitCode, Trouble> {
        while self.output.is_busy() && self.trouble.is_none() {
            tokio::select! {
                written = self.output.written() => if let Some((part, Err(error))) = written {
                    self.trouble = Some(Trouble::unwritten(name(part.stream), &error));
                },
                name = signals.next() => return outcome.map(|_| by_signal(name)),
            }
        }
        match self.trouble.take() {
            Some(trouble) if outcome.is_ok() => Err(trouble),
            Some(_) | None => outcome,
        }
    }

    /// Sends as much of the chunk as there is credit for; returns the rest. An empty chunk is the end.
    async fn feed(&mut self, mut chunk: Vec<u8>) -> Result<Option<Vec<u8>>, Trouble> {
        let Some(credit) = self.credit else { return Ok(Some(chunk)) };
        let last = chunk.is_empty();
        let free = usize::try_from(credit.saturating_sub(self.sent)).unwrap_or(usize::MAX);
        if free == 0 && !last {
            return Ok(Some(chunk));
        }
        let rest = chunk.split_off(free.min(chunk.len()));
        let bytes = frame::client_stdin(self.channel, self.sent, &chunk, last);
        self.client.frame(bytes).await?;
        self.sent += chunk.len() as u64;
        self.ended = last;
        Ok((!rest.is_empty()).then_some(rest))
    }

    async fn unread(&mut self, error: &io::Error) -> Result<(), Trouble> {
        self.ended = true;
        self.give_up(Trouble::failed(format!("standard input cannot be read: {error}"))).await
    }

    async fn heard(&mut self, incoming: Incoming) -> Result<Option<ExitCode>, Trouble> {
        match incoming {
            Incoming::Closed(why) => Err(Trouble::unreachable(format!(
                "the gateway ended the connection ({why}); {}",
                match self.standing {
                    Standing::Owner => "the job was ended with it",
                    Standing::Guest | Standing::Observer => "the job may run on",
                }
            ))),
            Incoming::Answer(request, outcome) => self.answered(request, outcome).map(|()| None),
            Incoming::Frame(bytes) => self.data(&bytes).await.map(|()| None),
            Incoming::Event(method, params) => Ok(self.event(&method, &params)),
        }
    }

    fn answered(&mut self, request: u64, outcome: Result<Value, Value>) -> Result<(), Trouble> {
        self.unanswered.take_if(|unanswered| unanswered.request == request);
        let Err(error) = outcome else { return Ok(()) };
        if self.size.request == Some(request) {
            // Another try where another time helps; no window is worth a job.
            let wait = error.pointer("/data/retry_after_ms").and_then(Value::as_u64);
            let again = wait.and_then(|ms| Instant::now().checked_add(Duration::from_millis(ms)));
            self.size.due = self.size.due.or(again);
            return Ok(());
        }
        // The job ended before the signal came: its end is on its way.
        let finished = error.pointer("/data/kind").and_then(Value::as_str) == Some("finished");
        if finished { Ok(()) } else { Err(refusal(&error)) }
    }

    fn event(&mut self, method: &str, params: &Value) -> Option<ExitCode> {
        match method {
            "job.exited" => self.exit = Some(exit_code(params)),
            "job.closed" => {
                explain_end(params);
                return Some(self.exit.unwrap_or(ExitCode::FAILURE));
            }
            "job.stdin_refused" => self.ended = true,
            _ => {}
        }
        None
    }

    async fn data(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        let Some(received) = frame::ServerFrame::decode(bytes) else { return Ok(()) };
        match received {
            frame::ServerFrame::Output { stream, offset, data, .. } => {
                let end = offset + data.len() as u64;
                if self.trouble.is_some() {
                    // Nobody gets it, but the job is over only when all of it was sent.
                    return self.acknowledge(stream, end).await;
                }
                if self.output.backlog() + data.len() > MOST_WAITING {
                    return Err(Trouble::failed("the gateway sent more than it was given leave for"));
                }
                self.output.push(stream, end, data);
                Ok(())
            }
            frame::ServerFrame::Gap { stream, from, to } => {
                complain(format!("{} bytes of {} were lost", to.saturating_sub(from), stream.as_str()));
                Ok(())
            }
            frame::ServerFrame::Credit { offset, free } => {
                // An attached job may have been written to before.
                self.sent = if self.credit.is_none() { offset } else { self.sent };
                self.credit = Some(offset.saturating_add(free));
                Ok(())
            }
        }
    }

    async fn acknowledge(&mut self, stream: StreamName, end: u64) -> Result<(), Trouble> {
        self.client.frame(frame::client_ack(self.channel, stream, end, WINDOW)).await
    }

    async fn wrote(&mut self, (part, outcome): (Part, io::Result<()>)) -> Result<(), Trouble> {
        if let Err(error) = outcome {
            self.give_up(Trouble::unwritten(name(part.stream), &error)).await?;
            for part in self.output.forget() {
                self.acknowledge(part.stream, part.end).await?;
            }
        }
        self.acknowledge(part.stream, part.end).await
    }

    /// The job is of no use any more. One that ends with us is ended, and its end waited for; another runs on.
    async fn give_up(&mut self, trouble: Trouble) -> Result<(), Trouble> {
        if self.standing != Standing::Owner {
            return Err(trouble);
        }
        self.trouble.get_or_insert(trouble);
        self.client.send("job.kill", json!({"job": self.job})).await.map(drop)
    }

    async fn tell_size(&mut self) -> Result<(), Trouble> {
        let (rows, cols) = terminal::size();
        self.size.due = None;
        self.size.told_at = Some(Instant::now());
        let params = json!({"job": self.job, "rows": rows, "cols": cols});
        self.size.request = Some(self.client.send("job.resize", params).await?);
        Ok(())
    }

    async fn pass_on(&mut self, name: &'static str) -> Result<(), Trouble> {
        let leaves = match self.standing {
            Standing::Owner => false,
            // What hung up is our terminal, not the job's.
            Standing::Guest => name == "SIGHUP",
            Standing::Observer => true,
        };
        if leaves {
            return Err(self.left());
        }
        if let Some(unanswered) = &mut self.unanswered {
            unanswered.leave.get_or_insert(Instant::now() + MOMENT);
        }
        let impatient = name == "SIGINT" && self.interrupted.is_some_and(|at| at.elapsed() < IMPATIENT);
        self.interrupted = (name == "SIGINT").then(Instant::now);
        let (method, params) = if impatient {
            ("job.kill", json!({"job": self.job}))
        } else {
            ("job.signal", json!({"job": self.job, "signal": name}))
        };
        let request = self.client.send(method, params).await?;
        self.unanswered.get_or_insert(Unanswered { request, leave: None });
        Ok(())
    }

    /// We go, and the job stays. What was not written yet need not be.
    fn left(&mut self) -> Trouble {
        self.output.forget();
        Trouble::failed("no longer looking; the job runs on")
    }

    fn deserted(&mut self) -> Trouble {
        self.output.forget();
        Trouble::unreachable(
            "the gateway does not answer; it ends the job when it notices that nobody follows it",
        )
    }
}

/// Never, where there is no such moment.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

const fn name(stream: StreamName) -> &'static str {
    match stream {
        StreamName::Stderr => "standard error",
        StreamName::Stdin | StreamName::Stdout | StreamName::Pty => "standard output",
    }
}

/// The command's own code; 128 + n when signal n ended it, as shells say it.
fn exit_code(params: &Value) -> ExitCode {
    if let Some(code) = params.get("code").and_then(Value::as_u64).and_then(|c| u8::try_from(c).ok()) {
        return ExitCode::from(code);
    }
    by_signal(params.get("signal").and_then(Value::as_str).unwrap_or_default())
}

fn by_signal(name: &str) -> ExitCode {
    let named = crate::domain::Signal::from_name(name).map(crate::domain::Signal::number);
    // Real-time signals have no name, but their number.
    let number = named.or_else(|| name.strip_prefix("SIG")?.parse().ok());
    let code = number.and_then(|n| u8::try_from(n).ok()?.checked_add(128));
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Why a job ended, when it was not by itself or by our own signal.
fn explain_end(params: &Value) {
    let reason = params.get("reason").and_then(Value::as_str).unwrap_or_default();
    let why = match reason {
        "exited" | "signal" | "killed" => return,
        "timeout" => "it ran longer than it may",
        "output_limit" => "it wrote more than it may",
        "memory_limit" => "it used more memory than it may",
        "cpu_limit" => "it used more CPU time than it may",
        "process_limit" => "it had more processes than it may",
        "shutdown" => "the gateway was shut down",
        "kill_pending" => "it was killed, but the kernel has not given all of it up",
        other => other,
    };
    complain(format!("the job was ended: {why}"));
}
