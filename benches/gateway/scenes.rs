//! The scenes that are not plain throughput.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::wire::Wire;
use super::{Gateway, Row, median, rss};

const MIB: f64 = 1024.0 * 1024.0;

/// Where a `job.output` of JSON begins.
pub fn json_offset(text: &[u8]) -> Option<u64> {
    let head = std::str::from_utf8(text.get(..text.len().min(200))?).ok()?;
    let digits = head.split("\"offset\":").nth(1)?;
    digits.split(',').next()?.parse().ok()
}

/// The peer, serving this command on a port of its own.
pub fn start_peer(program: &str, command: &[&str]) -> (Child, String) {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let server = Command::new(program)
        .args(["--address=127.0.0.1", &format!("--port={port}"), "--binary", "--loglevel=fatal"])
        .args(command)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while std::net::TcpStream::connect(&address).is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    (server, address)
}

fn start(wire: &mut Wire, id: u32, params: &str) -> String {
    wire.text(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"job.start","params":{params}}}"#));
    let answer = wire.find(&format!("\"id\":{id}"));
    assert!(answer.contains("\"result\""), "{answer}");
    answer
}

fn member(text: &str, name: &str) -> String {
    let rest = text.split(&format!("\"{name}\":")).nth(1).unwrap();
    rest.trim_start_matches('"').split(['"', ',', '}']).next().unwrap().to_owned()
}

