//! A host whose kernel refuses one system call: the start fails at the stage that needs it, with the kernel's reason, and
//! nothing of it remains. The refusal is a filter that the test process puts on itself before it starts the warden.

use seccompiler::{
    SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Is, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use super::*;

/// One system call refused, perhaps only with one value of one argument.
struct Refused {
    call: i64,
    argument: Option<(u8, u64)>,
    with: Errno,
}

const fn whole(call: i64, with: Errno) -> Refused {
    Refused { call, argument: None, with }
}

const fn with(call: i64, place: u8, value: u64, with: Errno) -> Refused {
    Refused { call, argument: Some((place, value)), with }
}

/// What is refused, and where the start of a job fails by it.
fn cases() -> Vec<(&'static str, Refused, SpawnStage, Errno)> {
    let core = u64::from(libc::RLIMIT_CORE);
    vec![
        (
            "landlock",
            whole(libc::SYS_landlock_restrict_self, Errno::EPERM),
            SpawnStage::Confine,
            Errno::EPERM,
        ),
        ("rlimits", with(libc::SYS_prlimit64, 1, core, Errno::EPERM), SpawnStage::Limits, Errno::EPERM),
        ("stdio", with(libc::SYS_dup2, 1, 2, Errno::EMFILE), SpawnStage::Stdio, Errno::EMFILE),
        (
            "terminal",
            with(libc::SYS_ioctl, 1, libc::TIOCSCTTY, Errno::EPERM),
            SpawnStage::Terminal,
            Errno::EPERM,
        ),
        ("exec", whole(libc::SYS_execveat, Errno::EACCES), SpawnStage::Exec, Errno::EACCES),
    ]
}

/// Puts the refusal on every thread of this process, and on whatever it starts.
fn refuse(refused: &Refused) {
    let rules = refused.argument.map(|(place, value)| {
        let condition = SeccompCondition::new(place, Width::Dword, Is::Eq, value).unwrap();
        SeccompRule::new(vec![condition]).unwrap()
    });
    let rules = BTreeMap::from([(refused.call, rules.into_iter().collect())]);
    let errno = SeccompAction::Errno(refused.with as u32);
    let arch = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, errno, arch).unwrap();
    let program: seccompiler::BpfProgram = filter.try_into().unwrap();
    seccompiler::apply_filter_all_threads(&program).unwrap();
}

fn no_zombies(warden: &Warden) {
    let pid = warden.pid().cast_signed();
    let none = || crate::support::proc::zombies(pid) == 0;
    crate::support::eventually(crate::support::PATIENCE, "no zombie is left", none);
}

async fn try_to_start(warden: &Warden, terminal: bool) -> Result<Running, SpawnFailure> {
    let job = job_id();
    let prepared = warden.prepare(wanted(job, "true")).await?;
    let size = TerminalSize::new(24, 80).unwrap();
    let (stdio, _pipes, _terminal) = if terminal {
        let (stdio, ends) = Stdio::pty(size).unwrap();
        (stdio, None, Some(ends))
    } else {
        let (stdio, ends) = Stdio::pipes(false).unwrap();
        (stdio, Some(ends), None)
    };
    let terminal = terminal.then(|| Terminal { size, term: "xterm".into() });
    let cleared = cleared(&prepared, command(job, &["true"], terminal));
    prepared.release(&cleared, stdio, &JobLimits::default()).await
}

#[tokio::test]
#[ignore = "started by a_call_that_the_kernel_refuses_fails_its_stage"]
async fn refused_child() {
    let name = std::env::var("REFUSED").unwrap();
    let (_, refused, stage, errno) = cases().into_iter().find(|case| case.0 == name).unwrap();
    refuse(&refused);
    // The first start of a warden: later ones may find a leader forked ahead, and dead of the same refusal.
    let warden = launch(tier_of_environment()).await;
    let failure = try_to_start(&warden, stage == SpawnStage::Terminal).await.expect_err(&name);
    assert_eq!((failure.stage, Errno::from_raw(failure.errno)), (stage, errno), "{name}: {failure}");
    idle(&warden).await;
    for _ in 0..3 {
        try_to_start(&warden, stage == SpawnStage::Terminal).await.expect_err(&name);
        idle(&warden).await;
    }
    no_zombies(&warden);
    println!("alone=passed");
}

#[test]
fn a_call_that_the_kernel_refuses_fails_its_stage_and_leaves_nothing() {
    for (name, ..) in cases() {
        for tier in ["", "B", "C"] {
            let mut child = Program::new(std::env::current_exe().unwrap());
            child.env("TIER", tier).env("REFUSED", name);
            alone("refused::refused_child", child);
        }
    }
}

