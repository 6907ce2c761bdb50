//! What a start through the warden costs: prepare, release and exit of `true`, against posix_spawn and wait of the
//! same program in the same run, interleaved; once as it is and once with 1 GiB of memory held by this process.
//!
//! A plain program: `cargo bench --bench spawn [-- STARTS]`.
#![allow(clippy::disallowed_methods)] // the floor is a program started directly
#![allow(clippy::unwrap_used, clippy::indexing_slicing)] // a failure ends the measurement
#![allow(clippy::print_stdout)] // its result is what it prints

use std::collections::BTreeMap;
use std::process::{Command as Program, Stdio as ProgramStdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use execgate::domain::{Command, DecisionId, ExitStatus, Facts, JobId, JobLimits, Resolved, SessionId};
use execgate::verdict::{Ballot, Cleared, Folded, Mode, Permission, Verdict, fold_command};
use execgate::warden::{Prepare, Prepared, Settings, Stdio, Warden};

const STARTS: usize = 1000;
const BALLAST: usize = 1 << 30;
const PAGE: usize = 4096;

fn main() {
    let starts = std::env::args().filter_map(|a| a.parse().ok()).next().unwrap_or(STARTS);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let measured = runtime.spawn(async move {
        let settings = Settings { exe: Some(env!("CARGO_BIN_EXE_execgate").into()), ..Settings::default() };
        let warden = Warden::launch(settings).await.unwrap();
        println!("tier {}, {starts} starts each", warden.containment().tier);
        measure(&warden, "as it is", starts).await;
        let mut ballast = vec![0_u8; BALLAST];
        ballast.iter_mut().step_by(PAGE).for_each(|byte| *byte = 1);
        measure(&warden, "with 1 GiB of ballast", starts).await;
        drop(ballast);
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
    let cleared = cleared(&prepared);
    let running = prepared.release(&cleared, stdio, &JobLimits::default()).await.unwrap();
    assert_eq!(running.exited().await, ExitStatus::Code(0));
    let exited = begun.elapsed();
    assert_eq!(running.emptied().await.survivors, 0);
    [facts, exited, begun.elapsed()]
}

fn cleared(prepared: &Prepared) -> Cleared<Resolved> {
    let command = Command { argv: vec!["/bin/true".into()], cwd: None, env: BTreeMap::new(), terminal: None };
    let facts =
        Facts { executable: prepared.executable().clone(), cwd: prepared.cwd().to_owned(), script: None };
    let ballot = Ballot {
        author: Default::default(),
        policy: Arc::from("bench"),
        mode: Mode::Enforce,
        outcome: Ok(Verdict::Allow(Permission::default())),
        took: Duration::ZERO,
    };
    match fold_command(DecisionId::from_bits(1), Resolved { command, facts }, &[ballot]).unwrap() {
        Folded::Cleared(cleared) => *cleared,
        Folded::Changed(_) => unreachable!("nothing was changed"),
    }
}

fn percentiles(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}
