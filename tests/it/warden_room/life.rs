//! The warden's own life: probe, shutdown, and the death of either process.

use super::*;
use crate::support::{PATIENCE, eventually};

in_each_tier!(a_probe_spawns_for_real_and_leaves_nothing, |warden| async move {
    for _ in 0..5 {
        assert!(warden.probe().await.unwrap() < Duration::from_secs(2));
        idle(&warden).await;
    }
});

fn exists(group: Option<&PathBuf>) -> bool {
    group.is_some_and(|group| group.exists())
}

in_each_tier!(an_orderly_shutdown_ends_every_job_and_removes_the_instance, |warden| async move {
    let job = job_id();
    let (running, ends) = start(&warden, job, &["sh", "-c", TREE]).await;
    line(&ends.stdout).await;
    let group = instance_of(running.pid());
    assert!(warden.shutdown().await);
    warden.gone().await;
    assert_eq!(running.exited().await, ExitStatus::Signal { number: 9, core: false });
    assert_eq!(running.emptied().await.survivors, 0);
    assert_eq!(living(job), Vec::<i32>::new());
    assert!(!exists(group.as_ref()));
    let failure = warden.prepare(wanted(job_id(), "true")).await.expect_err("no warden");
    assert_eq!(Errno::from_raw(failure.errno), Errno::ESHUTDOWN);
});

