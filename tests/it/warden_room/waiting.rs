//! Leaders forked ahead: few, for one session, confined, and gone soon after the last start or with the warden.

use super::*;
use crate::support::{PATIENCE, eventually, proc};

/// Leaders, or their keepers, that wait for one session at most.
const MOST: usize = 2;

/// The warden's children that are no job's.
fn waiting(warden: &Warden) -> Vec<i32> {
    proc::children(warden.pid().cast_signed())
}

async fn warm(warden: &Warden) -> Vec<i32> {
    for _ in 0..2 {
        start(warden, job_id(), &["true"]).await.0.emptied().await;
    }
    eventually(PATIENCE, "leaders are forked ahead", || waiting(warden).len() == MOST);
    waiting(warden)
}

in_each_tier!(few_wait_they_count_as_nothing_and_they_go, |warden| async move {
    assert_eq!(waiting(&warden), Vec::<i32>::new(), "none before the first start");
    let before = warden.census().await.unwrap();
    start(&warden, job_id(), &["true"]).await.0.emptied().await;
    warden.probe().await.unwrap();
    assert_eq!(waiting(&warden), Vec::<i32>::new(), "none for a session of one command");
    warm(&warden).await;
    for _ in 0..20 {
        start(&warden, job_id(), &["true"]).await.0.emptied().await;
        assert!(waiting(&warden).len() <= MOST);
    }
    eventually(PATIENCE, "there are as many again", || waiting(&warden).len() == MOST);
    idle(&warden).await;
    assert_eq!(warden.census().await.unwrap(), before);
    eventually(PATIENCE, "none waits any more", || waiting(&warden).is_empty());
    assert_eq!(proc::zombies(warden.pid().cast_signed()), 0);
    assert_eq!(warden.census().await.unwrap(), before);
});

in_each_tier!(they_die_with_the_warden, |warden| async move {
    let mut theirs = warm(&warden).await;
    theirs.extend(theirs.clone().into_iter().flat_map(proc::children));
    let instance = instance_of(theirs[0]);
    let pid = nix::unistd::Pid::from_raw(warden.pid().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    eventually(PATIENCE, "all are gone", || theirs.iter().all(|pid| !proc::is_alive(*pid)));
    // Its groups are left to the next start.
    let _next = launch(None).await;
    eventually(PATIENCE, "no group is left", || instance.as_ref().is_none_or(|group| !group.exists()));
});

in_each_tier!(one_that_died_is_not_sent_out, |warden| async move {
    let first = warm(&warden).await;
    let behind: Vec<i32> = first.iter().copied().flat_map(proc::children).collect();
    for pid in &first {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
    let gone = || first.iter().chain(&behind).all(|pid| !proc::is_alive(*pid));
    eventually(PATIENCE, "they are dead", gone);
    for _ in 0..MOST + 1 {
        let (running, _ends) = start(&warden, job_id(), &["true"]).await;
        assert_eq!(running.exited().await, ExitStatus::Code(0));
    }
    idle(&warden).await;
});

#[tokio::test]
async fn one_that_waits_is_confined_and_in_a_leaf_of_its_session() {
    let warden = launch(None).await;
    let theirs = warm(&warden).await;
    for pid in &theirs {
        eventually(PATIENCE, "it is confined", || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            status.contains("NoNewPrivs:\t1\n") && status.contains("Seccomp:\t2\n")
        });
    }
    let group = |pid| proc::group(pid).unwrap_or_default();
    let groups: Vec<PathBuf> = theirs.iter().map(|pid| group(*pid)).collect();
    let in_session =
        |session| Prepare { session: SessionId::from_bits(session), ..wanted(job_id(), "sleep") };
    let (stranger, _ends) = start_as(&warden, in_session(2), &["sleep", "1000"]).await.unwrap();
    let (own, _ends) = start_as(&warden, in_session(1), &["sleep", "1000"]).await.unwrap();
    if !matches!(warden.containment().tier, Tier::A | Tier::APrime) {
        return;
    }
    assert_ne!(groups[0], groups[1], "each has a leaf of its own");
    assert_eq!(groups[0].parent(), groups[1].parent(), "in one session's group");
    assert!(theirs.contains(&own.pid()) && groups.contains(&group(own.pid())));
    assert!(!theirs.contains(&stranger.pid()), "another session's job must not get it");
    assert_ne!(group(stranger.pid()).parent(), groups[0].parent());
    assert_eq!(
        group(stranger.pid()).ancestors().nth(2),
        groups[0].ancestors().nth(2),
        "it is of the same tenant"
    );
}

#[tokio::test]
async fn a_job_gets_one_under_its_own_identity_and_number() {
    let identities = if is_root() { vec![nobody()] } else { Vec::new() };
    let own = is_root().then_some(0);
    let warden = Warden::launch(Settings { identities, ..settings(None) }).await.unwrap();
    for identity in [None, own, None] {
        let mut theirs = warm(&warden).await;
        theirs.extend(theirs.clone().into_iter().flat_map(proc::children));
        let wanted = Prepare { identity, ..wanted(job_id(), "sh") };
        let (running, ends) =
            start_as(&warden, wanted, &["sh", "-c", "id -u; cat /proc/self/cgroup"]).await.unwrap();
        let said = output(ends.stdout).await;
        let uid = identity.map_or(nix::unistd::Uid::effective().as_raw(), |_| NOBODY);
        assert!(said.starts_with(&format!("{uid}\n")), "{said}");
        assert!(theirs.contains(&running.pid()), "it was forked ahead");
        running.emptied().await;
    }
    let (running, _ends) = start(&warden, job_id(), &["sh", "-c", "kill -9 $$"]).await;
    assert_eq!(running.exited().await, ExitStatus::Signal { number: 9, core: false });
    running.emptied().await;
    idle(&warden).await;
}
