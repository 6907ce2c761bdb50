//! Ten times the load that the machine serves: what is still served, how fast the rest is refused, and how soon it is over.
//!
//! In rounds, for the machine is not always equally fast. Peak first: the better of closed loops with 4 and with 8 starts in
//! flight, of which the latter meets the 8 slots. Then the same connections are given ten times as many starts a second as
//! that, whatever is answered. What counts is the median round's part of its own peak. Both with the gateway (and with it warden and jobs) on one
//! core and the client on another, so that the client's own cost is the same in both, and with nothing pinned. What the
//! server itself takes for a refusal, from reading the request to the answer being ready, is its own histogram.
//!
//! `cargo bench --bench overload [seconds of each load of a round]`

#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    dead_code,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a program for people, which starts programs"
)]

#[path = "gateway/wire.rs"]
mod wire;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use wire::Wire;

/// Connections that share the load.
const CONNECTIONS: usize = 4;

/// How often a driver sends what is due.
const TICK: Duration = Duration::from_millis(2);

/// Rounds of a scene.
const ROUNDS: usize = 5;

/// Jobs at once on the server: what is in flight beyond is refused.
const JOBS: usize = 8;

struct Gateway {
    child: Child,
    address: String,
    token: String,
    _directory: tempfile::TempDir,
}

