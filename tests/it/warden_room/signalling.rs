//! Signals, pauses and terminals.

use super::*;

in_each_tier!(signals_reach_their_target, |warden| async move {
    let script = "trap 'echo usr1' USR1; echo ready; while :; do sleep 0.01; done";
    let job = job_id();
    let (running, ends) = start(&warden, job, &["sh", "-c", script]).await;
    line(&ends.stdout).await;
    running.signal(libc::SIGUSR1, SignalTarget::Leader).await.unwrap();
    assert_eq!(line(&ends.stdout).await, "usr1\n");
    let bad = running.signal(65, SignalTarget::Leader).await;
    assert_eq!(bad, Err(SignalFailure::Errno(Errno::EINVAL as i32)));
    let nobody = running.signal(libc::SIGINT, SignalTarget::Foreground).await;
    assert_eq!(nobody, Err(SignalFailure::NoForeground));
    running.signal(libc::SIGTERM, SignalTarget::Group).await.unwrap();
    assert_eq!(running.exited().await, ExitStatus::Signal { number: libc::SIGTERM, core: false });
    running.emptied().await;
    for target in [SignalTarget::Leader, SignalTarget::Group, SignalTarget::Foreground, SignalTarget::Tree] {
        assert_eq!(running.signal(libc::SIGTERM, target).await, Err(SignalFailure::Finished));
    }
    assert_eq!(running.pause().await, Err(SignalFailure::Finished));
});

in_each_tier!(a_signal_to_the_tree_reaches_who_left_the_session, |warden| async move {
    let job = job_id();
    let script = "setsid sleep 1000 & sleep 1000 & echo ready; wait; wait";
    let (running, ends) = start(&warden, job, &["sh", "-c", script]).await;
    line(&ends.stdout).await;
    running.signal(libc::SIGTERM, SignalTarget::Tree).await.unwrap();
    assert_eq!(running.emptied().await.survivors, 0);
    assert_eq!(living(job), Vec::<i32>::new());
});

in_each_tier!(a_pause_is_idempotent_and_says_how_exact_it_is, |warden| async move {
    let exact = matches!(warden.containment().tier, Tier::A | Tier::APrime);
    let (running, ends) = start(&warden, job_id(), &["sh", "-c", "echo ready; sleep 1000"]).await;
    line(&ends.stdout).await;
    for _ in 0..2 {
        let paused = running.pause().await.unwrap();
        assert_eq!((paused.paused, paused.exact), (true, exact));
    }
    for _ in 0..2 {
        let paused = running.resume().await.unwrap();
        assert_eq!((paused.paused, paused.exact), (false, exact));
    }
    running.pause().await.unwrap();
    running.kill();
    assert_eq!(running.emptied().await.survivors, 0);
});

in_each_tier!(a_thousand_pauses_racing_exits_give_only_typed_answers, |warden| async move {
    let mut pairs = 0;
    while pairs < 1000 {
        let (running, _ends) = start(&warden, job_id(), &["sh", "-c", "sleep 0.01"]).await;
        loop {
            pairs += 1;
            let (paused, resumed) = (running.pause().await, running.resume().await);
            for answer in [paused, resumed] {
                assert!(matches!(answer, Ok(_) | Err(SignalFailure::Finished)), "{answer:?}");
            }
            if resumed == Err(SignalFailure::Finished) {
                break;
            }
        }
        assert_eq!(running.emptied().await.survivors, 0);
    }
    idle(&warden).await;
});

/// The foreground group of the terminal of this process (field 8 of proc_pid_stat(5)).
fn foreground_of(pid: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    fields.split_whitespace().nth(5).and_then(|group| group.parse().ok()).unwrap_or(0)
}

/// Waits until the shell has put another group than its own in the foreground, or its own again.
fn until_in_front(shell: i32, another: bool) {
    crate::support::eventually(crate::support::PATIENCE, "the foreground group changes", || {
        let group = foreground_of(shell);
        group > 0 && (group != shell) == another
    });
}

in_each_tier!(a_signal_to_the_foreground_reaches_the_group_that_a_shell_put_there, |warden| async move {
    let job = job_id();
    let size = TerminalSize::new(24, 80).unwrap();
    let prepared = warden.prepare(wanted(job, "sh")).await.unwrap();
    let (stdio, PtyEnds { master, .. }) = Stdio::pty(size).unwrap();
    let script = "echo \"first=$(cut -d' ' -f8 /proc/$$/stat) $$\"; set -m; sleep 1001 & behind=$!; echo ready; \
        sleep 1002; echo \"front=$?\"; kill -0 $behind && echo behind; exec sleep 1003";
    let terminal = Some(Terminal { size, term: "xterm".into() });
    let cleared = cleared(&prepared, command(job, &["sh", "-c", script], terminal));
    let running = prepared.release(&cleared, stdio, &JobLimits::default()).await.unwrap();
    let shell = running.pid();
    let mut said = String::new();
    while !said.ends_with("ready\r\n") {
        said = line(&master).await;
        if let Some((group, own)) = said.trim_end().strip_prefix("first=").and_then(|it| it.split_once(' ')) {
            // In a namespace of its own the job has other numbers for both.
            assert_eq!(group, own, "the leader's group is in the foreground from the start");
        }
    }
    until_in_front(shell, true);
    running.signal(libc::SIGTERM, SignalTarget::Foreground).await.unwrap();
    let mut all = String::new();
    while !all.ends_with("behind\r\n") {
        all += &line(&master).await;
    }
    assert!(all.contains("front=143\r\n"), "the foreground alone was ended: {all}");
    until_in_front(shell, false);
    running.signal(libc::SIGTERM, SignalTarget::Foreground).await.unwrap();
    assert_eq!(running.exited().await, ExitStatus::Signal { number: libc::SIGTERM, core: false });
    running.kill();
    assert_eq!(running.emptied().await.survivors, 0);
});

in_each_tier!(a_terminal_is_controlling_and_has_its_size, |warden| async move {
    let job = job_id();
    let size = TerminalSize::new(40, 100).unwrap();
    let prepared = warden.prepare(wanted(job, "sh")).await.unwrap();
    let (stdio, PtyEnds { master, .. }) = Stdio::pty(size).unwrap();
    let script = "trap 'echo winch; stty size' WINCH; trap 'echo int; exit 5' INT; \
        stty size </dev/tty; while :; do sleep 0.01; done";
    let terminal = Some(Terminal { size, term: "xterm".into() });
    let cleared = cleared(&prepared, command(job, &["sh", "-c", script], terminal));
    let running = prepared.release(&cleared, stdio, &JobLimits::default()).await.unwrap();
    assert_eq!(line(&master).await, "40 100\r\n");
    resize(&master, TerminalSize::new(50, 132).unwrap()).unwrap();
    assert_eq!(line(&master).await, "winch\r\n");
    assert_eq!(line(&master).await, "50 132\r\n");
    running.signal(libc::SIGINT, SignalTarget::Foreground).await.unwrap();
    assert_eq!(output(master).await, "int\r\n");
    assert_eq!(running.exited().await, ExitStatus::Code(5));
});
