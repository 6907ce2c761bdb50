//! The methods and their parameters.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::domain::{Failure, JobId, SessionId, Signal, SignalTarget, StreamName, Terminal, TerminalSize};

use super::members::Members;

/// Most bytes of argv and env together.
pub const MAX_COMMAND_BYTES: usize = 256 * 1024;
/// Most items of argv and env together.
pub const MAX_COMMAND_ITEMS: usize = 4096;
/// Smallest and largest window or ring, bytes.
const BYTES: (u64, u64) = (4 * 1024, 16 * 1024 * 1024);
/// Longest key, bytes.
const MAX_KEY: usize = 128;
/// Most labels, and the longest name and value, bytes.
const LABELS: (usize, usize, usize) = (16, 64, 256);

/// A call with its parameters.
#[derive(Debug, Clone, PartialEq)]
pub enum Method {
    /// `server.info`
    ServerInfo,
    /// `session.open`
    SessionOpen(SessionOpen),
    /// `session.attach`
    SessionAttach {
        /// Which.
        session: SessionId,
        /// Take it from another connection.
        takeover: bool,
    },
    /// `session.list`
    SessionList,
    /// `session.get`
    SessionGet(SessionId),
    /// `session.close`
    SessionClose(SessionId),
    /// `job.start`
    JobStart(Box<JobStart>),
    /// `job.stdin`
    JobStdin {
        /// Which.
        job: JobId,
        /// The bytes.
        data: Vec<u8>,
        /// The input ends here.
        eof: bool,
    },
    /// `job.signal`
    JobSignal {
        /// Which.
        job: JobId,
        /// The signal.
        signal: Signal,
        /// Whom it is for.
        target: SignalTarget,
    },
    /// `job.pause`
    JobPause(JobId),
    /// `job.resume`
    JobResume(JobId),
    /// `job.stop`
    JobStop {
        /// Which.
        job: JobId,
        /// The signal to begin with.
        signal: Signal,
        /// From it to KILL.
        grace: Duration,
    },
    /// `job.kill`
    JobKill(JobId),
    /// `job.resize`
    JobResize {
        /// Which.
        job: JobId,
        /// The new size.
        size: TerminalSize,
    },
    /// `job.wait`
    JobWait {
        /// Which.
        job: JobId,
        /// Until when.
        until: Until,
        /// No longer than this.
        timeout: Option<Duration>,
    },
    /// `job.get`
    JobGet {
        /// Which.
        job: JobId,
        /// With the last bytes of each stream.
        tail: bool,
    },
    /// `job.list`
    JobList(Option<SessionId>),
    /// `job.attach`
    JobAttach(JobAttach),
    /// `job.detach`
    JobDetach(JobId),
    /// `job.ack`
    JobAck {
        /// Which.
        job: JobId,
        /// Of which stream.
        stream: StreamName,
        /// Everything before was consumed.
        offset: u64,
        /// A new window.
        window: Option<u32>,
    },
    /// `policy.explain`
    PolicyExplain(Box<JobStart>),
    /// `policy.list`
    PolicyList,
    /// `server.drain`
    ServerDrain,
    /// `policy.reload`
    PolicyReload,
    /// `rpc.discover`
    Discover,
}

/// Until when to wait for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The leader is dead.
    Exited,
    /// The tree is empty.
    Closed,
}

/// Parameters of `session.open`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionOpen {
    /// Free text.
    pub labels: BTreeMap<String, String>,
    /// Live on without a connection.
    pub detach: bool,
    /// For how long.
    pub detach_ttl: Option<Duration>,
    /// Makes a retry safe.
    pub key: Option<String>,
}

/// Parameters of `job.start`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobStart {
    /// In which session; none is the connection's default session.
    pub session: Option<SessionId>,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Working directory.
    pub cwd: Option<String>,
    /// Variables to add.
    pub env: BTreeMap<String, String>,
    /// A terminal.
    pub pty: Option<Terminal>,
    /// Standard input comes from the client.
    pub stdin: bool,
    /// Wall-clock limit.
    pub timeout: Option<Duration>,
    /// Keep the newest output and never stall.
    pub keep_newest: bool,
    /// Size of each ring, bytes.
    pub ring: Option<u64>,
    /// View the output on this connection.
    pub view: bool,
    /// With this window.
    pub window: Option<u32>,
    /// Makes a retry safe.
    pub key: Option<String>,
    /// Free text.
    pub labels: BTreeMap<String, String>,
}

