//! How jobs start: what they are born with, what is refused, and that a failed start leaves nothing.

use super::*;

in_each_tier!(a_job_ends_with_its_leaders_status, |warden| async move {
    for (argv, status) in [
        (vec!["true"], ExitStatus::Code(0)),
        (vec!["false"], ExitStatus::Code(1)),
        (vec!["sh", "-c", "exit 7"], ExitStatus::Code(7)),
        (vec!["sh", "-c", "kill -9 $$"], ExitStatus::Signal { number: 9, core: false }),
    ] {
        let (running, _ends) = start(&warden, job_id(), &argv).await;
        assert!(running.pid() > 1);
        assert_eq!(running.exited().await, status, "{argv:?}");
        let emptied = running.emptied().await;
        assert_eq!(emptied.survivors, 0);
        assert!(emptied.usage.user.is_some() && emptied.usage.max_rss.is_some());
    }
    idle(&warden).await;
});

in_each_tier!(a_failed_start_says_where_and_leaves_nothing, |warden| async move {
    let directory = tempfile::tempdir().unwrap();
    let plain = directory.path().join("plain");
    fs::write(&plain, "no program").unwrap();
    let orphaned = directory.path().join("script");
    fs::write(&orphaned, "#!/nowhere/sh\n").unwrap();
    let unknown_format = directory.path().join("format");
    fs::write(&unknown_format, "no program, and as long as one begins".repeat(9)).unwrap();
    let empty = directory.path().join("empty");
    fs::write(&empty, "").unwrap();
    let [no_loader, empty_loader, bad_loader] =
        [("none", "/nowhere/ld.so".into()), ("of_empty", empty.clone()), ("of_text", unknown_format.clone())]
            .map(|(name, loader)| {
                let program = directory.path().join(name);
                fs::write(&program, loaded_by(&loader)).unwrap();
                program
            });
    for file in [&orphaned, &unknown_format, &empty, &no_loader, &empty_loader, &bad_loader] {
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let (path, unknown_format) = (|p: &PathBuf| p.to_str().unwrap().to_owned(), unknown_format);
    let cases = [
        ("no-such-program".to_owned(), "/", SpawnStage::Exec, Errno::ENOENT),
        ("/no/such/program".to_owned(), "/", SpawnStage::Exec, Errno::ENOENT),
        (String::new(), "/", SpawnStage::Exec, Errno::ENOENT),
        ("/".to_owned(), "/", SpawnStage::Exec, Errno::EACCES),
        (path(&plain), "/", SpawnStage::Exec, Errno::EACCES),
        (path(&orphaned), "/", SpawnStage::Exec, Errno::ENOENT),
        (path(&unknown_format), "/", SpawnStage::Exec, Errno::ENOEXEC),
        (path(&no_loader), "/", SpawnStage::Exec, Errno::ENOENT),
        (path(&empty_loader), "/", SpawnStage::Exec, Errno::EIO),
        (path(&bad_loader), "/", SpawnStage::Exec, Errno::ELIBBAD),
        ("true".to_owned(), "/no/such/directory", SpawnStage::Chdir, Errno::ENOENT),
        ("true".to_owned(), "/bin/sh", SpawnStage::Chdir, Errno::ENOTDIR),
        ("x".repeat(5000), "/", SpawnStage::Exec, Errno::ENAMETOOLONG),
    ];
    for (program, cwd, stage, errno) in cases {
        let prepare = Prepare { cwd: Some(cwd.into()), ..wanted(job_id(), &program) };
        let failure = start_as(&warden, prepare, &[&program]).await.expect_err("a failure");
        assert_eq!((failure.stage, Errno::from_raw(failure.errno)), (stage, errno), "{program:.40} in {cwd}");
        assert!(failure.is_of_the_request(), "{failure}");
        let census = warden.census().await.unwrap();
        assert_eq!((census.jobs, census.groups), (0, 0), "after {failure}");
    }
});

/// A program for this machine that is nothing but the name of who is to load it (elf(5)).
fn loaded_by(loader: &Path) -> Vec<u8> {
    const HEADER: usize = 64;
    const ENTRY: usize = 56;
    let mut elf = fs::read("/bin/true").unwrap();
    elf.truncate(HEADER);
    elf[32..40].copy_from_slice(&(HEADER as u64).to_ne_bytes());
    elf[56..58].copy_from_slice(&1_u16.to_ne_bytes());
    let name = [loader.to_str().unwrap().as_bytes(), b"\0"].concat();
    let (kind, readable, size) = (3_u32, 4_u32, name.len() as u64);
    elf.extend([kind, readable].map(u32::to_ne_bytes).as_flattened());
    elf.extend([(HEADER + ENTRY) as u64, 0, 0, size, size, 1].map(u64::to_ne_bytes).as_flattened());
    [elf, name].concat()
}

#[tokio::test]
async fn a_job_is_born_clean() {
    let warden = launch(None).await;
    let script = "ls /proc/self/fd; umask; grep -E 'Sig(Blk|Ign|Cgt)|NoNewPrivs' /proc/self/status; \
        ulimit -c; env | sort; pwd; cut -d' ' -f5,6 /proc/$$/stat; echo $$";
    let (running, ends) = start(&warden, job_id(), &["sh", "-c", script]).await;
    let said = output(ends.stdout).await;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..4], ["0", "1", "2", "3"], "only the standard streams and ls's own: {said}");
    assert_eq!(lines[4], "0022");
    assert_eq!(lines[5], "SigBlk:\t0000000000000000");
    assert_eq!(lines[6], "SigIgn:\t0000000000000000");
    assert_eq!(lines[8], "NoNewPrivs:\t1");
    assert_eq!(lines[9], "0");
    let pid = running.pid().to_string();
    assert_eq!(lines[lines.len() - 2..], [format!("{pid} {pid}"), pid], "leads its group and session");
    let environment: Vec<_> = lines[10..].iter().filter(|l| l.contains('=')).collect();
    assert!(environment.iter().all(|l| l.starts_with("EXECGATE_JOB=") || l.starts_with("P")), "{said}");
}

