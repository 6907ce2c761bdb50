//! Numbers P1 to P4: what a decision costs, and what load, logs, hostile neighbours and reloads do to that. The floor is a guest of a
//! few lines that abstains, asked in the same way in the same run: what it costs is the engine, what a shipped policy costs
//! beyond it is the policy.
//!
//! `cargo bench --bench decision`

#![allow(missing_docs, reason = "criterion makes the functions")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a measurement that fails ends, and says what it saw"
)]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group};
use execgate::audit::{self, Asked, Audit, Entry};
use execgate::domain::{CommandRequest, DecisionId};
use execgate::policy::{Module, Pinned, Policies, PolicySettings, Settings};

#[path = "../tests/it/support/guest.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests")]
mod guest;
#[path = "../tests/it/support/request.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests")]
mod request;

/// Decisions of each distribution.
const MANY: usize = 100_000;

criterion_group!(benches, decisions);

fn main() {
    benches();
    let directory = tempfile::tempdir().unwrap();
    println!("\nP1 one decision, fresh sandbox, one thread");
    for (name, policy) in subjects(directory.path()) {
        println!("  {name:<36} {}", spread(&load(vec![policy]), MANY));
    }
    cores(directory.path());
    logged(directory.path());
    neighbours(directory.path());
    swaps();
    Criterion::default().configure_from_args().final_summary();
}

fn subjects(directory: &Path) -> Vec<(&'static str, PolicySettings)> {
    let rules =
        |preset: &str| PolicySettings::builtin("command-rules", &format!("{{\"preset\":\"{preset}\"}}"));
    vec![
        ("floor: a guest that abstains", from_text(directory, "empty", guest::Guest::default())),
        ("command-rules, preset developer", rules("developer")),
        ("command-rules, preset read-only", rules("read-only")),
    ]
}

fn decisions(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let request = asked();
    let mut group = criterion.benchmark_group("decision");
    for (name, policy) in subjects(directory.path()) {
        let policies = load(vec![policy]);
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(policies.review_here(&request)));
        });
        group.bench_function(format!("{name}, through the pool"), |bencher| {
            bencher.iter(|| black_box(runtime.block_on(policies.review(request.clone()))));
        });
    }
    group.finish();
}

/// P1: decisions a second, on one thread and on two; and how much of a second core the machine gives to plain arithmetic, which
/// shares nothing.
fn cores(directory: &Path) {
    println!("P1 decisions a second");
    let rates = |name: &str, work: Work<'_>| {
        // Turn about, so that whatever else the machine does meets both alike.
        let (mut one, mut two) = (0.0, 0.0);
        for _ in 0..4 {
            one += rate(work, 1) / 4.0;
            two += rate(work, 2) / 4.0;
        }
        println!("  {name:<36} 1 thread {one:>8.0}   2 threads {two:>8.0} ({:.2} times)", two / one);
    };
    rates("plain arithmetic, for comparison", &arithmetic);
    for (name, policy) in subjects(directory) {
        let (policies, request) = (load(vec![policy]), asked());
        rates(name, &|| drop(black_box(policies.review_here(&request))));
    }
}

/// Some 10 us of it.
fn arithmetic() {
    black_box((0..10_000).fold(1, |sum: u64, n| black_box(sum.wrapping_mul(n | 1))));
}

/// What a thread does again and again.
type Work<'a> = &'a (dyn Fn() + Sync);

fn rate(work: Work<'_>, threads: usize) -> f64 {
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let since = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut mine = 0;
                while !stop.load(Ordering::Relaxed) {
                    work();
                    mine += 1;
                }
                count.fetch_add(mine, Ordering::Relaxed);
            });
        }
        std::thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
    });
    count.load(Ordering::Relaxed) as f64 / since.elapsed().as_secs_f64()
}

