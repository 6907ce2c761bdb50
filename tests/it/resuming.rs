//! Losing the connection at any point and going on: not a byte lost, doubled or wrong, and nothing left behind.

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::support::client::Frame;
use crate::support::proxy::{Dice, Proxy};
use crate::support::{Client, Gateway, PATIENCE, eventually, proc, run};

/// A line of the job's output, so that each place in it has a byte of its own: 15 digits and a newline.
const LINE: u64 = 16;
/// No rate stands in the way.
const FREE: &str = "[limits]\nrequests_per_second = 1000000\nended_jobs = 1000\n[policy.rules]\n\
                    module = \"builtin:command-rules\"\nbudget = \"1s\"\nsettings = { preset = \"developer\" }\n[policy.quota]\n\
                    module = \"builtin:session-quota\"\n";

/// The connection is of no more use, and why.
#[derive(Debug)]
#[expect(dead_code, reason = "for whoever reads why a test failed")]
struct Broken(String);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What a client that goes on has of one job's stdout.
#[derive(Debug, Default)]
struct Tally {
    next: u64,
    acked: u64,
    lost: u64,
    gaps: u64,
    visits: u64,
}

struct Visit<'a> {
    socket: Socket,
    last: u64,
    patience: Duration,
    tally: &'a mut Tally,
}

fn broken(why: impl std::fmt::Debug) -> Broken {
    Broken(format!("{why:?}"))
}

impl<'a> Visit<'a> {
    async fn begin(address: &str, token: &str, tally: &'a mut Tally) -> Result<Self, Broken> {
        let patience = Duration::from_secs(5);
        let mut request = format!("ws://{address}/v1/ws").into_client_request().unwrap();
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request.headers_mut().insert("sec-websocket-protocol", "execgate.v1".parse().unwrap());
        let connecting = timeout(patience, tokio_tungstenite::connect_async(request)).await;
        let (socket, _) = connecting.map_err(broken)?.map_err(broken)?;
        tally.visits += 1;
        Ok(Self { socket, last: 0, patience, tally })
    }

    async fn message(&mut self) -> Result<Message, Broken> {
        let next = timeout(self.patience, self.socket.next()).await.map_err(broken)?;
        next.ok_or_else(|| broken("the end"))?.map_err(broken)
    }

    async fn call(&mut self, method: &str, params: Value) -> Result<Value, Broken> {
        self.last += 1;
        let request = json!({"jsonrpc": "2.0", "id": self.last, "method": method, "params": params});
        self.socket.send(Message::text(request.to_string())).await.map_err(broken)?;
        loop {
            let Message::Text(text) = self.message().await? else { continue };
            let value: Value = serde_json::from_str(&text).unwrap();
            if value["id"] == json!(self.last) {
                assert!(value.get("error").is_none(), "{method}: {value}");
                return Ok(value["result"].clone());
            }
        }
    }

    /// Opens or finds the session and the job, takes them over, and goes on where it was. Returns the channel.
    async fn resume(&mut self, key: &str, lines: u64, window: u32) -> Result<(String, u32), Broken> {
        let open = json!({"key": key, "on_disconnect": "detach", "detach_ttl_ms": 120_000});
        let session = self.call("session.open", open).await?["session"].clone();
        self.call("session.attach", json!({"session": session, "takeover": true})).await?;
        let argv = json!(["seq", "-f", "%015.0f", "1", lines.to_string()]);
        let start = json!({"session": session, "argv": argv, "key": "job", "view": false});
        let job = self.call("job.start", start).await?["job"].clone();
        let attach =
            json!({"job": job, "from": {"stdout": self.tally.next}, "mode": "write", "window": window});
        let attached = self.call("job.attach", attach).await?;
        Ok((session.as_str().unwrap().to_owned(), attached["channel"].as_u64().unwrap() as u32))
    }

    /// Reads on, up to about `most` bytes; true when the job is closed.
    async fn read(&mut self, channel: u32, window: u32, most: u64) -> Result<bool, Broken> {
        let until = self.tally.next.saturating_add(most);
        self.tally.acked = self.tally.next;
        while self.tally.next < until {
            match self.message().await? {
                Message::Text(text) if text.contains("\"job.closed\"") => return Ok(true),
                Message::Binary(bytes) => self.frame(&Frame::decode(&bytes), channel, window).await?,
                Message::Close(frame) => return Err(broken(frame)),
                _ => {}
            }
        }
        Ok(false)
    }

