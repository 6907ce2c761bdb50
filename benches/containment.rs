//! Containment in figures: T2 to T5 and H1 of the promises, each beside a floor from the same run where there is one.
//!
//! A plain program: `cargo bench --bench containment [-- [T2] [T3] [T4] [T5] [H1] [ROUNDS]]`. `TIER=B` forces a tier for T2, T5
//! and H1. ROUNDS is the number of gateways that T4 kills.
#![allow(clippy::disallowed_methods)] // the floor is a program started directly
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // a failure ends the measurement
#![allow(clippy::print_stdout, clippy::print_stderr)] // its result is what it prints
#![allow(unsafe_code, clippy::undocumented_unsafe_blocks)] // forks of a process that does nothing else
#![allow(dead_code, unreachable_pub, missing_docs)] // the support of the integration tests, of which little is used here

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command as Program, Stdio as ProgramStdio};
use std::time::{Duration, Instant};

use execgate::domain::{JobId, JobLimits, SessionId, Tier};
use execgate::warden::{PipeEnds, Prepare, Running, Settings, Stdio, Warden, async_fd};
use nix::unistd::{ForkResult, fork, setsid};
use tokio::io::Interest;

#[path = "support/cleared.rs"]
mod cleared;
#[path = "../tests/it/support/client.rs"]
mod client;
#[path = "../tests/it/support/gateway.rs"]
mod gateway;
#[path = "../tests/it/support/proc.rs"]
mod proc;

use cleared::cleared;
use client::Client;
use gateway::Gateway;

/// Long enough for anything that works.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until something is so.
fn eventually(within: Duration, what: &str, mut so: impl FnMut() -> bool) -> Duration {
    let since = Instant::now();
    while !so() {
        assert!(since.elapsed() < within, "not within {within:?}: {what}");
    }
    since.elapsed()
}

/// Gateways that T4 kills.
const GATEWAYS: usize = 100;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [first, size, ..] = words.as_slice()
        && first == "tree"
    {
        grow(size.parse().unwrap(), words.len() > 2);
    }
    let rounds = words.iter().find_map(|w| w.parse().ok()).unwrap_or(GATEWAYS);
    let named = |what: &str| words.iter().any(|w| w == what);
    let all = !["T2", "T3", "T4", "T5", "H1"].into_iter().any(named);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    // In tasks like a job's own: what blocks the main thread costs a thread switch at each event.
    for (name, wanted) in ["T2", "T5", "H1"].map(|name| (name, all || named(name))) {
        if wanted {
            runtime
                .block_on(runtime.spawn(async move {
                    let warden = launch().await;
                    match name {
                        "T2" => kills(&warden).await,
                        "T5" => pauses(&warden).await,
                        _ => probes(&warden).await,
                    }
                    assert!(warden.shutdown().await);
                }))
                .unwrap();
        }
    }
    if all || named("T3") {
        disconnects(&runtime);
    }
    if all || named("T4") {
        murders(&runtime, rounds);
    }
}

async fn launch() -> Warden {
    let force = match std::env::var("TIER").unwrap_or_default().as_str() {
        "A" => Some(Tier::A),
        "A'" => Some(Tier::APrime),
        "B" => Some(Tier::B),
        "C" => Some(Tier::C),
        _ => None,
    };
    let exe = Some(env!("CARGO_BIN_EXE_execgate").into());
    let warden = Warden::launch(Settings { exe, force, ..Settings::default() }).await.unwrap();
    println!("tier {}", warden.containment().tier);
    warden
}

/// The tree: this program again. Every second process leaves the session when `hostile`.
fn grow(size: usize, hostile: bool) -> ! {
    for number in 1..size {
        if let Ok(ForkResult::Child) = unsafe { fork() } {
            if hostile && number % 2 == 0 {
                let _ = setsid();
            }
            loop {
                nix::unistd::pause();
            }
        }
    }
    println!("ready");
    loop {
        nix::unistd::pause();
    }
}

/// T2: from the kill to the tree confirmed empty, against killpg of a tree that stays in its group.
async fn kills(warden: &Warden) {
    let tier = warden.containment().tier;
    for (size, rounds, bar) in [(10, 200, 50), (200, 50, 250), (1000, 20, 1000)] {
        if tier == Tier::C && size > 200 {
            continue;
        }
        let (mut floor, mut ours, mut left) = (Vec::new(), Vec::new(), 0);
        for round in 0..rounds {
            floor.push(kill_group(size));
            let (running, _ends) = tree(warden, round, size).await;
            let begun = Instant::now();
            running.kill();
            left += running.emptied().await.survivors;
            ours.push(begun.elapsed());
        }
        println!("T2 tier {tier}: {size} processes, {rounds} rounds, {left} survivors, bar p99 {bar} ms");
        println!("  killpg + end of file  {}", show(floor));
        println!("  kill + emptied        {}", show(ours));
    }
}

fn kill_group(size: usize) -> Duration {
    use std::os::unix::process::CommandExt as _;
    let mut child = Program::new(std::env::current_exe().unwrap());
    let mut child = child
        .args(["tree", &size.to_string()])
        .process_group(0)
        .stdout(ProgramStdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    said.read_line(&mut String::new()).unwrap();
    let begun = Instant::now();
    let group = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).unwrap();
    child.wait().unwrap();
    said.read_to_end(&mut Vec::new()).unwrap();
    begun.elapsed()
}

