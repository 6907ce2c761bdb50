//! What a start costs, against posix_spawn and wait of the same program in the same run, interleaved: through the whole gateway
//! (L1, L2, L3) and through the warden alone; as it is and with 1 GiB of memory held by the gateway.
//!
//! A plain program: `cargo bench --bench spawn [-- STARTS] [L1] [L2] [L3] [warden]`; without names, everything. It runs itself
//! again as the gateway, so that the gateway can be given memory to hold.
#![allow(clippy::disallowed_methods)] // the floor is a program started directly
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // a failure ends the measurement
#![allow(clippy::print_stdout)] // its result is what it prints
#![allow(unreachable_pub, missing_docs, missing_debug_implementations, dead_code)] // the other bench's client

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command as Program, ExitCode, Stdio as ProgramStdio};
use std::time::{Duration, Instant};

use execgate::domain::{ExitStatus, JobId, JobLimits, SessionId};
use execgate::warden::{self, Prepare, Settings, Stdio, Warden};
use sha2::{Digest as _, Sha256};

#[path = "support/cleared.rs"]
mod cleared;
#[path = "gateway/wire.rs"]
mod wire;

use cleared::cleared;
use wire::Wire;

const STARTS: usize = 1000;
/// Starts that a connection has under way at once for L3.
const AHEAD: usize = 8;
/// How the gateway is told how many MiB to hold.
const HOLD: &str = "BENCH_BALLAST_MIB";
const BALLAST: usize = 1 << 30;
const PAGE: usize = 4096;
const SCENES: [&str; 4] = ["L1", "L2", "L3", "warden"];
/// Clock ticks a second in /proc/PID/stat (USER_HZ).
const TICKS: f64 = 100.0;

fn main() -> ExitCode {
    let mut words = std::env::args();
    if words.next().is_some_and(|name| name == warden::PROBE_NAME) {
        return warden::answer_probe();
    }
    match words.next().as_deref() {
        Some(warden::WARDEN_ARGUMENT) => return warden::main(),
        Some("serve") => {
            let mib: usize = std::env::var(HOLD).unwrap().parse().unwrap();
            std::mem::forget(ballast(mib << 20));
            return execgate::cli::run();
        }
        _ => {}
    }
    let starts = std::env::args().filter_map(|a| a.parse().ok()).next().unwrap_or(STARTS);
    let named: Vec<_> = std::env::args().filter(|word| SCENES.contains(&word.as_str())).collect();
    let wanted = |scene: &str| named.is_empty() || named.iter().any(|name| name == scene);
    for mib in [0, BALLAST >> 20] {
        let gateway = Gateway::start(mib);
        println!("whole gateway, holding {mib} MiB, policies and log on, {starts} starts each");
        if wanted("L1") {
            warm(&gateway, starts);
        }
        if wanted("L3") {
            sustained(&gateway, starts);
        }
        if wanted("L2") && mib == 0 {
            cold(&gateway, starts.min(300));
        }
    }
    if wanted("warden") {
        warden_alone(starts);
    }
    ExitCode::SUCCESS
}

fn ballast(bytes: usize) -> Vec<u8> {
    let mut ballast = vec![0_u8; bytes];
    ballast.iter_mut().step_by(PAGE).for_each(|byte| *byte = 1);
    ballast
}

/// This program as a gateway.
struct Gateway {
    child: Child,
    address: String,
    token: &'static str,
    _directory: tempfile::TempDir,
}

