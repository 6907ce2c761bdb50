//! The warden, over the real binary, with real trees. Emptiness is checked by a walk of /proc of our own.
#![allow(clippy::disallowed_methods)] // tests start programs of their own and find themselves by environment
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // as in any test
#![allow(clippy::print_stdout)] // how a test in a process of its own reports

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command as Program, Stdio as ProgramStdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use execgate::domain::{
    Command, DecisionId, ExitStatus, Facts, JobId, JobLimits, Resolved, SessionId, SignalTarget, SpawnStage,
    Terminal, TerminalSize, Tier,
};
use execgate::verdict::{Ballot, Cleared, Folded, Mode, Permission, Verdict, fold_command};
use execgate::warden::{
    FileRoots, Identity, PipeEnds, Prepare, Prepared, ProbeFailure, Profile, PtyEnds, Running, Settings,
    SignalFailure, SpawnFailure, Stdio, Warden, async_fd, resize,
};
use nix::errno::Errno;
use nix::libc;
use tokio::io::Interest;

use crate::support::{needs, needs_root};

const NOBODY: u32 = 65534;

fn nobody() -> Identity {
    Identity {
        uid: NOBODY,
        gid: NOBODY,
        groups: vec![NOBODY],
        user: "nobody".into(),
        home: "/".into(),
        shell: "/bin/sh".into(),
    }
}
/// A hostile tree: sessions of their own, a double fork, deaf to TERM and HUP, one that stops itself.
const TREE: &str = "trap '' TERM HUP; setsid sleep 1000 & (setsid sh -c 'sleep 1000 & sleep 1000' &); \
    sh -c 'kill -STOP $$' & (sh -c 'sleep 1000 & sleep 1000' &); echo ready; wait; sleep 1000";

fn settings(force: Option<Tier>) -> Settings {
    Settings { force, exe: Some(PathBuf::from(env!("CARGO_BIN_EXE_execgate"))), ..Settings::default() }
}

async fn launch(force: Option<Tier>) -> Warden {
    Warden::launch(settings(force)).await.expect("a warden")
}

/// The tier that a test in a process of its own is told to force.
fn tier_of_environment() -> Option<Tier> {
    match std::env::var("TIER").unwrap_or_default().as_str() {
        "A" => Some(Tier::A),
        "A'" => Some(Tier::APrime),
        "B" => Some(Tier::B),
        "C" => Some(Tier::C),
        _ => None,
    }
}

fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

/// Runs a test in the best tier of this host, in tier B and in tier C.
macro_rules! in_each_tier {
    ($(#[$doc:meta])* $name:ident, $body:expr) => {
        mod $name {
            use super::*;
            #[tokio::test]
            async fn best_tier() {
                let run: fn(Warden) -> _ = $body;
                run(launch(None).await).await;
            }
            #[tokio::test]
            async fn tier_b() {
                let run: fn(Warden) -> _ = $body;
                run(launch(Some(Tier::B)).await).await;
            }
            #[tokio::test]
            async fn tier_c() {
                let run: fn(Warden) -> _ = $body;
                run(launch(Some(Tier::C)).await).await;
            }
        }
    };
}

mod confining;
mod distrust;
mod ending;
mod hostile;
mod in_flight;
mod life;
mod limiting;
mod pausing;
mod refused;
mod reuse;
mod signalling;
mod starting;
mod waiting;

fn job_id() -> JobId {
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).unwrap();
    JobId::from_bits(u128::from_ne_bytes(bits))
}

fn wanted(job: JobId, program: &str) -> Prepare {
    Prepare {
        job,
        tenant: "acme".into(),
        session: SessionId::from_bits(1),
        program: program.into(),
        cwd: Some("/".into()),
        confine: Vec::new(),
        identity: None,
    }
}

fn cleared(prepared: &Prepared, command: Command) -> Cleared<Resolved> {
    cleared_on(prepared, command, Permission::default())
}

fn cleared_on(prepared: &Prepared, command: Command, permission: Permission) -> Cleared<Resolved> {
    let facts =
        Facts { executable: prepared.executable().clone(), cwd: prepared.cwd().to_owned(), script: None };
    let ballot = Ballot {
        author: Default::default(),
        policy: Arc::from("test"),
        mode: Mode::Enforce,
        outcome: Ok(Verdict::Allow(permission)),
        took: Duration::ZERO,
    };
    match fold_command(DecisionId::from_bits(1), Resolved { command, facts }, &[ballot]).unwrap() {
        Folded::Cleared(cleared) => *cleared,
        Folded::Changed(_) => panic!("nothing was changed"),
    }
}