/// T5: from the request to the kernel's acknowledgement, and what a paused job runs.
async fn pauses(warden: &Warden) {
    let (running, _ends) = tree(warden, 0, 10).await;
    let (mut paused, mut resumed, mut exact) = (Vec::new(), Vec::new(), true);
    for _ in 0..1000 {
        let begun = Instant::now();
        exact &= running.pause().await.unwrap().exact;
        paused.push(begun.elapsed());
        let begun = Instant::now();
        running.resume().await.unwrap();
        resumed.push(begun.elapsed());
    }
    let tier = warden.containment().tier;
    println!("T5 tier {tier}: 10 processes, 1000 rounds, exact {exact}, bar p99 5 ms");
    println!("  pause acknowledged    {}", show(paused));
    println!("  resume acknowledged   {}", show(resumed));
    running.kill();
    running.emptied().await;
}

/// H1: probes leave nothing; broken spawning is seen at once and recovers by itself.
async fn probes(warden: &Warden) {
    let mut took = Vec::new();
    for _ in 0..10_000 {
        took.push(warden.probe().await.unwrap());
    }
    let pid = warden.pid().cast_signed();
    println!("H1: 10000 probes {}", show(took));
    println!("  zombies {}, {:?}", proc::zombies(pid), warden.census().await.unwrap());
    println!("  resident memory of the warden {} KiB", proc::rss(pid) >> 10);
    let open = proc::descriptors(pid) as u64;
    let number = rustix::process::Pid::from_raw(pid);
    let limit = |soft| {
        let maximum = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        let wanted = rustix::process::Rlimit { current: soft, maximum };
        rustix::process::prlimit(number, rustix::process::Resource::Nofile, wanted).unwrap().current
    };
    let usual = limit(Some(open));
    let begun = Instant::now();
    let failure = warden.probe().await.unwrap_err();
    println!("  without descriptors it fails after {:?}: {failure}", begun.elapsed());
    limit(usual);
    println!("  and works again after {:?}", warden.probe().await.unwrap());
}

const TREE: &str =
    "setsid sh -c 'trap \"\" HUP TERM; sleep 1000; :' & setsid setsid sleep 1000 & sleep 1000 & sleep 1000";

/// T3: from the end of the socket to nobody left, looked for in /proc.
fn disconnects(runtime: &tokio::runtime::Runtime) {
    let gateway = Gateway::start();
    let mut took = Vec::new();
    for _ in 0..100 {
        let client = runtime.block_on(async {
            let mut client = Client::connect(&gateway).await;
            client.sh(TREE).await;
            client
        });
        eventually(PATIENCE, "the tree runs", || gateway.survivors().len() >= 5);
        let begun = Instant::now();
        drop(client);
        eventually(PATIENCE, "nobody is left", || gateway.survivors().is_empty());
        took.push(begun.elapsed());
    }
    println!(
        "T3: {} ; 100 rounds, bar p99 250 ms",
        gateway.banner.iter().find(|l| l.starts_with("containment")).unwrap()
    );
    println!("  socket closed + empty {}", show(took));
    drop(gateway);
}

/// T4: gateways killed by SIGKILL at a random moment of starting and running jobs.
fn murders(runtime: &tokio::runtime::Runtime, rounds: usize) {
    let (mut took, mut left) = (Vec::new(), 0);
    for _ in 0..rounds {
        let gateway = Gateway::start();
        runtime.block_on(async {
            let mut client = Client::connect(&gateway).await;
            for _ in 0..5 {
                client.send("job.start", serde_json::json!({ "argv": ["sh", "-c", TREE] })).await;
            }
            let mut random = [0; 1];
            getrandom::fill(&mut random).unwrap();
            tokio::time::sleep(Duration::from_micros(u64::from(random[0]) * 200)).await;
        });
        let begun = Instant::now();
        gateway.signal(nix::sys::signal::Signal::SIGKILL);
        // What the warden has read it may still start, so nobody is left only once it is gone itself.
        while (proc::is_alive(gateway.warden) || !gateway.survivors().is_empty())
            && begun.elapsed() < Duration::from_secs(1)
        {}
        left += gateway.survivors().len();
        took.push(begun.elapsed());
    }
    println!("T4: {rounds} gateways killed within 51 ms of five starts: {left} survivors after 1 s");
    println!("  killed + empty        {}", show(took));
}

async fn tree(warden: &Warden, number: usize, size: usize) -> (Running, PipeEnds) {
    let exe = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
    let prepare = Prepare {
        job: JobId::from_bits(number as u128),
        tenant: "bench".into(),
        session: SessionId::from_bits(1),
        program: exe.clone(),
        cwd: Some("/".into()),
        confine: Vec::new(),
        identity: None,
    };
    let prepared = warden.prepare(prepare).await.unwrap();
    let (stdio, ends) = Stdio::pipes(false).unwrap();
    let argv = vec![exe, "tree".into(), size.to_string(), "hostile".into()];
    let cleared = cleared(&prepared, argv);
    let running = prepared.release(&cleared, stdio, &JobLimits::default()).await.unwrap();
    let said = async_fd(ends.stdout.try_clone().unwrap(), Interest::READABLE).unwrap();
    let read = said.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut [0; 16])?)).await;
    assert!(read.unwrap() > 0);
    (running, ends)
}

fn show(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    format!("p50 {:?} p99 {:?} max {:?}", at(50), at(99), times[times.len() - 1])
}
