//! Limits of a whole job: met, named, and counted. A hog is this test binary, run as a job.

use execgate::domain::Breach;

use super::confining::start_self_with;
use super::*;

/// Long enough for a limit to be met and the tree to die on a busy machine of two cores.
const BOUND: Duration = Duration::from_secs(20);

async fn ended(running: &Running) -> (ExitStatus, Option<Breach>) {
    let status = tokio::time::timeout(BOUND, running.exited()).await.expect("the limit to end it");
    running.kill();
    let emptied = tokio::time::timeout(BOUND, running.emptied()).await.expect("the tree to be empty");
    assert_eq!(emptied.survivors, 0);
    (status, running.breach())
}

async fn start_limited(warden: &Warden, limits: JobLimits, argv: &[&str]) -> (JobId, Running, PipeEnds) {
    let job = job_id();
    let prepared = warden.prepare(wanted(job, argv[0])).await.unwrap();
    let (stdio, ends) = Stdio::pipes(false).unwrap();
    let cleared = cleared(&prepared, command(job, argv, None));
    (job, prepared.release(&cleared, stdio, &limits).await.expect("a running job"), ends)
}

/// Whether a controller keeps what the test is about.
fn keeps(warden: &Warden, what: &str) -> bool {
    let lacks =
        warden.containment().notes.iter().find(|note| note.starts_with(&format!("no {what} controller")));
    needs(lacks.is_none(), lacks.map_or("", String::as_str))
}

/// Groups of this warden's jobs in the v1 hierarchies: everything below an instance that belongs to no other test is
/// unknowable from here, so each test looks for the group its own leader was in.
fn own_groups(pid: i32) -> Vec<PathBuf> {
    let of = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let place = |line: &str| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        path.contains("execgate-").then(|| PathBuf::from(format!("/sys/fs/cgroup/{controllers}{path}")))
    };
    of.lines().filter_map(place).filter(|path| path.exists()).collect()
}

in_each_tier!(a_job_is_ended_before_its_gateway_when_the_host_is_out_of_memory, |warden| async move {
    const SCORE: &str = "/proc/self/oom_score_adj";
    let of = |text: &str| text.trim().parse::<i32>().unwrap();
    let (_running, ends) = start(&warden, job_id(), &["cat", SCORE]).await;
    let own = of(&fs::read_to_string(SCORE).unwrap());
    assert_eq!(of(&output(ends.stdout).await), (own + 100).clamp(0, 1000));
    idle(&warden).await;
});

in_each_tier!(a_memory_hog_ends_by_the_memory_limit, |warden| async move {
    if !keeps(&warden, "memory") {
        return;
    }
    let limits = JobLimits { memory: Some(64 << 20), ..JobLimits::default() };
    let (hog, _ends) = start_self_with(&warden, "limiting::memory_hog", "", &limits).await;
    let (status, breach) = ended(&hog).await;
    assert_eq!(breach, Some(Breach::Memory), "{status:?}");
    // The hog a child, its parent a shell that would go on: the job ends all the same.
    let exe = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
    let script = format!("{exe} --exact warden_room::limiting::memory_hog --ignored & wait; sleep 1000");
    let (job, shell, _ends) = start_limited(&warden, limits, &["sh", "-c", &script]).await;
    assert_eq!(ended(&shell).await.1, Some(Breach::Memory));
    assert_eq!(living(job), Vec::<i32>::new());
    idle(&warden).await;
});

#[test]
#[ignore = "run as a job by a_memory_hog_ends_by_the_memory_limit"]
fn memory_hog() {
    let mut held = Vec::new();
    for _ in 0..1024 {
        let mut part = vec![0_u8; 1 << 20];
        part.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        held.push(part);
    }
    std::hint::black_box(&held);
}

in_each_tier!(a_spinner_ends_by_the_cpu_limit, |warden| async move {
    // Two at once: the time of the whole tree counts.
    let limits = JobLimits { cpu: Some(Duration::from_millis(300)), ..JobLimits::default() };
    let script = "(while :; do :; done) & while :; do :; done";
    let begun = Instant::now();
    let (job, running, _ends) = start_limited(&warden, limits, &["sh", "-c", script]).await;
    let (status, breach) = ended(&running).await;
    assert_eq!(breach, Some(Breach::Cpu), "{status:?} after {:?}", begun.elapsed());
    assert_eq!(living(job), Vec::<i32>::new());
    idle(&warden).await;
});