/// Parameters of `job.attach`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobAttach {
    /// Which.
    pub job: JobId,
    /// The first byte wanted of each stream; 0 where none is named.
    pub from: BTreeMap<StreamName, u64>,
    /// Hold a `block` job back, and write to it.
    pub write: bool,
    /// With this window.
    pub window: Option<u32>,
}

/// Parameters of `POST /v1/exec`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// The job, in a session of its own.
    pub start: JobStart,
    /// All of its standard input.
    pub stdin: Vec<u8>,
}

pub(super) type Decoder = fn(&mut Members) -> Result<Method, Failure>;

/// Every method: its name, what it does, how its parameters are read. The one table that decoding and describing share.
pub(super) const METHODS: &[(&str, &str, Decoder)] = &[
    ("server.info", "Who you are, what this host can promise, and the limits.", |_| Ok(Method::ServerInfo)),
    ("session.open", "Opens a session: an identity with limits that owns jobs.", session_open),
    ("session.attach", "Makes this connection the owner of a session.", |m| {
        Ok(Method::SessionAttach { session: m.id("session")?, takeover: m.flag("takeover", false)? })
    }),
    ("session.list", "The sessions you may see.", |_| Ok(Method::SessionList)),
    ("session.get", "One session.", |m| m.id("session").map(Method::SessionGet)),
    ("session.close", "Kills a session's jobs; answers once every tree is empty.", |m| {
        m.id("session").map(Method::SessionClose)
    }),
    ("job.start", "Starts a command.", |m| job_start(m).map(|start| Method::JobStart(Box::new(start)))),
    ("job.stdin", "Gives a job input, all of it or nothing.", job_stdin),
    ("job.signal", "Sends a signal.", job_signal),
    ("job.pause", "Stops the whole tree.", |m| m.id("job").map(Method::JobPause)),
    ("job.resume", "Lets a paused tree run on.", |m| m.id("job").map(Method::JobResume)),
    ("job.stop", "Asks a job to end, then kills it; answers once its tree is empty.", job_stop),
    ("job.kill", "Kills a job; answers once its tree is empty.", |m| m.id("job").map(Method::JobKill)),
    ("job.resize", "Changes the size of a job's terminal.", |m| {
        Ok(Method::JobResize { job: m.id("job")?, size: size(m)? })
    }),
    ("job.wait", "Waits for a job's exit or end; answers its status.", job_wait),
    ("job.get", "A job's status, and the last bytes of its output on request.", |m| {
        Ok(Method::JobGet { job: m.id("job")?, tail: m.flag("tail", false)? })
    }),
    ("job.list", "The jobs you may see, ended ones included.", |m| m.opt_id("session").map(Method::JobList)),
    ("job.attach", "Views a job's output from any offset still kept.", job_attach),
    ("job.detach", "Ends this connection's view of a job.", |m| m.id("job").map(Method::JobDetach)),
    ("job.ack", "Says how far output was consumed; a notification.", job_ack),
    ("policy.explain", "What would be decided about a command, without running or charging it.", |m| {
        job_start(m).map(|start| Method::PolicyExplain(Box::new(start)))
    }),
    ("policy.list", "The policies in force; for admins.", |_| Ok(Method::PolicyList)),
    ("server.drain", "Shuts the server down in order; for admins.", |_| Ok(Method::ServerDrain)),
    ("policy.reload", "Reads the configuration again, whole or not at all; for admins.", |_| {
        Ok(Method::PolicyReload)
    }),
    ("rpc.discover", "This document.", |_| Ok(Method::Discover)),
];

