//! The whole gateway beside its floor and its peer in one run: S1, S2, S3, S4, S7, L2, M1, M2.
//!
//! The floor is a bare relay: one thread that reads the pipe and writes the socket, with the gateway's send buffer. The peer
//! is `websocketd --binary` (Debian's package of that name); without it a NOTE says so. All have the same producer (`yes`)
//! and the same consumer. Rounds alternate and the median counts, so that a busy machine hurts all.
//!
//! `cargo bench --bench gateway -- [MiB a round] [rounds] [S2 S1 S4 S7 L2 M1 M2]`

#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a program for people, which starts programs"
)]

mod scenes;
mod wire;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::sys::socket::{setsockopt, sockopt};
use wire::Wire;

/// The send buffer of the gateway's sockets, bytes.
const SEND_BUFFER: usize = 128 * 1024;

/// A gateway of its own, with nothing in its way.
pub struct Gateway {
    child: Child,
    pub address: String,
    token: String,
    pub banner: Vec<String>,
    _directory: tempfile::TempDir,
}

impl Gateway {
    pub fn start(limits: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("bench.toml");
        let config = format!(
            "[limits]\n{limits}\n[policy.rules]\nmodule = \"builtin:command-rules\"\nsettings = {{ preset = \"developer\" }}\n\
             [policy.quota]\nmodule = \"builtin:session-quota\"\n\
             settings = {{ sessions = {{ subject = 20000 }}, jobs = {{ subject = 20000 }} }}\n[log]\nlevel = \"warn\"\n"
        );
        std::fs::write(&file, config).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_execgate"))
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(&file)
            .env("HOME", directory.path())
            .env("XDG_STATE_HOME", directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut banner = Vec::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let last = line.starts_with("memory:");
            banner.push(line);
            if last {
                break;
            }
        }
        let address = banner[0].rsplit("http://").next().unwrap().to_owned();
        let root = std::path::Path::new("/var/lib/execgate/token");
        let own = directory.path().join("execgate/token");
        let token = std::fs::read_to_string(if own.exists() { own } else { root.to_owned() }).unwrap();
        Self { child, address, token: token.trim().to_owned(), banner, _directory: directory }
    }

    pub fn connect(&self, protocol: &str) -> Wire {
        let token = &self.token;
        let headers = format!("Authorization: Bearer {token}\r\nSec-WebSocket-Protocol: {protocol}\r\n");
        Wire::connect(&self.address, "/v1/ws", &headers)
    }