in_each_tier!(a_fork_bomb_meets_the_process_limit_and_dies, |warden| async move {
    if !keeps(&warden, "pids") {
        return;
    }
    let limits = JobLimits { processes: Some(64), ..JobLimits::default() };
    let begun = Instant::now();
    let (bomb, _ends) = start_self_with(&warden, "limiting::fork_bomb", "", &limits).await;
    let groups = own_groups(bomb.pid());
    let (status, breach) = ended(&bomb).await;
    assert_eq!(breach, Some(Breach::Processes), "{status:?}");
    let peak = bomb.emptied().await.usage.processes_peak;
    eprintln!("a bomb held at 64 processes is gone {:?} after its start, peak {peak:?}", begun.elapsed());
    assert!(peak.is_some_and(|peak| (32..=64).contains(&peak)));
    idle(&warden).await;
    assert!(groups.iter().all(|group| !group.exists()), "{groups:?}");
});

#[test]
#[ignore = "run as a job by a_fork_bomb_meets_the_process_limit_and_dies"]
fn fork_bomb() {
    loop {
        // Deaf to TERM and HUP, in sessions of their own; each refusal is followed by the next try.
        let _ = Program::new("setsid").args(["sh", "-c", "trap '' TERM HUP; sleep 1000; :"]).spawn();
    }
}

#[tokio::test]
async fn a_program_that_is_refused_a_fork_ends_as_it_likes() {
    let warden = launch(None).await;
    if !keeps(&warden, "pids") {
        return;
    }
    let limits = JobLimits { processes: Some(3), ..JobLimits::default() };
    // A shell that may not fork says so and exits.
    let script = "sleep 1000 >/dev/null & sleep 1000 >/dev/null & (true); echo unreachable";
    let (_job, running, _ends) = start_limited(&warden, limits, &["sh", "-c", script]).await;
    let (status, breach) = ended(&running).await;
    assert!(matches!(status, ExitStatus::Code(code) if code != 0), "{status:?}");
    assert_eq!(breach, None);
}

in_each_tier!(a_file_cannot_grow_past_its_limit, |warden| async move {
    let limits = JobLimits { file_size: Some(4096), ..JobLimits::default() };
    let script =
        "f=$(mktemp); trap 'rm $f' EXIT; head -c 8192 /dev/zero >$f; echo $?; stat -c %s $f; ulimit -c";
    let (_job, running, ends) = start_limited(&warden, limits, &["sh", "-c", script]).await;
    assert_eq!(output(ends.stdout).await, format!("{}\n4096\n0\n", 128 + libc::SIGXFSZ));
    assert_eq!(ended(&running).await, (ExitStatus::Code(0), None));
});

#[tokio::test]
async fn niceness_and_open_files_are_as_limited() {
    let warden = launch(None).await;
    let own = rustix::process::getpriority_process(None).unwrap();
    let limits = JobLimits { nice: Some(5), open_files: Some(32), ..JobLimits::default() };
    let script = "nice; ulimit -n; nice -n -1 true 2>/dev/null; ulimit -r -e 2>/dev/null";
    let (_job, _running, ends) = start_limited(&warden, limits, &["bash", "-c", script]).await;
    let said = output(ends.stdout).await;
    // The kernel knows no more than 19, and the tests may be nice themselves.
    assert!(said.starts_with(&format!("{}\n32\n", (own + 5).min(19))), "{said}");
}

in_each_tier!(a_job_under_limits_leaves_no_group_behind, |warden| async move {
    let limits = JobLimits {
        cpu: Some(Duration::from_secs(60)),
        memory: Some(64 << 20),
        processes: Some(16),
        ..JobLimits::default()
    };
    for _ in 0..10 {
        let (_job, running, _ends) =
            start_limited(&warden, limits.clone(), &["sh", "-c", "sleep 0.01 & wait"]).await;
        let groups = own_groups(running.pid());
        assert_eq!(ended(&running).await, (ExitStatus::Code(0), None));
        idle(&warden).await;
        let left: Vec<_> =
            groups.iter().filter(|g| g.exists() && g.to_str().unwrap().contains("/execgate-")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    assert!(warden.shutdown().await);
});

#[tokio::test]
async fn a_limit_that_cannot_be_set_fails_the_start_and_leaves_nothing() {
    let warden = launch(None).await;
    if !keeps(&warden, "memory") {
        return;
    }
    // So little that not even the leader fits: it is killed on its way to exec, and that is a failed start.
    let limits = JobLimits { memory: Some(1), ..JobLimits::default() };
    let prepared = warden.prepare(wanted(job_id(), "true")).await.unwrap();
    let (stdio, _ends) = Stdio::pipes(false).unwrap();
    let job = job_id();
    let cleared = cleared(&prepared, command(job, &["true"], None));
    match prepared.release(&cleared, stdio, &limits).await {
        Err(failure) => assert!(!failure.to_string().is_empty()),
        Ok(running) => assert_eq!(ended(&running).await.1, Some(Breach::Memory)),
    }
    idle(&warden).await;
}