impl Gateway {
    fn start(mib: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("bench.toml");
        let token = "a token of a bench that lives as long as its gateway";
        let digest = format!("{:x}", Sha256::digest(token));
        let config = format!(
            "[limits]\nrequests_per_second = 1000000\njobs = 1000\n\
             [auth.token.bench]\nsha256 = \"{digest}\"\ntenant = \"bench\"\nsubject = \"bench\"\n\
             [policy.rules]\nmodule = \"builtin:command-rules\"\nsettings = {{ preset = \"developer\" }}\n\
             [policy.quota]\nmodule = \"builtin:session-quota\"\n\
             settings = {{ sessions = {{ subject = 20000 }}, jobs = {{ subject = 20000 }} }}\n[log]\nlevel = \"warn\"\n"
        );
        std::fs::write(&file, config).unwrap();
        let mut child = Program::new(std::env::current_exe().unwrap())
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(&file)
            .env(HOLD, mib.to_string())
            .env("HOME", directory.path())
            .env("XDG_STATE_HOME", directory.path())
            .stdout(ProgramStdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let first = lines.next().unwrap();
        let containment = lines.find(|line| line.starts_with("containment:")).unwrap();
        println!("{containment}");
        let address = first.rsplit("http://").next().unwrap().to_owned();
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address, token, _directory: directory }
    }

    /// Processor time in clock ticks: its own, its warden's, and that of the warden's children, which are the jobs.
    fn ticks(&self) -> [f64; 3] {
        let gateway = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{gateway}/task/{gateway}/children")).unwrap();
        let warden = children.split_whitespace().next().unwrap();
        let times = |pid: &str| -> Vec<f64> {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            let fields = stat.rsplit(')').next().unwrap().split_whitespace();
            fields.skip(11).take(4).map(|ticks| ticks.parse().unwrap()).collect()
        };
        let (own, wardens) = (times(&gateway.to_string()), times(warden));
        [own[0] + own[1], wardens[0] + wardens[1], wardens[2] + wardens[3]]
    }