#[tokio::test]
async fn argv_of_256_kib_passes_and_more_is_refused_by_the_kernel_or_us() {
    let warden = launch(None).await;
    let long = "x".repeat(120 * 1024);
    let argv = ["sh", "-c", "printf %s \"$1$2\" | wc -c", "sh", &long, &long];
    let (_running, ends) = start(&warden, job_id(), &argv).await;
    assert_eq!(output(ends.stdout).await.trim(), (240 * 1024).to_string());
    let huge = "x".repeat(1024 * 1024);
    let failure = start_as(&warden, wanted(job_id(), "true"), &["true", &huge]).await.expect_err("too big");
    assert_eq!((failure.stage, Errno::from_raw(failure.errno)), (SpawnStage::Exec, Errno::E2BIG));
    idle(&warden).await;
}

#[tokio::test]
async fn a_script_runs_by_its_interpreter_and_both_are_facts() {
    let warden = launch(None).await;
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("script");
    fs::write(&script, "#! /bin/sh -e\necho \"$-\" \"$@\"\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let program = script.to_str().unwrap();
    let job = job_id();
    let prepared = warden.prepare(wanted(job, program)).await.unwrap();
    let executable = prepared.executable().clone();
    assert_eq!(executable.canonical, fs::canonicalize(&script).unwrap().to_str().unwrap());
    let interpreter = executable.interpreter.unwrap();
    assert_eq!((interpreter.requested.as_str(), interpreter.argument.as_deref()), ("/bin/sh", Some("-e")));
    assert_eq!(interpreter.canonical, fs::canonicalize("/bin/sh").unwrap().to_str().unwrap());
    let (stdio, ends) = Stdio::pipes(false).unwrap();
    let cleared = cleared(&prepared, command(job, &[program, "a", "b c"], None));
    let _running = prepared.release(&cleared, stdio, &JobLimits::default()).await.unwrap();
    assert_eq!(output(ends.stdout).await, "e a b c\n");
}

#[tokio::test]
async fn what_was_prepared_is_executed_though_its_name_was_swapped() {
    let warden = launch(None).await;
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("program");
    for _ in 0..20 {
        let _ = fs::remove_file(&program);
        fs::copy("/bin/true", &program).unwrap();
        let (job, name) = (job_id(), program.to_str().unwrap());
        let prepared = warden.prepare(wanted(job, name)).await.unwrap();
        fs::remove_file(&program).unwrap();
        std::os::unix::fs::symlink("/bin/false", &program).unwrap();
        let (stdio, _ends) = Stdio::pipes(false).unwrap();
        let cleared = cleared(&prepared, command(job, &[name], None));
        let running = prepared.release(&cleared, stdio, &JobLimits::default()).await.unwrap();
        assert_eq!(running.exited().await, ExitStatus::Code(0));
    }
}

#[tokio::test]
async fn what_was_cleared_must_be_what_was_prepared() {
    let warden = launch(None).await;
    let (first, second) = (job_id(), job_id());
    let prepared = warden.prepare(wanted(first, "true")).await.unwrap();
    let other = warden.prepare(wanted(second, "false")).await.unwrap();
    assert_eq!(prepared.executable().requested, "true");
    assert!(prepared.executable().found.as_deref().unwrap().ends_with("/true"));
    let of_other = cleared(&other, command(second, &["false"], None));
    let (stdio, _ends) = Stdio::pipes(false).unwrap();
    let failure = prepared.release(&of_other, stdio, &JobLimits::default()).await.expect_err("a refusal");
    assert_eq!(Errno::from_raw(failure.errno), Errno::EPROTO);
    assert!(!failure.is_of_the_request());
    drop(other);
    idle(&warden).await;
}

#[tokio::test]
async fn who_waits_too_long_at_the_gate_is_gone() {
    let gate = Duration::from_millis(50);
    let warden = Warden::launch(Settings { gate, ..settings(None) }).await.unwrap();
    let job = job_id();
    let prepared = warden.prepare(wanted(job, "true")).await.unwrap();
    idle(&warden).await;
    let (stdio, _ends) = Stdio::pipes(false).unwrap();
    let cleared = cleared(&prepared, command(job, &["true"], None));
    let failure = prepared.release(&cleared, stdio, &JobLimits::default()).await.expect_err("too late");
    assert_eq!((failure.stage, Errno::from_raw(failure.errno)), (SpawnStage::Gate, Errno::ETIMEDOUT));
    assert!(failure.subject.contains("the decision took longer than jobs.gate"), "{}", failure.subject);
}

#[tokio::test]
async fn requests_outside_the_settings_are_refused() {
    let warden =
        Warden::launch(Settings { max_jobs: 1, invoker: None, identities: vec![nobody()], ..settings(None) })
            .await
            .unwrap();
    let as_nobody = |job| Prepare { identity: Some(0), ..wanted(job, "true") };
    for prepare in [wanted(job_id(), "true"), Prepare { identity: Some(1), ..wanted(job_id(), "true") }] {
        let failure = warden.prepare(prepare).await.expect_err("not allowed");
        assert_eq!((failure.stage, Errno::from_raw(failure.errno)), (SpawnStage::Identity, Errno::EPERM));
    }
    if needs_root() {
        let _one = warden.prepare(as_nobody(job_id())).await.unwrap();
        let failure = warden.prepare(as_nobody(job_id())).await.expect_err("one too many");
        assert_eq!((failure.stage, Errno::from_raw(failure.errno)), (SpawnStage::Fork, Errno::EAGAIN));
    }
}

#[tokio::test]
async fn a_program_open_for_writing_is_busy() {
    let warden = launch(None).await;
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("program");
    fs::copy("/bin/true", &program).unwrap();
    let _writer = fs::File::options().append(true).open(&program).unwrap();
    let name = program.to_str().unwrap();
    let failure = start_as(&warden, wanted(job_id(), name), &[name]).await.expect_err("busy");
    assert_eq!((failure.stage, Errno::from_raw(failure.errno)), (SpawnStage::Exec, Errno::ETXTBSY));
    assert!(failure.is_of_the_request());
    idle(&warden).await;
}

#[tokio::test]
async fn an_identity_that_cannot_be_taken_fails_the_start_and_leaves_nothing() {
    // (uid_t)-1 stands for "unchanged", so no process can have it; without root, no other identity can be had.
    let impossible = Identity { uid: if is_root() { u32::MAX } else { 1 }, ..nobody() };
    let warden = Warden::launch(Settings { identities: vec![impossible], ..settings(None) }).await.unwrap();
    let failure = warden.prepare(Prepare { identity: Some(0), ..wanted(job_id(), "true") }).await;
    let failure = failure.expect_err("not to be had");
    assert_eq!(failure.stage, SpawnStage::Identity, "{failure}");
    idle(&warden).await;
}

#[tokio::test]
async fn a_leaf_that_cannot_be_made_fails_the_start_and_leaves_nothing() {
    let warden = launch(None).await;
    let (running, _ends) = start(&warden, job_id(), &["sleep", "1000"]).await;
    let instance = instance_of(running.pid());
    needs(instance.is_some(), "there are no leaves that could fail to be made");
    let Some(instance) = instance else { return };
    fs::write(instance.join("cgroup.max.descendants"), "0").unwrap();
    // A job may still get a leader that was forked ahead; a probe never does.
    let failure = warden.probe().await.expect_err("no room for a leaf");
    let ProbeFailure::Spawn(failure) = failure else { panic!("{failure}") };
    assert_eq!((failure.stage, Errno::from_raw(failure.errno)), (SpawnStage::Leaf, Errno::EAGAIN));
    assert!(!failure.is_of_the_request());
    running.kill();
    running.emptied().await;
    idle(&warden).await;
}

in_each_tier!(a_leader_that_dies_at_the_gate_fails_the_start, |warden| async move {
    let job = job_id();
    let prepared = warden.prepare(wanted(job, "true")).await.unwrap();
    let child = |of: u32| {
        let children = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
        children.split_ascii_whitespace().next().and_then(|pid| pid.parse::<u32>().ok())
    };
    // Where there are no groups, a keeper stands between the warden and the leader.
    let first = child(warden.pid()).unwrap();
    let leader = child(first).unwrap_or(first).cast_signed();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(leader), nix::sys::signal::Signal::SIGKILL).unwrap();
    let (stdio, _ends) = Stdio::pipes(false).unwrap();
    let cleared = cleared(&prepared, command(job, &["true"], None));
    let failure = prepared.release(&cleared, stdio, &JobLimits::default()).await.expect_err("no leader");
    assert_eq!(failure.stage, SpawnStage::Gate, "{failure}");
    idle(&warden).await;
});

