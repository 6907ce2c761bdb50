//! How jobs end: whole trees, whatever they do, and nothing left of them.

use super::*;
use crate::support::{PATIENCE, eventually};

in_each_tier!(a_kill_ends_the_whole_tree, |warden| async move {
    let job = job_id();
    let (running, ends) = start(&warden, job, &["sh", "-c", TREE]).await;
    line(&ends.stdout).await;
    eventually(PATIENCE, "the tree has grown", || living(job).len() >= 4);
    running.kill();
    running.kill();
    assert_eq!(running.exited().await, ExitStatus::Signal { number: 9, core: false });
    assert_eq!(running.emptied().await.survivors, 0);
    assert_eq!(living(job), Vec::<i32>::new());
    idle(&warden).await;
});

in_each_tier!(a_tree_of_two_hundred_that_left_its_session_is_killed_within_a_second, |warden| async move {
    let job = job_id();
    let script = "i=0; while [ $i -lt 100 ]; do setsid sh -c 'trap \"\" TERM; sleep 1000; :' & i=$((i+1)); done; \
        while [ $(pgrep -c -P $$ sh) -lt 100 ]; do :; done; echo ready; wait";
    let (running, ends) = start(&warden, job, &["sh", "-c", script]).await;
    line(&ends.stdout).await;
    assert!(living(job).len() > 100);
    let begun = Instant::now();
    running.kill();
    assert_eq!(running.emptied().await.survivors, 0);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(living(job), Vec::<i32>::new());
});

in_each_tier!(the_exit_is_told_at_once_though_descendants_live, |warden| async move {
    let job = job_id();
    let script = "setsid sh -c 'echo a; sleep 1000; :' & sh -c 'echo b; sleep 1000; :' & exit 3";
    let (running, ends) = start(&warden, job, &["sh", "-c", script]).await;
    assert_eq!(running.exited().await, ExitStatus::Code(3));
    assert_eq!(running.signal(libc::SIGTERM, SignalTarget::Leader).await, Err(SignalFailure::Finished));
    line(&ends.stdout).await;
    line(&ends.stdout).await;
    assert!(living(job).len() >= 2);
    running.kill();
    assert_eq!(running.emptied().await.survivors, 0);
    assert_eq!(living(job), Vec::<i32>::new());
});

in_each_tier!(a_tree_that_ends_by_itself_is_emptied_without_a_kill, |warden| async move {
    let job = job_id();
    let (running, _ends) = start(&warden, job, &["sh", "-c", "setsid sh -c 'sleep 0.1' & exit 0"]).await;
    assert_eq!(running.emptied().await.survivors, 0);
    assert_eq!(living(job), Vec::<i32>::new());
    idle(&warden).await;
});

in_each_tier!(dropping_a_prepared_or_running_job_leaves_nothing, |warden| async move {
    let prepared = warden.prepare(wanted(job_id(), "true")).await.unwrap();
    assert_eq!(warden.census().await.unwrap().jobs, 1);
    drop(prepared);
    idle(&warden).await;
    let job = job_id();
    let (running, ends) = start(&warden, job, &["sh", "-c", TREE]).await;
    line(&ends.stdout).await;
    drop(running);
    idle(&warden).await;
    assert_eq!(living(job), Vec::<i32>::new());
});

in_each_tier!(dropping_the_last_handle_ends_every_job, |warden| async move {
    let job = job_id();
    let (running, ends) = start(&warden, job, &["sh", "-c", TREE]).await;
    line(&ends.stdout).await;
    let begun = Instant::now();
    drop(warden);
    assert_eq!(running.exited().await, ExitStatus::Unknown);
    wait_for_all_of(job, Duration::from_secs(1));
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(running.signal(libc::SIGTERM, SignalTarget::Tree).await, Err(SignalFailure::Finished));
});

async fn two_hundred_quick_jobs(force: Option<Tier>) {
    let warden = launch(force).await;
    start(&warden, job_id(), &["true"]).await.0.emptied().await;
    idle(&warden).await;
    let before = (warden.census().await.unwrap(), open_files());
    for _ in 0..20 {
        let jobs = (0..10).map(|_| async {
            let (running, ends) = start(&warden, job_id(), &["echo", "hello"]).await;
            assert_eq!(output(ends.stdout).await, "hello\n");
            assert_eq!(running.emptied().await.survivors, 0);
        });
        futures_util::future::join_all(jobs).await;
    }
    idle(&warden).await;
    assert_eq!((warden.census().await.unwrap(), open_files()), before);
    println!("alone=passed");
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
#[ignore = "started by two_hundred_quick_jobs_leave_no_leaf_and_no_descriptor"]
async fn two_hundred_child() {
    two_hundred_quick_jobs(None).await;
}

#[tokio::test]
#[ignore = "started by two_hundred_quick_jobs_leave_no_leaf_and_no_descriptor"]
async fn two_hundred_child_in_tier_c() {
    two_hundred_quick_jobs(Some(Tier::C)).await;
}

/// In processes of their own, whose descriptors no other test uses.
#[test]
fn two_hundred_quick_jobs_leave_no_leaf_and_no_descriptor() {
    alone("ending::two_hundred_child", Program::new(std::env::current_exe().unwrap()));
    alone("ending::two_hundred_child_in_tier_c", Program::new(std::env::current_exe().unwrap()));
}

in_each_tier!(what_a_killed_job_used_is_told, |warden| async move {
    let script = "x=$(head -c 40000000 /dev/zero | tr '\\0' x); echo ready; while :; do sleep 1000; done";
    let (running, ends) = start(&warden, job_id(), &["sh", "-c", script]).await;
    line(&ends.stdout).await;
    running.kill();
    let usage = running.emptied().await.usage;
    assert!(usage.max_rss.is_some_and(|bytes| bytes > 40_000_000), "{usage:?}");
    assert!(usage.user.unwrap() + usage.system.unwrap() > Duration::ZERO, "{usage:?}");
});