impl Gateway {
    fn start(core: Option<usize>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("bench.toml");
        let config = format!(
            "[limits]\njobs = {JOBS}\nrequests_per_second = 1000000\noutstanding = 4096\n\
             [policy.rules]\nmodule = \"builtin:command-rules\"\nsettings = {{ preset = \"developer\" }}\n\
             [policy.quota]\nmodule = \"builtin:session-quota\"\n\
             settings = {{ sessions = {{ subject = 20000 }}, jobs = {{ subject = 20000 }} }}\n"
        );
        std::fs::write(&file, config).unwrap();
        let mut command = match core {
            None => Command::new(env!("CARGO_BIN_EXE_execgate")),
            Some(core) => {
                let mut pinned = Command::new("taskset");
                pinned.args(["-c", &core.to_string(), env!("CARGO_BIN_EXE_execgate")]);
                pinned
            }
        };
        let mut child = command
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(&file)
            .env("HOME", directory.path())
            .env("XDG_STATE_HOME", directory.path())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(directory.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().unwrap().unwrap();
        while !lines.next().unwrap().unwrap().starts_with("memory:") {}
        let address = first.rsplit("http://").next().unwrap().to_owned();
        let token = std::fs::read_to_string(directory.path().join("execgate/token")).unwrap();
        Self { child, address, token: token.trim().to_owned(), _directory: directory }
    }

    fn connect(&self) -> Wire {
        let headers = format!("Authorization: Bearer {}\r\n", self.token);
        Wire::connect(&self.address, "/v1/ws", &headers)
    }

    /// The buckets of the time the server took for refusals so far: upper bound in seconds, and how many were below it.
    fn refusals(&self) -> Vec<(f64, u64)> {
        let mut socket = TcpStream::connect(&self.address).unwrap();
        let request = format!(
            "GET /metrics HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
            self.address, self.token
        );
        socket.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        let line = |line: &str| {
            let (bound, count) =
                line.strip_prefix("execgate_refusal_seconds_bucket{le=\"")?.split_once("\"} ")?;
            Some((bound.replace("+Inf", "inf").parse().ok()?, count.trim().parse().ok()?))
        };
        text.lines().filter_map(line).collect()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[derive(Default)]
struct Load {
    asked: u64,
    started: u64,
    refused: BTreeMap<String, u64>,
    refusals: Vec<Duration>,
}

/// What the reader of a connection needs to know of its writer: when each request was sent, in nanoseconds.
struct Sent {
    at: Vec<AtomicU64>,
    since: Instant,
}

/// The largest percentile that is not above so many percent.
fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort();
    times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// A masked text frame, the mask all zeroes.
fn frame(into: &mut Vec<u8>, text: &str) {
    into.push(0x81);
    into.push(0x80 | 126);
    into.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
    into.extend([0; 4]);
    into.extend(text.as_bytes());
}

fn start_frame(into: &mut Vec<u8>, id: u64) {
    let text = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"job.start\",\"params\":{{\"argv\":[\"true\"],\"view\":false}}}}"
    );
    frame(into, &text);
}

/// The id that a message answers, and the kind of its error; read from the text, for parsing would cost too much.
fn answer(text: &str) -> Option<(u64, Option<&str>)> {
    let (_, rest) = text.split_once("\"id\":")?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let id = rest[..digits].parse().ok()?;
    let kind = text.split_once("\"kind\":\"").map(|(_, rest)| rest.split('"').next().unwrap());
    Some((id, kind.filter(|_| text.contains("\"error\":"))))
}

fn count(load: &mut Load, kind: Option<&str>, took: Duration) {
    match kind {
        None => load.started += 1,
        Some(kind) => {
            *load.refused.entry(kind.to_owned()).or_default() += 1;
            load.refusals.push(took);
        }
    }
}

/// A closed loop: always so many in flight.
fn closed(gateway: &Gateway, in_flight: u64, length: Duration) -> Load {
    let (mut wire, mut load, since) = (gateway.connect(), Load::default(), Instant::now());
    let (mut id, mut bytes) = (0, Vec::new());
    for _ in 0..in_flight {
        id += 1;
        start_frame(&mut bytes, id);
    }
    wire.socket.write_all(&bytes).unwrap();
    while since.elapsed() < length {
        let next = wire.next();
        let answered = std::str::from_utf8(next.payload).ok().filter(|_| next.opcode == 1).and_then(answer);
        let Some((_, kind)) = answered else { continue };
        count(&mut load, kind, Duration::ZERO);
        id += 1;
        bytes.clear();
        start_frame(&mut bytes, id);
        wire.socket.write_all(&bytes).unwrap();
    }
    load
}

/// An open loop: so many a second, whatever is answered. One thread sends what is due, one reads.
fn open(gateway: &Gateway, rate: f64, length: Duration) -> Load {
    let mut wire = gateway.connect();
    let mut writer = wire.socket.try_clone().unwrap();
    let most = (rate * length.as_secs_f64()) as usize;
    let sent = Sent { at: (0..=most).map(|_| AtomicU64::new(0)).collect(), since: Instant::now() };
    let mut load = Load::default();
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let (mut id, mut bytes) = (0_usize, Vec::new());
            while sent.since.elapsed() < length {
                let due = ((sent.since.elapsed().as_secs_f64() * rate) as usize).min(most);
                bytes.clear();
                let now = u64::try_from(sent.since.elapsed().as_nanos()).unwrap();
                while id < due {
                    id += 1;
                    sent.at[id].store(now, Ordering::Relaxed);
                    start_frame(&mut bytes, id as u64);
                }
                writer.write_all(&bytes).unwrap();
                std::thread::sleep(TICK);
            }
            // The last answer ends the reader.
            bytes.clear();
            frame(&mut bytes, "{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"server.info\",\"params\":{}}");
            writer.write_all(&bytes).unwrap();
            id as u64
        });
        loop {
            let next = wire.next();
            let answered =
                std::str::from_utf8(next.payload).ok().filter(|_| next.opcode == 1).and_then(answer);
            let Some((id, kind)) = answered else { continue };
            if id == 0 {
                break;
            }
            let at = Duration::from_nanos(sent.at[id as usize].load(Ordering::Relaxed));
            count(&mut load, kind, sent.since.elapsed().saturating_sub(at));
        }
        load.asked = writing.join().unwrap();
    });
    load
}

/// Every connection at once.
fn all(run: impl Fn() -> Load + Sync) -> Load {
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(&run)).collect();
        running.into_iter().map(|one| one.join().unwrap()).fold(Load::default(), |mut sum, load| {
            sum.asked += load.asked;
            sum.started += load.started;
            sum.refusals.extend(load.refusals);
            load.refused.into_iter().for_each(|(kind, n)| *sum.refused.entry(kind).or_default() += n);
            sum
        })
    })
}