/// S1: each viewer has a child that prints for ever, and reads nothing.
pub fn stalled_viewers(peer: Option<&str>) {
    let theirs = peer.map(|program| {
        let (mut server, address) = start_peer(program, &["yes"]);
        let _stalled: Vec<_> = (0..100).map(|_| Wire::connect(&address, "/", "").socket).collect();
        std::thread::sleep(Duration::from_secs(8));
        let all = rss(&server) as f64 / MIB;
        server.kill().unwrap();
        server.wait().unwrap();
        all
    });
    let gateway = Gateway::start("");
    let before = gateway.rss();
    let mut stalled = Vec::new();
    for _ in 0..100 {
        let mut wire = gateway.connect("execgate.v1");
        start(&mut wire, 1, r#"{"argv":["yes"]}"#);
        stalled.push(wire);
    }
    std::thread::sleep(Duration::from_secs(3));
    let full = gateway.rss();
    std::thread::sleep(Duration::from_secs(5));
    let later = gateway.rss();
    let bound: f64 = gateway.banner.last().unwrap().split_whitespace().nth(3).unwrap().parse().unwrap();
    let grown = (full - before) as f64 / MIB;
    let drift = later.saturating_sub(full) as f64 / MIB;
    Row {
        id: "S1",
        what: "100 stalled viewers x a child that prints for ever",
        floor: None,
        peer: None,
        ours: format!("+{grown:.1} MiB, then +{drift:.1} in 5 s"),
        bar: &format!("<= {bound:.0} MiB, flat"),
        holds: grown <= bound && drift < 1.0,
    }
    .print();
    let all = later as f64 / MIB;
    Row {
        id: "S1",
        what: "the same, the whole of it",
        floor: None,
        peer: theirs.map(|all| format!("{all:.0} MiB")),
        ours: format!("{all:.0} MiB"),
        bar: "< 100 MB",
        holds: all < 95.3,
    }
    .print();
}

/// S4: nine fast viewers of one job, with and without a stalled one. The two runs of a pair follow each other, the one or the
/// other first in turn, and the median of the pairs' ratios counts: from one minute to the next a busy machine differs by more
/// than what is looked for. A stalled viewer is waited for once, 40 ms, so a run must be long beside that.
pub fn one_stalled_of_ten(bytes: u64, rounds: u64) {
    let gateway = Gateway::start("");
    let (mut alone, mut beside, mut ratios, mut lost) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for round in 0..rounds * 2 {
        let mut rates = [0.0; 2];
        for turn in 0..2 {
            let stalled = (round + turn) % 2 == 1;
            let (rate, gaps) = nine(&gateway, bytes, stalled);
            rates[usize::from(stalled)] = rate;
            lost += gaps;
        }
        alone.push(rates[0]);
        beside.push(rates[1]);
        ratios.push(rates[1] / rates[0]);
    }
    let (alone, beside) = (median(alone), median(beside));
    let (least, most) = ratios.iter().fold((f64::MAX, 0.0_f64), |(l, m), r| (l.min(*r), m.max(*r)));
    let ratio = median(ratios);
    Row {
        id: "S4",
        what: "9 fast viewers beside a stalled one; floor: alone",
        floor: Some(format!("{alone:.0} MB/s")),
        peer: None,
        ours: format!("{beside:.0} MB/s = {ratio:.2} ({least:.2}-{most:.2}), {lost} lost"),
        bar: ">= 0.95, 0 lost",
        holds: ratio >= 0.95 && lost == 0,
    }
    .print();
}

/// Megabytes a second to each of nine viewers, and the bytes they lost.
fn nine(gateway: &Gateway, bytes: u64, stalled: bool) -> (f64, u64) {
    let mut owner = gateway.connect("execgate.v1");
    let script = format!("read x; yes | head -c {bytes}");
    let started = start(&mut owner, 1, &format!(r#"{{"argv":["sh","-c","{script}"],"stdin":"pipe"}}"#));
    let job = member(&started, "job");
    let attach = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"job.attach","params":{{"job":"{job}"}}}}"#);
    let view = || {
        let mut wire = gateway.connect("execgate.v1");
        wire.text(&attach);
        wire.find("\"result\"");
        wire
    };
    let mut fast: Vec<_> = (0..8).map(|_| view()).collect();
    let _stalled = stalled.then(view);
    owner.text(&format!(
        r#"{{"jsonrpc":"2.0","id":2,"method":"job.stdin","params":{{"job":"{job}","data":"\n"}}}}"#
    ));
    fast.push(owner);
    let since = Instant::now();
    let readers: Vec<_> =
        fast.into_iter().map(|mut wire| std::thread::spawn(move || read_out(&mut wire))).collect();
    let lost = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
    (bytes as f64 / 1e6 / since.elapsed().as_secs_f64(), lost)
}

/// Reads stdout to its end; returns the bytes in gaps.
fn read_out(wire: &mut Wire) -> u64 {
    let mut lost = 0;
    loop {
        let frame = wire.next();
        if frame.opcode != 2 {
            continue;
        }
        match (frame.payload[0], frame.payload[1], frame.payload[3]) {
            (1, 1, 1) => return lost,
            (4, 1, _) => {
                let number = |at: usize| u64::from_be_bytes(*frame.payload[at..].first_chunk().unwrap());
                lost += number(16) - number(8);
            }
            _ => {}
        }
    }
}

/// S7: ^C on a terminal under a flood, to a viewer that reads 100 KB/s.
pub fn interrupt() {
    const WINDOW: u32 = 64 * 1024;
    let gateway = Gateway::start("");
    let (mut times, mut older) = (Vec::new(), 0);
    for _ in 0..5 {
        let mut wire = gateway.connect("execgate.v1");
        let params =
            format!(r#"{{"argv":["yes"],"pty":{{"rows":24,"cols":80}},"stdin":"pipe","window":{WINDOW}}}"#);
        start(&mut wire, 1, &params);
        let (mut got, mut acked) = (0u64, 0u64);
        let begun = Instant::now();
        let mut sent: Option<(Instant, u64)> = None;
        let exited = loop {
            let frame = wire.next();
            if frame.opcode == 1 && std::str::from_utf8(frame.payload).unwrap().contains("job.exited") {
                break Instant::now();
            }
            if frame.opcode == 2 && frame.payload[0] == 1 {
                got += frame.payload.len() as u64 - 16;
            }
            // 100 KB/s: what has been read may not be ahead of the clock.
            let due = Duration::from_secs_f64(got as f64 / 100_000.0);
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
            if got - acked >= u64::from(WINDOW) / 4 {
                acked = got;
                let mut ack = vec![3, 3, 0, 0, 0, 0, 0, 1];
                ack.extend(got.to_be_bytes());
                ack.extend(WINDOW.to_be_bytes());
                wire.send(2, &ack);
            }
            if sent.is_none() && begun.elapsed() > Duration::from_secs(2) {
                let mut interrupt = vec![2, 0, 0, 0, 0, 0, 0, 1];
                interrupt.extend(0u64.to_be_bytes());
                interrupt.push(3);
                wire.send(2, &interrupt);
                sent = Some((Instant::now(), got));
            }
        };
        let (at, before) = sent.unwrap();
        times.push((exited - at).as_secs_f64() * 1e3);
        older = older.max(got - before);
    }
    let worst = times.iter().copied().fold(0.0, f64::max);
    Row {
        id: "S7",
        what: "^C under flood, viewer at 100 KB/s -> job.exited",
        floor: None,
        peer: None,
        ours: format!("{worst:.0} ms, {} KiB before it, worst of 5", older / 1024),
        bar: "<= 1 s, <= 256 KiB",
        holds: worst <= 1000.0 && older <= 256 * 1024,
    }
    .print();
}

/// A process of its own and its first bytes by a pipe: what starting costs without anybody in between.
fn bare_echo() -> f64 {
    let since = Instant::now();
    let mut child = Command::new("echo").arg("x").stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    let took = since.elapsed().as_secs_f64() * 1e3;
    child.wait().unwrap();
    took
}

/// L2: connect, upgrade, start `echo`, first output.
pub fn first_output(peer: Option<&str>) {
    const TIMES: usize = 200;
    let gateway = Gateway::start("");
    let served = peer.map(|program| start_peer(program, &["echo", "x"]));
    let (mut floor, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TIMES {
        floor.push(bare_echo());
        let since = Instant::now();
        let mut wire = gateway.connect("execgate.v1");
        wire.text(r#"{"jsonrpc":"2.0","id":1,"method":"job.start","params":{"argv":["echo","x"]}}"#);
        loop {
            let frame = wire.next();
            if frame.opcode == 2 && frame.payload[0] == 1 {
                break;
            }
        }
        ours.push(since.elapsed().as_secs_f64() * 1e3);
        if let Some((_, address)) = &served {
            let since = Instant::now();
            Wire::connect(address, "/", "").next();
            theirs.push(since.elapsed().as_secs_f64() * 1e3);
        }
    }
    let (floor, ours) = (median(floor), median(ours));
    let warm = median(warm_outputs(&gateway, TIMES));
    Row {
        id: "L2",
        what: "connect -> first output of echo, p50, policies on",
        floor: Some(format!("{floor:.2} ms")),
        peer: (!theirs.is_empty()).then(|| format!("{:.2} ms", median(theirs))),
        ours: format!("{ours:.2} ms; {warm:.2} on a warm connection"),
        bar: "<= 1.3 ms (ttyd)",
        holds: ours <= 1.3,
    }
    .print();
    if let Some((mut server, _)) = served {
        server.kill().unwrap();
        server.wait().unwrap();
    }
}

/// The same on a connection that has its session: what is left is starting a process and carrying its first bytes.
fn warm_outputs(gateway: &Gateway, times: usize) -> Vec<f64> {
    let mut wire = gateway.connect("execgate.v1");
    let run = |id: usize| {
        let since = Instant::now();
        let id = u32::try_from(id).unwrap();
        wire.text(&format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"job.start","params":{{"argv":["echo","x"]}}}}"#
        ));
        let mut first = None;
        loop {
            let frame = wire.next();
            if frame.opcode == 2 && frame.payload[0] == 1 && first.is_none() {
                first = Some(since.elapsed().as_secs_f64() * 1e3);
            }
            if frame.opcode == 1 && std::str::from_utf8(frame.payload).unwrap().contains("job.closed") {
                return first.unwrap();
            }
        }
    };
    (0..times).map(run).collect()
}

fn open(wire: &mut Wire, id: u32) -> String {
    wire.text(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"session.open","params":{{}}}}"#));
    wire.find(&format!("\"id\":{id}"))
}