/// P2: five policies, with and without the decision log.
fn logged(directory: &Path) {
    let five: Vec<_> = (0..5)
        .map(|n| PolicySettings {
            name: format!("rules-{n}"),
            ..PolicySettings::builtin("command-rules", r#"{"preset":"read-only"}"#)
        })
        .collect();
    let policies = load(five);
    println!("P2 five policies (command-rules, preset read-only)");
    let path = Some(directory.join("decisions.jsonl"));
    let log =
        Audit::open(&audit::Settings { queue: MANY, tenant_bytes: u64::MAX, ..audit::Settings::at(path) })
            .unwrap();
    let off = Audit::open(&audit::Settings::at(None)).unwrap();
    let mut kept = Vec::new();
    // Turn about, so that whatever the machine does meets both alike; a decision every millisecond, as a busy gateway has them.
    for _ in 0..5 {
        for (name, log) in [("off", &off), ("on", &log)] {
            kept.push((name, paced(&policies, log, 2_000)));
        }
    }
    let p99 = |wanted: &str| {
        let mut all: Vec<_> =
            kept.iter().filter(|(name, _)| *name == wanted).flat_map(|(_, times)| times.clone()).collect();
        println!("  log {wanted:<3} {}", quantiles(&mut all));
        at(&all, 0.99)
    };
    let (off, on) = (p99("off"), p99("on"));
    println!("  p99 on/off {:.2}", on.as_secs_f64() / off.as_secs_f64());
}

fn paced(policies: &Pinned, log: &Audit, count: u128) -> Vec<Duration> {
    let request = asked();
    let mut times = Vec::new();
    for number in 0..count {
        let since = Instant::now();
        let ballots = policies.review_here(&request);
        let decision = DecisionId::from_bits(number);
        let fold = audit::fold_of_command(1, decision, request.resolved.clone(), &ballots);
        let asked = Asked::Command(request.clone(), ballots);
        let entry = Entry {
            decision,
            generation: 1,
            round: 1,
            grants: policies.grants(),
            asked,
            charges: Vec::new(),
            fold,
        };
        log.record(entry).unwrap();
        times.push(since.elapsed());
        std::thread::sleep(Duration::from_micros(300));
    }
    times
}

/// P3: a spinning guest's overshoot, and what an honest neighbour feels of guests that spin or grow: beside a thread that does
/// arithmetic, which is what any busy core costs, and beside them.
fn neighbours(directory: &Path) {
    let hostile = |name, review| {
        load(vec![from_text(directory, name, guest::Guest { review, ..guest::Guest::default() })])
    };
    let spinning = hostile("spin", "(loop $l (br $l)) (unreachable)");
    let growing = hostile(
        "grow",
        "(loop $l (drop (memory.grow (i32.const 1))) (i32.store (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 8)) (i32.const 1)) (br $l)) (unreachable)",
    );
    let honest = load(vec![PolicySettings::builtin("command-rules", r#"{"preset":"developer"}"#)]);
    let request = asked();
    let cpu = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap())
    };
    let mut over: Vec<_> = (0..100)
        .map(|_| {
            let since = cpu();
            assert!(spinning.review_here(&request)[0].outcome.is_err());
            (cpu() - since).saturating_sub(Duration::from_millis(10))
        })
        .collect();
    println!("P3 a guest that spins, budget 10 ms\n  CPU time over its budget {}", quantiles(&mut over));
    let ask = |hostile: &Pinned| drop(black_box(hostile.review_here(&request)));
    let (spin, grow) = (|| ask(&spinning), || ask(&growing));
    let beside: [(&str, Option<Work<'_>>); 4] = [
        ("alone", None),
        ("beside plain arithmetic", Some(&arithmetic)),
        ("beside a guest that spins", Some(&spin)),
        ("beside a guest that grows", Some(&grow)),
    ];
    let mut kept = beside.map(|_| Vec::new());
    for _ in 0..10 {
        for ((_, work), kept) in beside.iter().zip(&mut kept) {
            kept.extend(while_busy(*work, || times(&honest, MANY / 10)));
        }
    }
    for ((name, _), mut times) in beside.into_iter().zip(kept) {
        println!("  an honest decision {name:<26} {}", quantiles(&mut times));
    }
}

/// Measures while another thread works.
fn while_busy<T>(work: Option<Work<'_>>, measure: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        if let Some(work) = work {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    work();
                }
            });
        }
        let measured = measure();
        stop.store(true, Ordering::Relaxed);
        measured
    })
}

/// P4: swaps under load.
fn swaps() {
    let set = |preset: &str| {
        vec![PolicySettings::builtin("command-rules", &format!("{{\"preset\":\"{preset}\"}}"))]
    };
    let policies = Policies::load(&Settings::of(set("developer"))).unwrap();
    let prepared = ["developer", "read-only"].map(|preset| policies.prepare(&set(preset)).unwrap());
    let (stop, failed, count) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let asker = {
        let (policies, stop, failed, count) = (policies.clone(), stop.clone(), failed.clone(), count.clone());
        std::thread::spawn(move || {
            let request = asked();
            while !stop.load(Ordering::Relaxed) {
                let ballots = policies.pin().review_here(&request);
                failed.fetch_add(
                    u64::from(ballots.len() != 1 || ballots[0].outcome.is_err()),
                    Ordering::Relaxed,
                );
                count.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let mut swaps: Vec<_> = (0..2_000)
        .map(|n| {
            let next = prepared[n % 2].clone();
            let since = Instant::now();
            policies.install(next);
            let took = since.elapsed();
            std::thread::sleep(Duration::from_millis(1));
            took
        })
        .collect();
    stop.store(true, Ordering::Relaxed);
    asker.join().unwrap();
    let (count, failed) = (count.load(Ordering::Relaxed), failed.load(Ordering::Relaxed));
    println!(
        "P4 {count} decisions under {} swaps, {failed} failed\n  swap {}",
        swaps.len(),
        quantiles(&mut swaps)
    );
}

fn times(policies: &Pinned, count: usize) -> Vec<Duration> {
    let request = asked();
    (0..1_000).for_each(|_| drop(black_box(policies.review_here(&request))));
    (0..count)
        .map(|_| {
            let since = Instant::now();
            drop(black_box(policies.review_here(&request)));
            since.elapsed()
        })
        .collect()
}

fn spread(policies: &Pinned, count: usize) -> String {
    quantiles(&mut times(policies, count))
}

fn at(sorted: &[Duration], share: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

fn quantiles(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let us = |share| at(times, share).as_secs_f64() * 1e6;
    format!(
        "p50 {:>6.1} us   p90 {:>6.1} us   p99 {:>6.1} us   max {:>8.1} us",
        us(0.5),
        us(0.9),
        us(0.99),
        us(1.0)
    )
}

fn from_text(directory: &Path, name: &str, guest: guest::Guest<'_>) -> PolicySettings {
    let path = directory.join(format!("{name}.wasm"));
    std::fs::write(&path, guest.module()).unwrap();
    PolicySettings { module: Module::File(path), ..PolicySettings::builtin(name, "{}") }
}

fn load(policies: Vec<PolicySettings>) -> Pinned {
    let policies = Policies::load(&Settings::of(policies)).unwrap().pin();
    assert!(policies.list().iter().all(|policy| policy.snapshot.is_ok()), "measured without a snapshot");
    policies
}

fn asked() -> Arc<CommandRequest> {
    request::command(&["ls", "-l", "--color=never", "/usr/share"])
}