impl Method {
    pub(super) fn decode(name: &str, mut members: Members) -> Result<Self, Failure> {
        let Some((_, _, decoder)) = METHODS.iter().find(|(known, _, _)| *known == name) else {
            return Err(Failure::MethodNotFound(name.chars().take(64).collect()));
        };
        let method = decoder(&mut members)?;
        members.finish()?;
        Ok(method)
    }
}

/// Reads the body of `POST /v1/exec`.
pub(super) fn exec(m: &mut Members) -> Result<Exec, Failure> {
    let start = command(m)?;
    let data = m.opt_data("stdin_data", "stdin_data_b64")?;
    let stdin = m.opt_word("stdin", STDIN)?;
    if data.is_some() && stdin == Some(false) {
        return Err(invalid("stdin_data: goes with stdin \"pipe\""));
    }
    let pipe = stdin.unwrap_or(data.is_some());
    Ok(Exec { start: JobStart { stdin: pipe, ..start }, stdin: data.unwrap_or_default() })
}

/// Where a job's standard input comes from.
const STDIN: &[(&str, bool)] = &[("null", false), ("pipe", true)];
/// The streams that come out of a job.
const OUTPUT_STREAMS: &[(&str, StreamName)] =
    &[("stdout", StreamName::Stdout), ("stderr", StreamName::Stderr), ("pty", StreamName::Pty)];

fn invalid(message: impl Into<String>) -> Failure {
    Failure::InvalidParams(message.into())
}

fn session_open(m: &mut Members) -> Result<Method, Failure> {
    let detach = m.opt_word("on_disconnect", &[("kill", false), ("detach", true)])?.unwrap_or(false);
    let detach_ttl = m.opt_ms("detach_ttl_ms")?;
    if detach_ttl.is_some() && !detach {
        return Err(invalid("detach_ttl_ms: only together with on_disconnect \"detach\""));
    }
    let open = SessionOpen { labels: labels(m)?, detach, detach_ttl, key: m.opt_short("key", MAX_KEY)? };
    Ok(Method::SessionOpen(open))
}

fn job_start(m: &mut Members) -> Result<JobStart, Failure> {
    let start = command(m)?;
    Ok(JobStart {
        session: m.opt_id("session")?,
        stdin: m.opt_word("stdin", STDIN)?.unwrap_or(false),
        view: m.flag("view", true)?,
        window: window(m)?,
        key: m.opt_short("key", MAX_KEY)?,
        ..start
    })
}

/// What is asked of a job whoever asks: everything but its session, its viewer and its standard input.
fn command(m: &mut Members) -> Result<JobStart, Failure> {
    let argv = m.texts("argv")?;
    let env = m.text_map("env")?;
    command_fits(&argv, &env)?;
    let pty = m.opt_object("pty", |pty| {
        let term = pty.opt_short("term", 64)?.unwrap_or_else(|| "xterm-256color".to_owned());
        Ok(Terminal { size: size(pty)?, term })
    })?;
    let output = m.opt_object("output", |output| {
        let keep_newest = output.opt_word("overflow", &[("block", false), ("ring", true)])?.unwrap_or(false);
        Ok((keep_newest, output.opt_integer("ring_bytes", BYTES.0, BYTES.1)?))
    })?;
    let (keep_newest, ring) = output.unwrap_or((false, None));
    Ok(JobStart {
        session: None,
        argv,
        cwd: m.opt_text("cwd")?,
        env,
        pty,
        stdin: false,
        timeout: m.opt_ms("timeout_ms")?,
        keep_newest,
        ring,
        view: true,
        window: None,
        key: None,
        labels: labels(m)?,
    })
}

fn command_fits(argv: &[String], env: &BTreeMap<String, String>) -> Result<(), Failure> {
    if argv.first().is_none_or(String::is_empty) {
        return Err(invalid("argv: must begin with a program"));
    }
    if let Some(name) = env.keys().find(|name| name.is_empty() || name.contains('=')) {
        return Err(invalid(format!("env: {name:?} cannot be the name of a variable")));
    }
    let bytes = argv.iter().map(String::len).sum::<usize>()
        + env.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
    let items = argv.len() + env.len();
    if bytes > MAX_COMMAND_BYTES || items > MAX_COMMAND_ITEMS {
        return Err(invalid(format!(
            "argv, env: {bytes} bytes in {items} items; at most {MAX_COMMAND_BYTES} bytes in {MAX_COMMAND_ITEMS} items"
        )));
    }
    Ok(())
}