    pub fn rss(&self) -> u64 {
        rss(&self.child)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Resident memory of a program, bytes.
pub fn rss(program: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", program.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// One line of the table. Where there is no floor or peer to measure it with, there is a dash.
pub struct Row<'a> {
    pub id: &'a str,
    pub what: &'a str,
    pub floor: Option<String>,
    pub peer: Option<String>,
    pub ours: String,
    pub bar: &'a str,
    pub holds: bool,
}

impl Row<'_> {
    pub fn print(self) {
        let Self { id, what, floor, peer, ours, bar, holds } = self;
        let of = |beside: Option<String>| beside.unwrap_or_else(|| "-".to_owned());
        let verdict = if holds { "holds" } else { "MISSED" };
        println!("{id:<3} {what:<51} {:<10} {:<10} {ours:<40} {bar:<27} {verdict}", of(floor), of(peer));
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let numbers: Vec<u64> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let bytes = numbers.first().copied().unwrap_or(512) << 20;
    let rounds = numbers.get(1).copied().unwrap_or(5);
    let named = |id: &str| words.iter().any(|word| word == id);
    let all = !["S2", "S1", "S4", "S7", "L2", "M1", "M2"].into_iter().any(named);
    let wanted = |id: &str| all || named(id);
    let peer = websocketd();
    println!("{:<3} {:<51} {:<10} {:<10} {:<40} {:<27}", "id", "what", "floor", "websocketd", "ours", "bar");
    if wanted("S2") {
        throughput(bytes, rounds, peer.as_deref());
    }
    if wanted("S1") {
        scenes::stalled_viewers(peer.as_deref());
    }
    if wanted("S4") {
        scenes::one_stalled_of_ten(bytes, rounds);
    }
    if wanted("S7") {
        scenes::interrupt();
    }
    if wanted("L2") {
        scenes::first_output(peer.as_deref());
    }
    if wanted("M1") {
        scenes::idle_sessions(peer.as_deref());
    }
    if wanted("M2") {
        scenes::one_session_too_many();
    }
}

/// The peer's program; says so when it is not there.
fn websocketd() -> Option<String> {
    let found = Command::new("websocketd").arg("--version").output().is_ok();
    if !found {
        println!("NOTE: no peer: apt-get install websocketd");
    }
    found.then(|| "websocketd".to_owned())
}

/// S2 and S3.
fn throughput(bytes: u64, rounds: u64, peer: Option<&str>) {
    let gateway = Gateway::start("");
    let (mut floor, mut theirs, mut ours, mut json) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        floor.push(relay(bytes));
        theirs.extend(peer.map(|program| peer_rate(program, bytes)));
        ours.push(ours_binary(&gateway, bytes));
        json.push(ours_json(&gateway, bytes / 4));
    }
    let (floor, ours, json) = (median(floor), median(ours), median(json));
    let theirs = (!theirs.is_empty()).then(|| median(theirs));
    let speed = |rate: f64| format!("{rate:.0} MB/s");
    let of_floor = ours / floor;
    let of_peer = theirs.map_or(String::new(), |theirs| format!(", {:.2} x peer", ours / theirs));
    Row {
        id: "S2",
        what: "one stream of `yes`, binary",
        floor: Some(speed(floor)),
        peer: theirs.map(speed),
        ours: format!("{} = {of_floor:.2} x floor{of_peer}", speed(ours)),
        bar: ">= 0.7 x floor, 1.5 x peer",
        holds: of_floor >= 0.7 && theirs.is_none_or(|theirs| ours / theirs >= 1.5),
    }
    .print();
    for (what, rate, bar, least) in [
        ("one stream of `yes`, binary", ours, ">= 400 MB/s", 400.0),
        ("one stream of `yes`, JSON (bytes of output)", json, ">= 100 MB/s", 100.0),
    ] {
        let holds = rate >= least;
        Row { id: "S3", what, floor: None, peer: None, ours: speed(rate), bar, holds }.print();
    }
}

fn rate(bytes: u64, since: Instant) -> f64 {
    bytes as f64 / 1e6 / since.elapsed().as_secs_f64()
}

/// The bare relay: pipe, one buffer, socket.
fn relay(bytes: u64) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut consumer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut socket, _) = listener.accept().unwrap();
    setsockopt(&socket, sockopt::SndBuf, &SEND_BUFFER).unwrap();
    let mut producer = Command::new("yes").stdout(Stdio::piped()).spawn().unwrap();
    let mut pipe = producer.stdout.take().unwrap();
    let relaying = std::thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = pipe.read(&mut buffer).unwrap();
            if socket.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; 512 * 1024];
    let (since, mut got) = (Instant::now(), 0);
    while got < bytes {
        got += consumer.read(&mut buffer).unwrap() as u64;
    }
    let rate = rate(got, since);
    drop(consumer);
    relaying.join().unwrap();
    producer.kill().unwrap();
    producer.wait().unwrap();
    rate
}

fn peer_rate(program: &str, bytes: u64) -> f64 {
    let (mut server, address) = scenes::start_peer(program, &["yes"]);
    let mut wire = Wire::connect(&address, "/", "");
    let (since, mut got) = (Instant::now(), 0);
    while got < bytes {
        got += wire.next().payload.len() as u64;
    }
    let rate = rate(got, since);
    server.kill().unwrap();
    server.wait().unwrap();
    rate
}

fn ours_binary(gateway: &Gateway, bytes: u64) -> f64 {
    let mut wire = gateway.connect("execgate.v1");
    wire.text(r#"{"jsonrpc":"2.0","id":1,"method":"job.start","params":{"argv":["yes"]}}"#);
    wire.find("\"result\"");
    let (since, mut got) = (Instant::now(), 0);
    while got < bytes {
        let frame = wire.next();
        if frame.opcode == 2 && frame.payload[0] == 1 {
            got += frame.payload.len() as u64 - 16;
        }
    }
    rate(got, since)
}

fn ours_json(gateway: &Gateway, bytes: u64) -> f64 {
    let mut wire = gateway.connect("execgate.v1.json");
    wire.text(r#"{"jsonrpc":"2.0","id":1,"method":"job.start","params":{"argv":["yes"]}}"#);
    wire.find("\"result\"");
    let (since, mut got) = (Instant::now(), 0);
    while got < bytes {
        got = scenes::json_offset(wire.next().payload).unwrap_or(got);
    }
    rate(got, since)
}