/// What a connection costs the peer, KiB; each has a process of its own, which is not counted.
fn idle_at_the_peer(program: &str) -> f64 {
    const THEIRS: usize = 500;
    let (mut server, address) = start_peer(program, &["sleep", "1000"]);
    let before = rss(&server);
    let held: Vec<_> = (0..THEIRS).map(|_| Wire::connect(&address, "/", "").socket).collect();
    let each = rss(&server).saturating_sub(before) as f64 / THEIRS as f64 / 1024.0;
    drop(held);
    server.kill().unwrap();
    server.wait().unwrap();
    each
}

/// Starts 500 endless jobs, reads all of them as fast as they come, and returns the most the gateway took, bytes.
fn most_while_streaming(gateway: &Gateway) -> u64 {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut sockets = Vec::new();
        for _ in 0..500 {
            let mut wire = gateway.connect("execgate.v1");
            start(&mut wire, 1, r#"{"argv":["yes"]}"#);
            sockets.push(wire.socket);
        }
        for mut socket in sockets {
            let stop = &stop;
            scope.spawn(move || {
                let mut buffer = [0; 4096];
                while !stop.load(Ordering::Relaxed) && socket.read(&mut buffer).is_ok_and(|count| count > 0) {
                }
            });
        }
        let mut most = 0;
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(250));
            most = most.max(gateway.rss());
        }
        stop.store(true, Ordering::Relaxed);
        most
    })
}