in_each_tier!(when_the_warden_is_killed_every_job_ends, |warden| async move {
    let (tier, job) = (warden.containment().tier, job_id());
    let (running, ends) = start(&warden, job, &["sh", "-c", TREE]).await;
    line(&ends.stdout).await;
    let group = instance_of(running.pid());
    assert_eq!(exists(group.as_ref()), matches!(tier, Tier::A | Tier::APrime));
    let pid = rustix::process::Pid::from_raw(warden.pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    warden.gone().await;
    assert_eq!(running.emptied().await.survivors, 0);
    assert_eq!(living(job), Vec::<i32>::new());
    assert!(warden.probe().await.is_err());
    assert!(!warden.shutdown().await, "it is reaped, and did not end well");
    // The next start, this one or that of a test beside it, sweeps what this one could not remove.
    let next = launch(None).await;
    let swept = async {
        while exists(group.as_ref()) {
            next.census().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(3), swept).await.expect("the stale instance to be swept");
});

/// The gateway of the test below, in a process of its own: prints its job and waits to be killed.
#[tokio::test]
#[ignore = "started by gateway_killed_with_sigkill"]
async fn gateway_child() {
    let warden = launch(tier_of_environment()).await;
    let job = job_id();
    let (_running, ends) = start(&warden, job, &["sh", "-c", TREE]).await;
    line(&ends.stdout).await;
    println!("warden={}", warden.pid());
    println!("job={job}");
    std::io::stdout().flush().unwrap();
    std::future::pending::<()>().await;
}

/// What [`gateway_child`] prints.
fn warden_and_job(gateway: &mut std::process::Child) -> (i32, JobId) {
    let mut lines = BufReader::new(gateway.stdout.take().unwrap()).lines();
    let mut next = |name: &str| {
        let line = lines.find_map(|l| l.unwrap().split_once(name).map(|(_, value)| value.to_owned()));
        line.expect("the gateway's word")
    };
    (next("warden=").parse().unwrap(), next("job=").parse().unwrap())
}

/// Both at once: nobody of ours is left to kill the job. The next start does, before it is ready.
async fn gateway_and_warden_killed(tier: &str) {
    let mut gateway = Program::new(std::env::current_exe().unwrap());
    gateway.args(["--exact", "warden_room::life::gateway_child", "--ignored", "--nocapture"]);
    let mut gateway = gateway.env("TIER", tier).stdout(ProgramStdio::piped()).spawn().unwrap();
    let (warden, job) = warden_and_job(&mut gateway);
    eventually(PATIENCE, "the tree has grown", || living(job).len() >= 4);
    let warden = rustix::process::Pid::from_raw(warden).unwrap();
    // Stopped first, so that neither can do anything about the other's death.
    rustix::process::kill_process(warden, rustix::process::Signal::STOP).unwrap();
    gateway.kill().unwrap();
    rustix::process::kill_process(warden, rustix::process::Signal::KILL).unwrap();
    gateway.wait().unwrap();
    let _next = launch(None).await;
    // A start of a test beside this one may be what is sweeping: then ours did not wait for it.
    wait_for_all_of(job, Duration::from_secs(1));
}

#[tokio::test]
async fn gateway_and_warden_killed_at_once_leave_no_job_to_the_next_start() {
    gateway_and_warden_killed("").await;
}

#[tokio::test]
async fn gateway_and_warden_killed_at_once_leave_no_job_in_tier_b() {
    gateway_and_warden_killed("B").await;
}

#[tokio::test]
async fn gateway_and_warden_killed_at_once_leave_no_job_in_tier_c() {
    gateway_and_warden_killed("C").await;
}

in_each_tier!(an_instance_that_lives_is_left_alone_by_another_that_starts, |warden| async move {
    let job = job_id();
    let (running, ends) = start(&warden, job, &["sh", "-c", TREE]).await;
    line(&ends.stdout).await;
    eventually(PATIENCE, "the tree has grown", || living(job).len() >= 4);
    let other = launch(None).await;
    other.probe().await.unwrap();
    assert!(other.shutdown().await);
    assert!(living(job).len() >= 4, "{:?}", living(job));
    assert!(futures_util::FutureExt::now_or_never(running.exited()).is_none());
    warden.probe().await.unwrap();
    running.kill();
    assert_eq!(running.emptied().await.survivors, 0);
});

fn gateway_killed_with_sigkill(tier: &str) {
    let mut gateway = Program::new(std::env::current_exe().unwrap());
    gateway.args(["--exact", "warden_room::life::gateway_child", "--ignored", "--nocapture"]);
    let mut gateway = gateway.env("TIER", tier).stdout(ProgramStdio::piped()).spawn().unwrap();
    let (_, job) = warden_and_job(&mut gateway);
    eventually(PATIENCE, "the tree has grown", || living(job).len() >= 4);
    gateway.kill().unwrap();
    gateway.wait().unwrap();
    wait_for_all_of(job, Duration::from_secs(1));
}

#[test]
fn gateway_killed_with_sigkill_leaves_no_job() {
    gateway_killed_with_sigkill("");
}

#[test]
fn gateway_killed_with_sigkill_leaves_no_job_in_tier_b() {
    gateway_killed_with_sigkill("B");
}

#[test]
fn gateway_killed_with_sigkill_leaves_no_job_in_tier_c() {
    gateway_killed_with_sigkill("C");
}

/// Run as a user who may write no cgroup.
#[tokio::test]
#[ignore = "started by without_privileges_the_warden_works_and_says_what_it_cannot"]
async fn unprivileged_child() {
    let forced = tier_of_environment();
    let warden = launch(forced).await;
    let containment = warden.containment().clone();
    assert!(forced.is_none_or(|tier| tier == containment.tier));
    let (better, said) = match containment.tier {
        Tier::B => ("not tier A", forced.is_none()),
        Tier::C => ("no exact containment", true),
        Tier::A | Tier::APrime => panic!("{containment:?}"),
    };
    assert_eq!(containment.notes.iter().any(|n| n.contains(better)), said, "{containment:?}");
    warden.probe().await.unwrap();
    let job = job_id();
    let (running, ends) = start(&warden, job, &["sh", "-c", TREE]).await;
    line(&ends.stdout).await;
    running.kill();
    assert_eq!(running.emptied().await.survivors, 0);
    assert_eq!(living(job), Vec::<i32>::new());
    assert!(warden.shutdown().await);
    println!("alone=passed");
}

#[test]
fn without_privileges_the_warden_works_and_says_what_it_cannot() {
    if !needs_root() {
        return;
    }
    for tier in ["", "B", "C"] {
        let mut child = Program::new("setpriv");
        child.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        child.arg(std::env::current_exe().unwrap()).env("TIER", tier);
        alone("life::unprivileged_child", child);
    }
}

#[test]
fn a_warden_without_a_proper_hello_ends_with_a_failure() {
    use std::os::fd::AsFd;
    for hello in [&b""[..], &[0xff; 300], &[0; 64]] {
        let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
        let kind = rustix::net::SocketType::SEQPACKET;
        let (ours, theirs) =
            rustix::net::socketpair(rustix::net::AddressFamily::UNIX, kind, flags, None).unwrap();
        let mut warden = Program::new(env!("CARGO_BIN_EXE_execgate"));
        let warden = warden.arg("__warden").env_clear().stdin(theirs).stderr(ProgramStdio::null());
        let mut warden = warden.spawn().unwrap();
        rustix::net::send(ours.as_fd(), hello, rustix::net::SendFlags::NOSIGNAL).unwrap();
        assert_eq!(warden.wait().unwrap().code(), Some(1), "{hello:?}");
    }
}

/// H1 over HTTP. What is asked within a second shares one probe, so these are fewer probes than requests.
#[test]
#[ignore = "long: ten thousand requests"]
fn ten_thousand_readyz_requests_leave_no_zombie() {
    use crate::support::{Gateway, PATIENCE, eventually, proc};
    let gateway = Gateway::start();
    let begun = Instant::now();
    crate::support::run(async {
        for _ in 0..10_000 {
            assert_eq!(crate::transport::get(&gateway, "/readyz").await.0, 200);
        }
    });
    eprintln!("H1: 10 000 /readyz in {:?}", begun.elapsed());
    eventually(PATIENCE, "no zombie is left", || proc::zombies(gateway.warden) == 0);
    eventually(PATIENCE, "no child is left", || proc::children(gateway.warden).is_empty());
    eventually(PATIENCE, "no group is left", || proc::groups_of(&gateway.banner).is_empty());
}
