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

/// P1: decisions a second, on one thread and on two.
fn cores(directory: &Path) {
    println!("P1 decisions a second");
    for (name, policy) in subjects(directory) {
        let policies = load(vec![policy]);
        let rates: Vec<_> = [1, 2].map(|threads| rate(&policies, threads)).into();
        println!(
            "  {name:<36} 1 thread {:>7.0}   2 threads {:>7.0} ({:.2} times)",
            rates[0],
            rates[1],
            rates[1] / rates[0]
        );
    }
}

fn rate(policies: &Pinned, threads: usize) -> f64 {
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            let (policies, stop, count) = (policies.clone(), stop.clone(), count.clone());
            std::thread::spawn(move || {
                let request = asked();
                while !stop.load(Ordering::Relaxed) {
                    black_box(policies.review_here(&request));
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let since = Instant::now();
    std::thread::sleep(Duration::from_secs(2));
    let rate = count.load(Ordering::Relaxed) as f64 / since.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    workers.into_iter().for_each(|worker| worker.join().unwrap());
    rate
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

/// P3: a spinning guest's overshoot, and what an honest neighbour feels of it.
fn neighbours(directory: &Path) {
    let spin = guest::Guest { review: "(loop $l (br $l)) (unreachable)", ..guest::Guest::default() };
    let spinning = load(vec![from_text(directory, "spin", spin)]);
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
    let alone = times(&honest, MANY);
    let stop = Arc::new(AtomicBool::new(false));
    let spinner = {
        let (spinning, stop, request) = (spinning.clone(), stop.clone(), request.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                drop(spinning.review_here(&request))
            }
        })
    };
    let beside = times(&honest, MANY);
    stop.store(true, Ordering::Relaxed);
    spinner.join().unwrap();
    for (name, mut times) in [("alone", alone), ("beside a spinning guest", beside)] {
        println!("  an honest decision {name:<24} {}", quantiles(&mut times));
    }
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