fn command(job: JobId, argv: &[&str], terminal: Option<Terminal>) -> Command {
    let env = BTreeMap::from([
        ("EXECGATE_JOB".to_owned(), job.to_string()),
        ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
    ]);
    Command { argv: argv.iter().map(|a| (*a).to_owned()).collect(), cwd: Some("/".into()), env, terminal }
}

async fn start_as(
    warden: &Warden,
    prepare: Prepare,
    argv: &[&str],
) -> Result<(Running, PipeEnds), SpawnFailure> {
    let job = prepare.job;
    let prepared = warden.prepare(prepare).await?;
    let (stdio, ends) = Stdio::pipes(false).unwrap();
    let cleared = cleared(&prepared, command(job, argv, None));
    Ok((prepared.release(&cleared, stdio, &JobLimits::default()).await?, ends))
}

async fn start(warden: &Warden, job: JobId, argv: &[&str]) -> (Running, PipeEnds) {
    start_as(warden, wanted(job, argv[0]), argv).await.expect("a running job")
}

async fn output(fd: OwnedFd) -> String {
    let fd = async_fd(fd, Interest::READABLE).unwrap();
    let (mut all, mut part) = (Vec::new(), [0; 4096]);
    loop {
        let read = fd.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut part)?)).await;
        match read {
            Ok(0) => break,
            Ok(n) => all.extend_from_slice(&part[..n]),
            Err(e) if e.raw_os_error() == Some(libc::EIO) => break,
            Err(e) => panic!("{e}"),
        }
    }
    String::from_utf8(all).unwrap()
}

/// Waits until the job has printed a line.
async fn line(fd: &OwnedFd) -> String {
    let fd = async_fd(fd.try_clone().unwrap(), Interest::READABLE).unwrap();
    let (mut all, mut byte) = (Vec::new(), [0; 1]);
    while !all.ends_with(b"\n") {
        let read = fd.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut byte)?)).await.unwrap();
        assert_eq!(read, 1, "the job ended early");
        all.push(byte[0]);
    }
    String::from_utf8(all).unwrap()
}

/// The instance's group that a process is in, if it is in one.
fn instance_of(pid: i32) -> Option<PathBuf> {
    let group = crate::support::proc::group(pid)?;
    let name = |group: &Path| group.file_name()?.to_str().map(str::to_owned);
    let is_instance = |group: &&Path| {
        name(group).is_some_and(|name| name.starts_with("execgate-") && name != "execgate-self")
    };
    group.ancestors().find(is_instance).map(Path::to_owned)
}

/// Every living process that carries the mark of this job.
fn living(job: JobId) -> Vec<i32> {
    let mark = format!("EXECGATE_JOB={job}");
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let numbers = processes.filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    numbers
        .filter(|pid| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|b| *b == 0).any(|v| v == mark.as_bytes())
        })
        .collect()
}

/// Resolves when the warden holds nothing any more; each turn is an answer of the warden's.
async fn idle(warden: &Warden) {
    let waits = async {
        loop {
            let census = warden.census().await.unwrap();
            if (census.jobs, census.groups, census.orphans) == (0, 0, 0) {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), waits).await.expect("the warden to be idle");
}

/// Waits by pidfd until nobody of the job lives.
fn wait_for_all_of(job: JobId, bound: Duration) {
    let end = Instant::now() + bound;
    loop {
        let left = living(job);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "{left:?} live on");
        let Some(pid) = rustix::process::Pid::from_raw(left[0]) else { return };
        if let Ok(fd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
            let mut wait =
                [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&fd), nix::poll::PollFlags::POLLIN)];
            nix::poll::poll(&mut wait, 1000_u16).unwrap();
        }
    }
}

/// Runs one ignored test in a process of its own.
fn alone(test: &str, mut program: Program) {
    program.args(["--exact", &format!("warden_room::{test}"), "--ignored", "--nocapture"]);
    let mut child = program.current_dir("/").stdout(ProgramStdio::piped()).spawn().unwrap();
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success() && said.contains("alone=passed"), "{said}");
}
