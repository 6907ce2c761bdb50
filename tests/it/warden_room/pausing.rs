//! Pauses: what they promise, and that a paused job can be ended in every way.

use super::*;
use crate::support::proc;

/// Spins in a session of its own, and wakes everybody it can name.
const SPINNER: &str = "setsid sh -c 'while :; do kill -CONT 0 $1 2>/dev/null; done' sh $$ & \
    while :; do :; done & echo ready; while :; do :; done";

/// Nanoseconds that the living processes of this job have run.
fn time_on_cpu(job: JobId) -> u64 {
    living(job).into_iter().map(proc::time_on_cpu).sum()
}

#[tokio::test]
async fn a_paused_job_uses_no_time_and_cannot_wake_itself() {
    let warden = launch(None).await;
    if !needs(matches!(warden.containment().tier, Tier::A | Tier::APrime), "there is no group to freeze") {
        return;
    }
    let job = job_id();
    let (running, ends) = start(&warden, job, &["sh", "-c", SPINNER]).await;
    line(&ends.stdout).await;
    let rests = || living(job).into_iter().map(|pid| (pid, proc::rests(pid))).collect::<Vec<_>>();
    for _ in 0..20 {
        let spinning = rests();
        assert!(running.pause().await.unwrap().exact);
        // A process counts as frozen a few microseconds before it leaves the processor, which on a busy machine may be later.
        // Who spins leaves it of its own accord for nothing else.
        crate::support::eventually(crate::support::PATIENCE, "all have left the processor", || {
            rests().iter().zip(&spinning).all(|(now, then)| now.1 > then.1)
        });
        let before = time_on_cpu(job);
        for _ in 0..5 {
            warden.probe().await.unwrap();
        }
        assert_eq!(time_on_cpu(job), before, "it ran while it was paused");
        running.resume().await.unwrap();
    }
    let before = time_on_cpu(job);
    crate::support::eventually(Duration::from_secs(5), "it runs again", || time_on_cpu(job) > before);
    running.kill();
    assert_eq!(running.emptied().await.survivors, 0);
}

in_each_tier!(a_pause_and_a_resume_at_once_are_both_answered, |warden| async move {
    let many = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do sleep 1000 & done; echo ready; wait";
    let (running, ends) = start(&warden, job_id(), &["sh", "-c", many]).await;
    line(&ends.stdout).await;
    for _ in 0..20 {
        let (paused, resumed) = tokio::join!(running.pause(), running.resume());
        assert!(paused.is_ok(), "{paused:?}");
        assert!(!resumed.unwrap().paused);
    }
    running.kill();
    assert_eq!(running.emptied().await.survivors, 0);
});

in_each_tier!(a_paused_job_is_killed, |warden| async move {
    let job = job_id();
    let (running, ends) = start(&warden, job, &["sh", "-c", TREE]).await;
    line(&ends.stdout).await;
    running.pause().await.unwrap();
    running.kill();
    assert_eq!(running.exited().await, ExitStatus::Signal { number: 9, core: false });
    assert_eq!(running.emptied().await.survivors, 0);
    assert_eq!(living(job), Vec::<i32>::new());
});

in_each_tier!(a_paused_job_takes_a_signal_when_it_is_resumed, |warden| async move {
    let script = "trap 'echo terminated; exit 3' TERM; echo ready; while :; do sleep 0.01; done";
    let (running, ends) = start(&warden, job_id(), &["sh", "-c", script]).await;
    line(&ends.stdout).await;
    running.pause().await.unwrap();
    running.signal(libc::SIGTERM, SignalTarget::Leader).await.unwrap();
    assert!(futures_util::FutureExt::now_or_never(running.exited()).is_none());
    running.resume().await.unwrap();
    assert_eq!(line(&ends.stdout).await, "terminated\n");
    assert_eq!(running.exited().await, ExitStatus::Code(3));
    assert_eq!(running.emptied().await.survivors, 0);
});

in_each_tier!(a_paused_job_ends_with_its_handle, |warden| async move {
    let job = job_id();
    let (running, ends) = start(&warden, job, &["sh", "-c", TREE]).await;
    line(&ends.stdout).await;
    running.pause().await.unwrap();
    drop(running);
    idle(&warden).await;
    assert_eq!(living(job), Vec::<i32>::new());
});

in_each_tier!(a_paused_job_ends_with_the_shutdown, |warden| async move {
    let job = job_id();
    let (running, ends) = start(&warden, job, &["sh", "-c", TREE]).await;
    line(&ends.stdout).await;
    running.pause().await.unwrap();
    assert!(warden.shutdown().await);
    assert_eq!(running.emptied().await.survivors, 0);
    assert_eq!(living(job), Vec::<i32>::new());
});

in_each_tier!(a_paused_job_ends_with_its_gateway, |warden| async move {
    let job = job_id();
    let (running, ends) = start(&warden, job, &["sh", "-c", TREE]).await;
    line(&ends.stdout).await;
    running.pause().await.unwrap();
    drop(warden);
    wait_for_all_of(job, Duration::from_secs(1));
});

in_each_tier!(a_job_is_paused_while_it_forks, |warden| async move {
    let job = job_id();
    let script = "echo ready; while :; do sh -c 'setsid true & true' & true; wait; done";
    let (running, ends) = start(&warden, job, &["sh", "-c", script]).await;
    line(&ends.stdout).await;
    for _ in 0..20 {
        let paused = running.pause().await.unwrap();
        if paused.exact {
            // As above: frozen a few microseconds before it leaves the processor. What forks would never settle.
            let mut before = (living(job), time_on_cpu(job));
            let mut settled = false;
            for _ in 0..10 {
                warden.probe().await.unwrap();
                let now = (living(job), time_on_cpu(job));
                settled = now == before;
                before = now;
            }
            assert!(settled, "it runs while it is paused");
        }
        running.resume().await.unwrap();
    }
    running.pause().await.unwrap();
    running.kill();
    assert_eq!(running.emptied().await.survivors, 0);
    assert_eq!(living(job), Vec::<i32>::new());
    // Orphans are reaped a bounded number a turn, some of them after the job's end was told.
    crate::support::eventually(Duration::from_secs(5), "every orphan is reaped", || {
        proc::zombies(warden.pid().cast_signed()) == 0
    });
});
