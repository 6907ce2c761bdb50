//! The whole gateway beside its floor and its peer in one run: S1, S2, S3, S4, S7, L2, M1, M2.
//!
//! The floor is a bare relay: one thread that reads the pipe and writes the socket, with the gateway's send buffer. The peer
//! is `websocketd --binary` (Debian's package of that name); without it a NOTE says so. All have the same producer (`yes`)
//! and the same consumer. Rounds alternate and the median counts, so that a busy machine hurts all.
//!
//! `cargo bench --bench gateway [MiB a round] [rounds]`

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
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

/// One line of the table.
pub fn row(id: &str, what: &str, figure: &str, bar: &str, holds: bool) {
    println!("{id:<4} {what:<54} {figure:<34} {bar:<26} {}", if holds { "holds" } else { "MISSED" });
}

fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    let bytes = numbers.first().copied().unwrap_or(512) << 20;
    let rounds = numbers.get(1).copied().unwrap_or(5);
    let peer = websocketd();
    println!("{:<4} {:<54} {:<34} {:<26}", "id", "what", "measured", "bar");
    throughput(bytes, rounds, peer.as_deref());
    scenes::stalled_viewers();
    scenes::one_stalled_of_ten(bytes / 4, rounds);
    scenes::interrupt();
    scenes::first_output(peer.as_deref());
    scenes::idle_sessions();
    scenes::one_session_too_many();
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
    let of_floor = ours / floor;
    let what = "one binary stream: ours / bare relay";
    row("S2", what, &format!("{ours:.0} / {floor:.0} MB/s = {of_floor:.2}"), ">= 0.7", of_floor >= 0.7);
    if !theirs.is_empty() {
        let theirs = median(theirs);
        let of_peer = ours / theirs;
        let what = "one binary stream: ours / websocketd --binary";
        row("S2", what, &format!("{ours:.0} / {theirs:.0} MB/s = {of_peer:.2}"), ">= 1.5", of_peer >= 1.5);
    }
    row("S3", "yes, binary", &format!("{ours:.0} MB/s"), ">= 400 MB/s", ours >= 400.0);
    row("S3", "yes, JSON (bytes of output)", &format!("{json:.0} MB/s"), ">= 100 MB/s", json >= 100.0);
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