/// M1: idle sessions, each on a connection of its own; then streaming ones beside them.
pub fn idle_sessions(peer: Option<&str>) {
    let most = raise_descriptors();
    let theirs = peer.map(idle_at_the_peer);
    let idle = if most >= 12_000 { 10_000 } else { 1_000 };
    if idle < 10_000 {
        println!("NOTE: only {idle} idle sessions: {most} descriptors are allowed (ulimit -n)");
    }
    let gateway = Gateway::start(
        "connections = 12000\nsessions = 12000\njobs = 600\nrequests_per_second = 100000\n[streams]\nbudget = \"512MiB\"",
    );
    let connect = || {
        let mut wire = gateway.connect("execgate.v1");
        let answer = open(&mut wire, 1);
        assert!(answer.contains("\"result\""), "{answer}");
        // Only the socket is kept: the client's buffer is no part of what is measured.
        wire.socket
    };
    let _first: Vec<_> = (0..100).map(|_| connect()).collect();
    let before = gateway.rss();
    let _idle: Vec<_> = (0..idle).map(|_| connect()).collect();
    let each = (gateway.rss() - before) as f64 / idle as f64 / 1024.0;
    Row {
        id: "M1",
        what: &format!("an idle session and its connection, of {idle}"),
        floor: None,
        peer: theirs.map(|each| format!("{each:.1} KiB")),
        ours: format!("{each:.1} KiB"),
        bar: "<= 32 KiB",
        holds: each <= 32.0,
    }
    .print();
    let most = most_while_streaming(&gateway) as f64 / MIB;
    Row {
        id: "M1",
        what: &format!("{idle} idle + 500 streaming, whole gateway"),
        floor: None,
        peer: None,
        ours: format!("{most:.0} MiB"),
        bar: "<= 1024 MiB (10 000 idle)",
        holds: most <= 1024.0 && idle == 10_000,
    }
    .print();
}

/// As many descriptors as may be had.
fn raise_descriptors() -> u64 {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let most = hard.min(65536);
    setrlimit(Resource::RLIMIT_NOFILE, most, hard).unwrap();
    most
}

/// M2: one session more than there may be.
pub fn one_session_too_many() {
    let gateway = Gateway::start("sessions = 1000\nrequests_per_second = 100000\nconnections = 2000");
    let mut wire = gateway.connect("execgate.v1");
    for id in 0..1000 {
        let answer = open(&mut wire, id);
        assert!(answer.contains("\"result\""), "{answer}");
    }
    let mut times = Vec::new();
    for id in 1000..1200 {
        let since = Instant::now();
        let answer = open(&mut wire, id);
        times.push(since.elapsed().as_secs_f64() * 1e3);
        assert!(answer.contains("limit_exceeded"), "{answer}");
    }
    times.sort_by(f64::total_cmp);
    let (p50, p99) = (times[100], times[198]);
    Row {
        id: "M2",
        what: "the 1 001st session of 1 000: refused",
        floor: None,
        peer: None,
        ours: format!("p50 {p50:.3} ms, p99 {p99:.3} ms"),
        bar: "<= 1 ms",
        holds: p99 <= 1.0,
    }
    .print();
}