#[tokio::test]
async fn a_job_has_its_identity_from_the_first_open_on() {
    if !needs_root() {
        return;
    }
    let warden = Warden::launch(Settings { identities: vec![nobody()], ..settings(None) }).await.unwrap();
    let as_nobody = |program: &str| Prepare { identity: Some(0), ..wanted(job_id(), program) };
    let argv = ["sh", "-c", "id -u; id -g; id -G; cat /proc/self/cgroup | wc -l"];
    let (_running, ends) = start_as(&warden, as_nobody("sh"), &argv).await.unwrap();
    let said = output(ends.stdout).await;
    assert!(said.starts_with("65534\n65534\n65534\n"), "{said}");
    let several = Identity { groups: vec![7, NOBODY, 9], ..nobody() };
    let many = Warden::launch(Settings { identities: vec![several], ..settings(None) }).await.unwrap();
    let argv = ["sh", "-c", "grep ^Groups /proc/self/status"];
    let (_running, ends) = start_as(&many, as_nobody("sh"), &argv).await.unwrap();
    let said = output(ends.stdout).await;
    let groups: Vec<&str> = said.split_whitespace().skip(1).collect();
    assert_eq!(groups, ["7", "9", "65534"], "exactly those of the identity, and none of root's");
    let private = tempfile::tempdir().unwrap();
    fs::set_permissions(private.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let program = private.path().join("program");
    fs::copy("/bin/true", &program).unwrap();
    let failure =
        warden.prepare(as_nobody(program.to_str().unwrap())).await.expect_err("no search permission");
    assert_eq!((failure.stage, Errno::from_raw(failure.errno)), (SpawnStage::Exec, Errno::EACCES));
    let inside = Prepare { cwd: Some(private.path().to_str().unwrap().into()), ..as_nobody("true") };
    let failure = warden.prepare(inside).await.expect_err("no search permission");
    assert_eq!((failure.stage, Errno::from_raw(failure.errno)), (SpawnStage::Chdir, Errno::EACCES));
}

#[tokio::test]
async fn what_may_be_executed_and_not_read_runs_unless_it_is_a_script() {
    if !is_root() {
        return;
    }
    let warden = Warden::launch(Settings { identities: vec![nobody()], ..settings(None) }).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (program, script) = (directory.path().join("program"), directory.path().join("script"));
    fs::copy("/bin/true", &program).unwrap();
    fs::write(&script, "#!/bin/sh\n").unwrap();
    let [program, script] = [program, script].map(|file| {
        fs::set_permissions(&file, fs::Permissions::from_mode(0o711)).unwrap();
        file.to_str().unwrap().to_owned()
    });
    let as_nobody = |program: &str| Prepare { identity: Some(0), ..wanted(job_id(), program) };
    let (running, _ends) = start_as(&warden, as_nobody(&program), &[&program]).await.unwrap();
    assert_eq!(running.exited().await, ExitStatus::Code(0));
    let failure = start_as(&warden, as_nobody(&script), &[&script]).await.expect_err("it cannot be read");
    assert_eq!((failure.stage, Errno::from_raw(failure.errno)), (SpawnStage::Exec, Errno::EACCES));
}

#[tokio::test]
async fn a_job_with_an_identity_opens_its_streams_by_their_names() {
    if !is_root() {
        return;
    }
    let warden = Warden::launch(Settings { identities: vec![nobody()], ..settings(None) }).await.unwrap();
    let job = job_id();
    let prepared = warden.prepare(Prepare { identity: Some(0), ..wanted(job, "sh") }).await.unwrap();
    let (stdio, ends) = Stdio::pipes(true).unwrap();
    let script = "echo out >/dev/stdout; echo err >/dev/stderr; cat /dev/stdin";
    let cleared = cleared(&prepared, command(job, &["sh", "-c", script], None));
    rustix::io::write(ends.stdin.unwrap(), b"in\n").unwrap();
    let _running = prepared.release(&cleared, stdio, &JobLimits::default()).await.unwrap();
    let said = (output(ends.stdout).await, output(ends.stderr).await);
    assert_eq!(said, ("out\nin\n".to_owned(), "err\n".to_owned()));
}