fn row(what: &str, figure: &str, bar: &str, holds: bool) {
    println!("{what:<46} {figure:<58} {bar:<10} {}", if holds { "holds" } else { "MISSED" });
}

/// Peak and overload, one right after the other.
struct Round {
    peak: f64,
    goodput: f64,
    offered: f64,
    recovery: Duration,
    over: Load,
}

fn round(gateway: &Gateway, length: Duration) -> Round {
    let seconds = length.as_secs_f64();
    let peak = [1, 2]
        .into_iter()
        .map(|in_flight| all(|| closed(gateway, in_flight, length)).started as f64 / seconds)
        .fold(0.0, f64::max);
    let over = all(|| open(gateway, 10.0 * peak / CONNECTIONS as f64, length));
    let since = Instant::now();
    let mut wire = gateway.connect();
    loop {
        wire.text(r#"{"jsonrpc":"2.0","id":1,"method":"job.start","params":{"argv":["true"],"view":false}}"#);
        if answer(&wire.find("\"id\":1")).unwrap().1.is_none() {
            break;
        }
    }
    let (goodput, offered) = (over.started as f64 / seconds, over.asked as f64 / seconds);
    Round { peak, goodput, offered, recovery: since.elapsed(), over }
}

fn scene(name: &str, core: Option<usize>, length: Duration) {
    let gateway = Gateway::start(core);
    all(|| closed(&gateway, 1, length));
    let before = gateway.refusals();
    let mut rounds: Vec<_> = (0..ROUNDS).map(|_| round(&gateway, length)).collect();
    let after = gateway.refusals();
    println!("{name}:");
    for Round { peak, goodput, offered, over, .. } in &rounds {
        let part = 100.0 * goodput / peak;
        println!(
            "  offered {offered:.0}/s; started {goodput:.0}/s of {peak:.0}/s = {part:.0} %; refused {:?}",
            over.refused
        );
    }
    let mut parts: Vec<_> = rounds.iter().map(|round| 100.0 * round.goodput / round.peak).collect();
    parts.sort_by(f64::total_cmp);
    let median = parts[ROUNDS / 2];
    let figure = format!("median {median:.0} % ({:.0} to {:.0})", parts[0], parts[ROUNDS - 1]);
    row("starts a second, of the peak", &figure, ">= 90 %", median >= 90.0);
    let all: u64 = after.last().unwrap().1 - before.last().map_or(0, |last| last.1);
    let below = |bound: f64| {
        let of = |buckets: &[(f64, u64)]| buckets.iter().find(|b| b.0 >= bound).map_or(0, |b| b.1);
        (of(&after) - of(&before)) as f64 / all as f64
    };
    let figure = format!(
        "{:.2} % within 0.1 ms, {:.2} % within 1 ms of {all}",
        100.0 * below(0.000_1),
        100.0 * below(0.001)
    );
    row("a refusal, server side", &figure, "<= 1 ms", below(0.001) >= 0.99);
    let mut refusals: Vec<_> = rounds.iter_mut().flat_map(|round| round.over.refusals.drain(..)).collect();
    let (p50, p99) = (percentile(&mut refusals, 50), percentile(&mut refusals, 99));
    println!("{:<46} p50 {p50:.1?}, p99 {p99:.1?}", "a refusal, as the client sees it");
    let recovery = rounds.iter().map(|round| round.recovery).max().unwrap_or_default();
    row(
        "a start after it, the slowest",
        &format!("{recovery:.1?}"),
        "<= 1 s",
        recovery < Duration::from_secs(1),
    );
}

fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core).unwrap();
    sched_setaffinity(Pid::from_raw(0), &set).unwrap();
}

fn main() {
    let seconds = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(3);
    let length = Duration::from_secs(seconds);
    scene("nothing pinned", None, length);
    pin(1);
    scene("gateway on one core, client on the other", Some(0), length);
}
