//! `exec`: a command through the gateway as if it ran here.
//!
//! Standard output and error stay apart; what is not written yet is not acknowledged, so a slow reader holds the job back and
//! nobody else. Signals go to the job. The exit code is the command's.

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;

use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant};

use crate::config::Environment;
use crate::rpc::frame;

use super::args;
use super::client::{Client, Incoming, refusal};
use super::output::Trouble;
use super::target::Target;
use super::{local, serve, terminal};

/// Bytes of each stream that may be under way.
pub(super) const WINDOW: u32 = 1 << 20;
/// Bytes of stdin read at once.
const CHUNK: usize = 16 * 1024;
/// A second interrupt within this time kills.
const IMPATIENT: Duration = Duration::from_secs(1);

/// What to run, and how.
struct Order<'a> {
    /// Programs to try, the first that is there wins.
    alternatives: Vec<Vec<String>>,
    env: &'a [(String, String)],
    cwd: Option<&'a str>,
    timeout: Option<Duration>,
    pty: bool,
}

/// `exec`
pub(super) fn run(args: &args::Exec) -> Result<ExitCode, Trouble> {
    let order = Order {
        alternatives: vec![args.argv.clone()],
        env: &args.env,
        cwd: args.cwd.as_deref(),
        timeout: args.timeout,
        pty: args.pty,
    };
    anywhere(&order, args.local, &args.target)
}

/// `shell`
pub(super) fn shell(args: &args::Shell) -> Result<ExitCode, Trouble> {
    let alternatives = match &args.program {
        Some(program) => vec![vec![program.clone()]],
        None => ["bash", "sh"].map(|name| vec![name.to_owned()]).to_vec(),
    };
    let order = Order { alternatives, env: &[], cwd: args.cwd.as_deref(), timeout: None, pty: true };
    anywhere(&order, args.local, &args.target)
}

fn anywhere(order: &Order<'_>, here: bool, target: &args::Target) -> Result<ExitCode, Trouble> {
    with_runtime(async {
        if !here {
            return through(order, &Target::find(target)?).await;
        }
        let gateway = local::start().await?;
        let outcome = through(order, &gateway.target).await;
        gateway.end().await;
        outcome
    })
}

/// Runs to the outcome, whatever still reads our standard input.
pub(super) fn with_runtime(
    work: impl Future<Output = Result<ExitCode, Trouble>>,
) -> Result<ExitCode, Trouble> {
    let runtime = serve::runtime()?;
    let outcome = runtime.block_on(work);
    // A read of our standard input that is under way must not keep us.
    runtime.shutdown_background();
    outcome
}

async fn through(order: &Order<'_>, target: &Target) -> Result<ExitCode, Trouble> {
    let mut client = Client::connect(target).await?;
    match start(order, &mut client).await {
        Ok(started) => Follow::of(client, &started, true).until_closed(order.pty).await,
        Err(trouble) => {
            client.close().await;
            Err(trouble)
        }
    }
}

async fn start(order: &Order<'_>, client: &mut Client) -> Result<Value, Trouble> {
    let mut alternatives = order.alternatives.iter().peekable();
    while let Some(argv) = alternatives.next() {
        match client.call("job.start", params(order, argv)).await {
            Err(trouble) if trouble.is_no_such_program() && alternatives.peek().is_some() => {}
            started => return started,
        }
    }
    Err(Trouble::usage("nothing to run"))
}

fn params(order: &Order<'_>, argv: &[String]) -> Value {
    let env: serde_json::Map<_, _> =
        order.env.iter().map(|(k, v)| (k.clone(), Value::String(v.clone()))).collect();
    let mut params = json!({"argv": argv, "env": env, "stdin": "pipe", "window": WINDOW});
    let Value::Object(map) = &mut params else { return params };
    if let Some(cwd) = order.cwd {
        map.insert("cwd".to_owned(), json!(cwd));
    }
    if let Some(timeout) = order.timeout {
        map.insert("timeout_ms".to_owned(), json!(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)));
    }
    if order.pty {
        let (rows, cols) = terminal::size();
        let term = Environment::of_process().get("TERM").unwrap_or("xterm-256color").to_owned();
        map.insert("pty".to_owned(), json!({"rows": rows, "cols": cols, "term": term}));
    }
    params
}

/// Our standard input, read on a thread of its own: such a read cannot be broken off.
fn read_stdin() -> mpsc::Receiver<Vec<u8>> {
    let (out, chunks) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = io::stdin().read(&mut buffer).unwrap_or(0);
            let chunk = buffer.get(..n).unwrap_or_default().to_vec();
            if out.blocking_send(chunk).is_err() || n == 0 {
                return;
            }
        }
    });
    chunks
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

/// A job that is followed to its end.
pub(super) struct Follow {
    client: Client,
    job: String,
    channel: u32,
    /// Up to which offset stdin may be sent.
    credit: Option<u64>,
    sent: u64,
    /// The end of stdin was sent.
    ended: bool,
    /// The job is ours to write to and to signal.
    writes: bool,
    exit: Option<ExitCode>,
    interrupted: Option<Instant>,
}