    async fn frame(&mut self, frame: &Frame, channel: u32, window: u32) -> Result<(), Broken> {
        if frame.channel != channel || frame.stream != 1 {
            return Ok(());
        }
        assert_eq!(frame.offset, self.tally.next, "lost or doubled");
        match frame.kind {
            1 => {
                check(frame.offset, &frame.payload);
                self.tally.next += frame.payload.len() as u64;
            }
            4 => {
                let to = u64::from_be_bytes(*frame.payload.first_chunk().unwrap());
                self.tally.lost += to - self.tally.next;
                self.tally.gaps += 1;
                self.tally.next = to;
            }
            other => panic!("a frame of kind {other}"),
        }
        if self.tally.next - self.tally.acked >= u64::from(window / 4) {
            self.tally.acked = self.tally.next;
            let payload = window.to_be_bytes().to_vec();
            let ack = Frame { kind: 3, stream: 1, flags: 0, channel, offset: self.tally.next, payload };
            self.socket.send(Message::binary(ack.encode())).await.map_err(broken)?;
        }
        Ok(())
    }
}

/// Every byte is the one that belongs there.
fn check(offset: u64, bytes: &[u8]) {
    let mut line = offset / LINE;
    let mut at = (offset % LINE) as usize;
    let mut rest = bytes;
    while !rest.is_empty() {
        let text = format!("{:015}\n", line + 1);
        let piece = rest.len().min(text.len() - at);
        assert_eq!(rest[..piece], text.as_bytes()[at..at + piece], "wrong bytes at {offset}");
        (rest, at, line) = (&rest[piece..], 0, line + 1);
    }
}

/// One client behind a bad network, until it has its job's end.
async fn one_run(gateway: &Gateway, seed: u64) -> Tally {
    const WINDOW: u32 = 65536;
    let proxy = Proxy::start(gateway.address(), seed).await;
    let (lines, key) = (Dice::new(seed).below(40_000) + 1, format!("run-{seed}"));
    let (mut tally, token) = (Tally::default(), gateway.token());
    let since = Instant::now();
    loop {
        assert!(since.elapsed() < PATIENCE * 3, "run {seed} is stuck: {tally:?}");
        // A network that is bad for ever would prove nothing.
        let address = if tally.visits < 40 { proxy.address.clone() } else { gateway.address() };
        let Ok(mut visit) = Visit::begin(&address, &token, &mut tally).await else { continue };
        let Ok((session, channel)) = visit.resume(&key, lines, WINDOW).await else { continue };
        if matches!(visit.read(channel, WINDOW, u64::MAX).await, Ok(true)) {
            let closed = visit.call("session.close", json!({"session": session})).await;
            drop(visit);
            if closed.is_err() {
                close(gateway, &session).await;
            }
            break;
        }
    }
    assert_eq!(tally.next, lines * LINE, "run {seed}: {tally:?}");
    tally
}

async fn close(gateway: &Gateway, session: &str) {
    let mut client = Client::connect(gateway).await;
    // It may have been closed by the request whose answer was lost.
    let _ = client.call("session.close", json!({"session": session})).await;
}

/// What must come back to where it was.
fn held(gateway: &Gateway) -> [usize; 3] {
    [proc::descriptors(gateway.pid()), proc::descriptors(gateway.warden), proc::zombies(gateway.warden)]
}

/// Waits until no more is held than before.
fn nothing_is_left(gateway: &Gateway, before: [usize; 3]) {
    eventually(PATIENCE, "no orphan", || gateway.survivors().is_empty());
    eventually(PATIENCE, &format!("descriptors and zombies return to {before:?}"), || {
        held(gateway).iter().zip(before).all(|(now, before)| *now <= before)
    });
    eventually(PATIENCE, "no group is left", || proc::groups_of(&gateway.banner).is_empty());
}

fn behind_a_bad_network(runs: u64, at_once: usize) {
    let gateway = Gateway::with(FREE);
    run(async {
        one_run(&gateway, u64::MAX).await;
        eventually(PATIENCE, "the first run leaves nothing", || gateway.survivors().is_empty());
        let before = held(&gateway);
        let (mut visits, mut gaps, mut bytes) = (0, 0, 0);
        let all =
            futures_util::stream::iter(0..runs).map(|seed| one_run(&gateway, seed)).buffer_unordered(at_once);
        let tallies: Vec<_> = all.collect().await;
        for tally in tallies {
            visits += tally.visits;
            gaps += tally.gaps;
            bytes += tally.next;
        }
        eprintln!("{runs} runs, {visits} connections, {bytes} bytes, {gaps} announced gaps, none wrong");
        nothing_is_left(&gateway, before);
    });
    assert!(!gateway.log().contains("panic"));
}

#[test]
fn thirty_runs_behind_a_bad_network_lose_and_leave_nothing() {
    behind_a_bad_network(30, 6);
}