    fn connect(&self) -> Wire {
        let headers =
            format!("Authorization: Bearer {}\r\nSec-WebSocket-Protocol: execgate.v1\r\n", self.token);
        Wire::connect(&self.address, "/v1/ws", &headers)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn ask(wire: &mut Wire, id: usize, argv: &str) {
    wire.text(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"job.start","params":{{"argv":{argv}}}}}"#));
}

/// L1: `job.start` of `true` to `job.exited`, on a connection that has its session.
fn warm(gateway: &Gateway, starts: usize) {
    let mut wire = gateway.connect();
    let (mut floor, mut answered, mut exited) = (Vec::new(), Vec::new(), Vec::new());
    for id in 0..starts + 20 {
        let direct = start_directly();
        let begun = Instant::now();
        ask(&mut wire, id, r#"["/bin/true"]"#);
        wire.find("\"result\"");
        let answer = begun.elapsed();
        wire.find("job.exited");
        let exit = begun.elapsed();
        wire.find("job.closed");
        // The first ones make the session and warm what is cached.
        if id >= 20 {
            floor.push(direct);
            answered.push(answer);
            exited.push(exit);
        }
    }
    let floor = percentiles(floor);
    println!("  L1 floor (posix_spawn + wait)      p50 {:?} p99 {:?}", floor.0, floor.1);
    for (what, times) in [("answered", answered), ("job.exited", exited)] {
        let (p50, p99) = percentiles(times);
        let ratio = p50.as_secs_f64() / floor.0.as_secs_f64();
        println!("  L1 job.start -> {what:12}       p50 {p50:?} p99 {p99:?}  {ratio:.2} x floor (bar 1.5)");
    }
}

/// L3: starts a second on one connection, against as many one after the other without a gateway.
fn sustained(gateway: &Gateway, starts: usize) {
    let begun = Instant::now();
    for _ in 0..starts {
        start_directly();
    }
    let floor = starts as f64 / begun.elapsed().as_secs_f64();
    let mut wire = gateway.connect();
    let before = gateway.ticks();
    let begun = Instant::now();
    (0..AHEAD.min(starts)).for_each(|id| ask(&mut wire, id, r#"["/bin/true"]"#));
    for id in 0..starts {
        wire.find("job.closed");
        if id + AHEAD < starts {
            ask(&mut wire, id + AHEAD, r#"["/bin/true"]"#);
        }
    }
    let ours = starts as f64 / begun.elapsed().as_secs_f64();
    println!(
        "  L3 started, ended and closed       {ours:.0} a second, serial floor {floor:.0}: {:.0} % (bar 80 %)",
        ours / floor * 100.0
    );
    let a_start = |after: f64, before: f64| (after - before) * 1000.0 / TICKS / starts as f64;
    let [own, warden, jobs] = gateway.ticks();
    println!(
        "  L3 processor time of a start       gateway {:.2} ms, warden {:.2} ms, jobs and their start {:.2} ms",
        a_start(own, before[0]),
        a_start(warden, before[1]),
        a_start(jobs, before[2])
    );
}

/// L2: connect, upgrade, open, `echo`, first output.
fn cold(gateway: &Gateway, starts: usize) {
    let mut times = Vec::new();
    for id in 0..starts {
        let begun = Instant::now();
        let mut wire = gateway.connect();
        ask(&mut wire, id, r#"["echo","x"]"#);
        loop {
            let frame = wire.next();
            if frame.opcode == 2 && frame.payload[0] == 1 {
                break;
            }
        }
        times.push(begun.elapsed());
    }
    let (p50, p99) = percentiles(times);
    println!("  L2 connect -> first output of echo p50 {p50:?} p99 {p99:?} (bar 1.3 ms)");
}

fn warden_alone(starts: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let measured = runtime.spawn(async move {
        let settings = Settings { exe: Some(env!("CARGO_BIN_EXE_execgate").into()), ..Settings::default() };
        let warden = Warden::launch(settings).await.unwrap();
        println!("warden alone, tier {}", warden.containment().tier);
        measure(&warden, "as it is", starts).await;
        let held = ballast(BALLAST);
        measure(&warden, "with 1 GiB of ballast", starts).await;
        drop(held);
        assert!(warden.shutdown().await);
    });
    // In a task like a job's own: what blocks the main thread costs a thread switch at each event.
    runtime.block_on(measured).unwrap();
}

async fn measure(warden: &Warden, name: &str, starts: usize) {
    let (mut floor, mut facts, mut exited, mut emptied) = (vec![], vec![], vec![], vec![]);
    for number in 0..starts {
        floor.push(start_directly());
        let times = start(warden, JobId::from_bits(number as u128)).await;
        facts.push(times[0]);
        exited.push(times[1]);
        emptied.push(times[2]);
    }
    let floor = percentiles(floor);
    println!("{name}: floor (posix_spawn + wait) p50 {:?} p99 {:?}", floor.0, floor.1);
    for (what, times) in [("facts", facts), ("exited", exited), ("emptied", emptied)] {
        let (p50, p99) = percentiles(times);
        let ratio = p50.as_secs_f64() / floor.0.as_secs_f64();
        println!("  {what:8} p50 {p50:?} p99 {p99:?}  {ratio:.2} x floor");
    }
}

fn start_directly() -> Duration {
    let begun = Instant::now();
    let status = Program::new("/bin/true").env_clear().stdin(ProgramStdio::null()).status().unwrap();
    assert!(status.success());
    begun.elapsed()
}

/// Time to facts, to the exit and to emptiness.
async fn start(warden: &Warden, job: JobId) -> [Duration; 3] {
    let begun = Instant::now();
    let prepare = Prepare {
        job,
        tenant: "bench".into(),
        session: SessionId::from_bits(1),
        program: "/bin/true".into(),
        cwd: Some("/".into()),
        confine: Vec::new(),
        identity: None,
    };
    let prepared = warden.prepare(prepare).await.unwrap();
    let facts = begun.elapsed();
    let (stdio, _ends) = Stdio::pipes(false).unwrap();
    let cleared = cleared(&prepared, vec!["/bin/true".into()]);
    let running = prepared.release(&cleared, stdio, &JobLimits::default()).await.unwrap();
    assert_eq!(running.exited().await, ExitStatus::Code(0));
    let exited = begun.elapsed();
    assert_eq!(running.emptied().await.survivors, 0);
    [facts, exited, begun.elapsed()]
}

fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}