impl Follow {
    /// Follows what `started` answers: its job, on its channel. Only who owns the session may write.
    pub(super) fn of(client: Client, started: &Value, writes: bool) -> Self {
        let job = started.get("job").or_else(|| started.pointer("/status/job"));
        let channel = started.get("channel").and_then(Value::as_u64).and_then(|c| u32::try_from(c).ok());
        Self {
            client,
            job: job.and_then(Value::as_str).unwrap_or_default().to_owned(),
            channel: channel.unwrap_or_default(),
            credit: None,
            sent: 0,
            ended: !writes,
            writes,
            exit: None,
            interrupted: None,
        }
    }

    /// Passes everything on, both ways, until the job is closed; then takes leave of the gateway.
    pub(super) async fn until_closed(mut self, pty: bool) -> Result<ExitCode, Trouble> {
        let raw = (pty && self.writes).then(terminal::Raw::enter).flatten();
        let outcome = self.attend(pty && self.writes).await;
        drop(raw);
        self.client.close().await;
        outcome
    }

    async fn attend(&mut self, pty: bool) -> Result<ExitCode, Trouble> {
        let deaf = |e: io::Error| Trouble::failed(format!("signals cannot be waited for: {e}"));
        let mut signals = Signals::new().map_err(deaf)?;
        let mut resized = signal(SignalKind::window_change()).map_err(deaf)?;
        let mut stdin = read_stdin();
        let mut pending: Option<Vec<u8>> = None;
        loop {
            if let Some(chunk) = pending.take() {
                pending = self.feed(chunk).await?;
            }
            let wants_input = pending.is_none() && !self.ended;
            tokio::select! {
                incoming = self.client.next() => if let Some(code) = self.heard(incoming).await? { return Ok(code) },
                chunk = stdin.recv(), if wants_input => pending = Some(chunk.unwrap_or_default()),
                name = signals.next() => self.pass_on(name).await?,
                _ = resized.recv(), if pty => {
                    let (rows, cols) = terminal::size();
                    self.client.send("job.resize", json!({"job": self.job, "rows": rows, "cols": cols})).await?;
                }
            }
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

    async fn heard(&mut self, incoming: Incoming) -> Result<Option<ExitCode>, Trouble> {
        match incoming {
            Incoming::Closed(why) => Err(Trouble::unreachable(format!(
                "the gateway ended the connection ({why}); the job was ended with it"
            ))),
            Incoming::Answer(_, Err(error)) => {
                let kind = error.pointer("/data/kind").and_then(Value::as_str);
                // The job ended before the signal came: its end is on its way.
                if kind == Some("finished") { Ok(None) } else { Err(refusal(&error)) }
            }
            Incoming::Answer(_, Ok(_)) => Ok(None),
            Incoming::Frame(bytes) => self.data(&bytes).await.map(|()| None),
            Incoming::Event(method, params) => Ok(self.event(&method, &params)),
        }
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
                let written = write_out(stream == crate::domain::StreamName::Stderr, data);
                if written.is_err() {
                    // Whoever read our output is gone, so the command has nobody to write for.
                    if !self.writes {
                        return Err(Trouble::failed("standard output is closed; the job runs on"));
                    }
                    self.client.send("job.kill", json!({"job": self.job})).await?;
                }
                let consumed = offset + data.len() as u64;
                self.client.frame(frame::client_ack(self.channel, stream, consumed, WINDOW)).await
            }
            frame::ServerFrame::Gap { stream, from, to } => {
                super::output::complain(format!("{} bytes of {} were lost", to - from, stream.as_str()));
                Ok(())
            }
            frame::ServerFrame::Credit { offset, free } => {
                // An attached job may have been written to before.
                self.sent = if self.credit.is_none() { offset } else { self.sent };
                self.credit = Some(offset + free);
                Ok(())
            }
        }
    }

    async fn pass_on(&mut self, name: &'static str) -> Result<(), Trouble> {
        if !self.writes {
            return Err(Trouble::failed("no longer looking; the job runs on"));
        }
        let impatient = name == "SIGINT" && self.interrupted.is_some_and(|at| at.elapsed() < IMPATIENT);
        self.interrupted = (name == "SIGINT").then(Instant::now);
        let (method, params) = if impatient {
            ("job.kill", json!({"job": self.job}))
        } else {
            ("job.signal", json!({"job": self.job, "signal": name}))
        };
        self.client.send(method, params).await.map(drop)
    }
}

fn write_out(error: bool, data: &[u8]) -> io::Result<()> {
    if error {
        return io::stderr().write_all(data);
    }
    let mut out = io::stdout();
    out.write_all(data)?;
    out.flush()
}

/// The command's own code; 128 + n when signal n ended it, as shells say it.
fn exit_code(params: &Value) -> ExitCode {
    if let Some(code) = params.get("code").and_then(Value::as_u64).and_then(|c| u8::try_from(c).ok()) {
        return ExitCode::from(code);
    }
    let signal = params.get("signal").and_then(Value::as_str).and_then(crate::domain::Signal::from_name);
    let number = signal.and_then(|s| u8::try_from(s.number()).ok());
    number.map_or(ExitCode::FAILURE, |n| ExitCode::from(128 + n))
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
    super::output::complain(format!("the job was ended: {why}"));
}