#[test]
#[ignore = "long: a thousand runs, minutes"]
fn a_thousand_runs_behind_a_bad_network_lose_and_leave_nothing() {
    behind_a_bad_network(1000, 8);
}

/// S5: disconnects at random points of a long output, and resumes; of one job after another until there were so many.
fn resumes(bytes: u64, times: u64) {
    let gateway = Gateway::with(FREE);
    run(async {
        let mut dice = Dice::new(bytes);
        let (since, mut all, mut jobs) = (Instant::now(), Tally::default(), 0);
        while all.visits < times {
            let tally = resumed(&gateway, &mut dice, jobs, bytes, times).await;
            all.visits += tally.visits;
            all.next += tally.next;
            all.lost += tally.lost;
            all.gaps += tally.gaps;
            jobs += 1;
        }
        eprintln!(
            "{} connections over {} bytes of {jobs} jobs in {:?}: 0 lost or doubled; {} bytes in {} announced gaps",
            all.visits,
            all.next,
            since.elapsed(),
            all.lost,
            all.gaps
        );
    });
}

async fn resumed(gateway: &Gateway, dice: &mut Dice, job: u64, bytes: u64, times: u64) -> Tally {
    const WINDOW: u32 = 131_072;
    let (mut tally, token, lines) = (Tally::default(), gateway.token(), bytes / LINE);
    loop {
        let mut visit = Visit::begin(&gateway.address(), &token, &mut tally).await.unwrap();
        visit.patience = PATIENCE;
        let (session, channel) = visit.resume(&format!("s5-{job}"), lines, WINDOW).await.unwrap();
        let most = dice.below(2 * bytes / times) + 1;
        if visit.read(channel, WINDOW, most).await.unwrap() {
            visit.call("session.close", json!({"session": session})).await.unwrap();
            break;
        }
    }
    assert_eq!(tally.next, lines * LINE);
    tally
}

#[test]
fn s5_disconnecting_anywhere_and_resuming_loses_and_doubles_nothing() {
    resumes(4 << 20, 60);
}

#[test]
#[ignore = "long: 10 000 resumes in 1 GiB, minutes"]
fn s5_at_full_size() {
    resumes(1 << 30, 10_000);
}

/// S6: many short commands, each with every byte before its `job.eof` and one `job.closed`.
fn short_commands(total: u64, connections: u64) {
    let gateway = Gateway::with(FREE);
    run(async {
        commands(&gateway, u64::MAX, 200).await;
        eventually(PATIENCE, "the first ones leave nothing", || gateway.survivors().is_empty());
        let (before, rss) = (held(&gateway), proc::rss(gateway.pid()));
        let since = Instant::now();
        let each = (0..connections).map(|seed| commands(&gateway, seed, total / connections));
        futures_util::future::join_all(each).await;
        let took = since.elapsed();
        nothing_is_left(&gateway, before);
        let grown = proc::rss(gateway.pid()).saturating_sub(rss);
        eprintln!("{total} commands in {took:?}, {:?} each; RSS +{} KiB", took / total as u32, grown / 1024);
        assert!(grown < 64 << 20, "{grown} bytes");
    });
}

async fn commands(gateway: &Gateway, seed: u64, count: u64) {
    let (mut client, mut dice) = (Client::connect(gateway).await, Dice::new(seed));
    for number in 0..count {
        let text = format!("{number}-").repeat(dice.below(40) as usize + 1);
        let id = client.send("job.start", json!({"argv": ["printf", "%s", text]})).await;
        let (mut job, mut out, mut eofs, mut closed) = (Value::Null, String::new(), 0, false);
        while !closed {
            let message = client.next().await.expect("the connection lives");
            let params = &message["params"];
            if message["id"] == json!(id) {
                job = message["result"]["job"].clone();
                assert!(job.is_string(), "{message}");
                continue;
            }
            assert_eq!(params["job"], job, "a message of another job, or before the answer: {message}");
            match message["method"].as_str().unwrap() {
                "job.output" => {
                    assert_eq!(eofs, 0, "output after an end of file");
                    out.push_str(params["data"].as_str().unwrap());
                }
                "job.eof" => {
                    eofs += u64::from(params["stream"] == "stdout");
                }
                "job.closed" => {
                    assert_eq!(params["totals"]["stdout"]["delivered"], json!(out.len()));
                    closed = true;
                }
                "job.exited" => assert_eq!(params["code"], 0),
                other => panic!("{other}"),
            }
        }
        assert_eq!((out, eofs), (text, 1));
    }
}

#[test]
fn s6_every_byte_of_a_short_command_comes_before_its_end() {
    short_commands(400, 4);
}

#[test]
#[ignore = "long: 100 000 commands, minutes"]
fn s6_at_full_size() {
    short_commands(100_000, 4);
}