fn job_stdin(m: &mut Members) -> Result<Method, Failure> {
    let job = m.id("job")?;
    let data = m.opt_data("data", "data_b64")?;
    let eof = m.flag("eof", false)?;
    if data.is_none() && !eof && !m.describes() {
        return Err(invalid("data, data_b64, eof: one of them"));
    }
    Ok(Method::JobStdin { job, data: data.unwrap_or_default(), eof })
}

fn job_signal(m: &mut Members) -> Result<Method, Failure> {
    let words = [
        ("leader", SignalTarget::Leader),
        ("group", SignalTarget::Group),
        ("foreground", SignalTarget::Foreground),
        ("tree", SignalTarget::Tree),
    ];
    Ok(Method::JobSignal {
        job: m.id("job")?,
        signal: m.signal("signal")?,
        target: m.opt_word("target", &words)?.unwrap_or(SignalTarget::Group),
    })
}

fn job_stop(m: &mut Members) -> Result<Method, Failure> {
    /// From the signal to KILL unless the client says otherwise.
    const GRACE: Duration = Duration::from_secs(2);
    Ok(Method::JobStop {
        job: m.id("job")?,
        signal: m.opt_signal("signal")?.unwrap_or(Signal::TERM),
        grace: m.opt_ms("grace_ms")?.unwrap_or(GRACE),
    })
}

fn job_wait(m: &mut Members) -> Result<Method, Failure> {
    let words = [("exited", Until::Exited), ("closed", Until::Closed)];
    Ok(Method::JobWait {
        job: m.id("job")?,
        until: m.opt_word("until", &words)?.unwrap_or(Until::Closed),
        timeout: m.opt_ms("timeout_ms")?,
    })
}

fn job_attach(m: &mut Members) -> Result<Method, Failure> {
    let job = m.id("job")?;
    let mut from = BTreeMap::new();
    for (name, offset) in m.integer_map("from")? {
        let stream =
            output_stream(&name).ok_or_else(|| invalid(format!("from: {name:?} is not an output stream")))?;
        from.insert(stream, offset);
    }
    let write = m.opt_word("mode", &[("observe", false), ("write", true)])?.unwrap_or(false);
    Ok(Method::JobAttach(JobAttach { job, from, write, window: window(m)? }))
}

fn job_ack(m: &mut Members) -> Result<Method, Failure> {
    Ok(Method::JobAck {
        job: m.id("job")?,
        stream: m.word("stream", OUTPUT_STREAMS)?,
        offset: m.integer("offset", 0, u64::MAX)?,
        window: window(m)?,
    })
}

fn output_stream(name: &str) -> Option<StreamName> {
    OUTPUT_STREAMS.iter().find(|(word, _)| *word == name).map(|(_, stream)| *stream)
}

fn size(m: &mut Members) -> Result<TerminalSize, Failure> {
    let most = u64::from(TerminalSize::MAX);
    let (rows, cols) = (m.integer("rows", 1, most)?, m.integer("cols", 1, most)?);
    let narrow = |n| u16::try_from(n).ok();
    narrow(rows)
        .zip(narrow(cols))
        .and_then(|(r, c)| TerminalSize::new(r, c))
        .ok_or_else(|| invalid("rows, cols: 1 to 1000"))
}

fn window(m: &mut Members) -> Result<Option<u32>, Failure> {
    Ok(m.opt_integer("window", BYTES.0, BYTES.1)?.and_then(|n| u32::try_from(n).ok()))
}

fn labels(m: &mut Members) -> Result<BTreeMap<String, String>, Failure> {
    let labels = m.text_map("labels")?;
    let (most, name, value) = LABELS;
    if labels.len() > most || labels.iter().any(|(k, v)| k.len() > name || v.len() > value) {
        return Err(invalid(format!(
            "labels: at most {most}, with names of {name} bytes and values of {value}"
        )));
    }
    Ok(labels)
}