#[tokio::test]
#[ignore = "started by jobs_start_where_a_container_hides_clone3"]
async fn without_clone3_child() {
    refuse(&whole(libc::SYS_clone3, Errno::ENOSYS));
    let warden = launch(None).await;
    let (running, _ends) = start(&warden, job_id(), &["sh", "-c", "setsid sleep 1000 & exit 3"]).await;
    assert_eq!(running.exited().await, ExitStatus::Code(3));
    running.kill();
    assert_eq!(running.emptied().await.survivors, 0);
    idle(&warden).await;
    println!("alone=passed");
}

#[test]
fn jobs_start_where_a_container_hides_clone3() {
    alone("refused::without_clone3_child", Program::new(std::env::current_exe().unwrap()));
}

fn files(required: bool) -> Profile {
    let roots = FileRoots { read: vec!["/".into()], write: vec!["/tmp".into()] };
    let name = if required { "required" } else { "wished" };
    Profile { name: name.into(), files: Some(roots), offline: false, required }
}

#[tokio::test]
#[ignore = "started by a_required_profile_that_the_kernel_lacks_refuses_the_job"]
async fn without_landlock_child() {
    refuse(&whole(libc::SYS_landlock_create_ruleset, Errno::ENOSYS));
    let warden =
        Warden::launch(Settings { profiles: vec![files(true), files(false)], ..settings(None) }).await;
    let warden = warden.unwrap();
    assert!(warden.containment().notes.iter().any(|note| note.contains("no Landlock")));
    let confined = |name: &str| Prepare { confine: vec![name.into()], ..wanted(job_id(), "true") };
    let failure = start_as(&warden, confined("required"), &["true"]).await.expect_err("no Landlock, no job");
    assert_eq!((failure.stage, Errno::from_raw(failure.errno)), (SpawnStage::Confine, Errno::EOPNOTSUPP));
    assert!(failure.is_of_the_request() && failure.subject == "required", "{failure}");
    let (running, _ends) = start_as(&warden, confined("wished"), &["true"]).await.unwrap();
    assert_eq!(running.exited().await, ExitStatus::Code(0));
    running.emptied().await;
    idle(&warden).await;
    println!("alone=passed");
}

#[test]
fn a_required_profile_that_the_kernel_lacks_refuses_the_job() {
    alone("refused::without_landlock_child", Program::new(std::env::current_exe().unwrap()));
}

#[tokio::test]
#[ignore = "started by a_kernel_without_filters_of_system_calls_is_told_of"]
async fn without_seccomp_child() {
    refuse(&whole(libc::SYS_seccomp, Errno::ENOSYS));
    let warden = Warden::launch(settings(None)).await.unwrap();
    assert!(warden.containment().notes.iter().any(|note| note.contains("no filter of system calls (ENOSYS")));
    let (running, _ends) =
        start(&warden, job_id(), &["grep", "-q", "^Seccomp_filters:.1$", "/proc/self/status"]).await;
    assert_eq!(running.exited().await, ExitStatus::Code(0), "the test's own filter, and no other");
    running.emptied().await;
    idle(&warden).await;
    println!("alone=passed");
}

#[test]
fn a_kernel_without_filters_of_system_calls_is_told_of() {
    alone("refused::without_seccomp_child", Program::new(std::env::current_exe().unwrap()));
}

/// A v1 group that lets nobody below it fork more than so many; removed at the end.
struct Few(PathBuf);

impl Few {
    fn around(pid: u32) -> Option<Self> {
        let path = PathBuf::from(format!("/sys/fs/cgroup/pids/test-few-{}", job_id()));
        fs::create_dir(&path).ok()?;
        fs::write(path.join("cgroup.procs"), pid.to_string()).ok()?;
        Some(Self(path))
    }

    fn allow(&self, processes: &str) {
        fs::write(self.0.join("pids.max"), processes).unwrap();
    }
}

impl Drop for Few {
    fn drop(&mut self) {
        let procs = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        for pid in procs.lines() {
            let _ = fs::write("/sys/fs/cgroup/pids/cgroup.procs", pid);
        }
        let _ = fs::remove_dir(&self.0);
    }
}

in_each_tier!(a_fork_that_is_refused_fails_the_start_and_leaves_nothing, |warden| async move {
    let few = Few::around(warden.pid());
    needs(few.is_some(), "no pids controller of v1");
    let Some(few) = few else { return };
    // Where a keeper is needed, the second number lets it live and refuses it the leader.
    let kept = matches!(warden.containment().tier, Tier::B | Tier::C);
    for most in if kept { vec!["1", "2"] } else { vec!["1"] } {
        few.allow(most);
        // A probe, because a job may get a leader that was forked ahead.
        let ProbeFailure::Spawn(failure) = warden.probe().await.expect_err("no fork, no job") else {
            panic!()
        };
        assert_eq!((failure.stage, Errno::from_raw(failure.errno)), (SpawnStage::Fork, Errno::EAGAIN));
        assert!(!failure.is_of_the_request(), "{failure}");
        few.allow("max");
        idle(&warden).await;
    }
    no_zombies(&warden);
    warden.probe().await.unwrap();
});
