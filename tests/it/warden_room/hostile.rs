//! Hostile trees, in every tier of this host, as root and as an ordinary user: none leaves a process behind. Survivors are
//! counted by a walk over /proc of our own, by a mark that each process was born with.

use super::*;
use crate::support::{PATIENCE, eventually, proc};

mod programs;

/// Which program this binary is to be.
const PROGRAM: &str = "EXECGATE_HOSTILE";
/// What marks all that it starts.
const MARK: &str = "EXECGATE_HOSTILE_MARK";

/// This binary as a hostile program.
#[test]
#[ignore = "started as a job by the tests below"]
fn program() {
    let name = std::env::var(PROGRAM).expect("the name of a program");
    match name.strip_prefix("storm_of_") {
        Some(size) => programs::storm(size.parse().unwrap()),
        None => programs::run(&name),
    }
}

struct Tree {
    running: Running,
    ends: PipeEnds,
    mark: String,
}

/// Starts a program and waits until its tree is grown.
async fn grow(warden: &Warden, name: &str) -> Tree {
    let job = job_id();
    let exe = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
    let mark = format!("mark-{job}");
    let prepared = warden.prepare(Prepare { program: exe.clone(), ..wanted(job, "") }).await.expect(name);
    let (stdio, ends) = Stdio::pipes(false).unwrap();
    let test = "warden_room::hostile::program";
    let argv = [&exe, "--exact", test, &mark, "--ignored", "--nocapture", "--test-threads=1"];
    let mut command = command(job, &argv, None);
    command.env.insert(PROGRAM.to_owned(), name.to_owned());
    command.env.insert(MARK.to_owned(), mark.clone());
    let cleared = cleared(&prepared, command);
    let running = prepared.release(&cleared, stdio, &JobLimits::default()).await.expect(name);
    while !line(&ends.stdout).await.ends_with("ready\n") {}
    Tree { running, ends, mark }
}

/// Ends a tree and counts what is left of it.
async fn survivors(tree: Tree) -> (u32, Vec<i32>) {
    tree.running.kill();
    let emptied = tree.running.emptied().await;
    drop(tree.ends);
    (emptied.survivors, proc::marked(&tree.mark))
}

async fn every_program(warden: Warden) {
    for (name, _) in programs::ALL {
        let tree = grow(&warden, name).await;
        assert!(!proc::marked(&tree.mark).is_empty(), "{name}: nobody runs");
        let (told, left) = survivors(tree).await;
        assert_eq!((told, &left), (0, &Vec::new()), "{name} left {left:?}");
    }
    idle(&warden).await;
    assert_eq!(proc::zombies(warden.pid().cast_signed()), 0);
}

in_each_tier!(no_hostile_tree_outlives_its_job, every_program);

in_each_tier!(no_hostile_tree_outlives_its_gateway, |warden| async move {
    let mut trees = Vec::new();
    for (name, _) in programs::ALL {
        trees.push(grow(&warden, name).await);
    }
    drop(warden);
    for tree in trees {
        tree.running.emptied().await;
        crate::support::eventually(Duration::from_secs(5), "nobody is left", || {
            proc::marked(&tree.mark).is_empty()
        });
    }
});

in_each_tier!(no_hostile_tree_outlives_its_warden, |warden| async move {
    let mut trees = Vec::new();
    for (name, _) in programs::ALL {
        trees.push(grow(&warden, name).await);
    }
    kill_process(warden.pid().cast_signed());
    for tree in trees {
        assert_eq!(tree.running.emptied().await.survivors, 0);
        assert_eq!(proc::marked(&tree.mark), Vec::<i32>::new());
    }
});

fn kill_process(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
}

in_each_tier!(any_number_of_living_orphans_keeps_none_of_the_dead, |warden| async move {
    let job = job_id();
    let script = "for n in $(seq 300); do (sleep 1000 &); done; for n in $(seq 20); do (sleep 0 &); done; \
        echo done; exec sleep 1000";
    let (running, ends) = start_as(&warden, wanted(job, "sh"), &["sh", "-c", script]).await.unwrap();
    assert_eq!(line(&ends.stdout).await, "done\n");
    eventually(PATIENCE, "the short-lived are dead", || living(job).len() == 301);
    let warden_pid = warden.pid().cast_signed();
    let keepers: Vec<i32> = std::iter::once(warden_pid).chain(proc::children(warden_pid)).collect();
    eventually(PATIENCE, "and reaped", || keepers.iter().all(|pid| proc::zombies(*pid) == 0));
    running.kill();
    assert_eq!(running.emptied().await.survivors, 0);
});

in_each_tier!(a_leader_that_its_child_traces_costs_no_time_and_ends_with_its_tree, |warden| async move {
    let tree = grow(&warden, "traces_its_leader").await;
    let leader = tree.running.pid();
    eventually(PATIENCE, "the leader is a zombie", || !proc::is_alive(leader));
    let pid = warden.pid().cast_signed();
    let rests = proc::rests(pid);
    warden.census().await.unwrap();
    eventually(PATIENCE, "the warden rests", || proc::rests(pid) > rests);
    tree.running.kill();
    assert_ne!(tree.running.exited().await, ExitStatus::Unknown);
    assert_eq!(survivors(tree).await, (0, Vec::new()));
});

/// A storm of a thousand, in the tiers that hold any number.
async fn a_thousand(force: Option<Tier>) {
    let warden = launch(force).await;
    let tree = grow(&warden, "storm_of_1000").await;
    let begun = Instant::now();
    let (told, left) = survivors(tree).await;
    assert_eq!((told, left), (0, Vec::new()));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    idle(&warden).await;
}

#[tokio::test]
async fn a_storm_of_a_thousand_is_ended_by_its_group() {
    a_thousand(None).await;
}

#[tokio::test]
async fn a_storm_of_a_thousand_is_ended_by_its_namespace() {
    a_thousand(Some(Tier::B)).await;
}

/// The trees as an ordinary user, in a process of its own.
#[tokio::test]
#[ignore = "started by the tests of ordinary users"]
async fn ordinary_user_child() {
    let forced = tier_of_environment();
    let warden = launch(forced).await;
    assert!(forced.is_none_or(|tier| tier == warden.containment().tier), "{:?}", warden.containment());
    every_program(warden).await;
    println!("alone=passed");
}

pub(super) fn as_nobody(group: Option<&std::path::Path>) -> Program {
    let mut child = Program::new("sh");
    // Joins the group as root, then becomes the ordinary user.
    let join = group.map_or(String::new(), |group| format!("echo $$ > {}/cgroup.procs; ", group.display()));
    let script = format!("{join}exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\"");
    child.args(["-c", &script, "sh"]).arg(std::env::current_exe().unwrap());
    child
}

#[test]
fn no_hostile_tree_of_an_ordinary_user_outlives_its_job_in_tier_b() {
    if needs_root() {
        let mut child = as_nobody(None);
        child.env("TIER", "B");
        alone("hostile::ordinary_user_child", child);
    }
}

#[test]
fn no_hostile_tree_of_an_ordinary_user_outlives_its_job_in_tier_c() {
    if needs_root() {
        let mut child = as_nobody(None);
        child.env("TIER", "C");
        alone("hostile::ordinary_user_child", child);
    }
}

/// A group handed to the ordinary user; removed at the end.
pub(super) struct Delegated(pub(super) PathBuf);

impl Delegated {
    /// `None` where there is none to hand over.
    pub(super) fn new() -> Option<Self> {
        let made = is_root().then(Self::make).flatten();
        needs(made.is_some(), "no cgroup2 group can be delegated");
        made
    }

    fn make() -> Option<Self> {
        let mounts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
        let mount = mounts.into_iter().find(|mount| mount.join("cgroup.procs").exists())?;
        let path = mount.join(format!("test-delegated-{}", job_id()));
        fs::create_dir(&path).ok()?;
        for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
            let _ = std::os::unix::fs::chown(path.join(file), Some(NOBODY), Some(NOBODY));
        }
        Some(Self(path))
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let removed = || fs::remove_dir(&self.0).is_ok();
        if std::thread::panicking() {
            let _ = removed();
            return;
        }
        // The child's warden ends, and takes its instance away, once the child has ended.
        eventually(PATIENCE, "the delegated group can be removed", removed);
    }
}

fn in_a_delegated_group(tier: &str) {
    let Some(group) = Delegated::new() else { return };
    let mut child = as_nobody(Some(&group.0));
    child.env("TIER", tier);
    alone("hostile::ordinary_user_child", child);
}

#[test]
fn no_hostile_tree_of_an_ordinary_user_outlives_its_job_in_a_delegated_group() {
    in_a_delegated_group("A");
}

#[test]
fn no_hostile_tree_of_an_ordinary_user_outlives_its_job_in_tier_a_prime() {
    in_a_delegated_group("A'");
}

/// T1: `HOSTILE_TREES` trees (10 000), two at a time, in the tier that `TIER` names.
#[tokio::test]
#[ignore = "long: ten thousand trees"]
async fn ten_thousand_hostile_trees_leave_no_survivor() {
    let count: usize = std::env::var("HOSTILE_TREES").map_or(10_000, |n| n.parse().unwrap());
    let warden = launch(tier_of_environment()).await;
    let begun = Instant::now();
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || async {
        let mut left = Vec::new();
        loop {
            let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            if number >= count {
                return left;
            }
            let (name, _) = programs::ALL[number % programs::ALL.len()];
            let (told, living) = survivors(grow(&warden, name).await).await;
            if told > 0 || !living.is_empty() {
                left.push((name, told, living));
            }
        }
    };
    let (a, b) = tokio::join!(work(), work());
    let left: Vec<_> = a.into_iter().chain(b).collect();
    let tier = warden.containment().tier;
    eprintln!(
        "T1: tier {tier}: {count} trees in {:?}: {} with survivors {left:?}",
        begun.elapsed(),
        left.len()
    );
    assert!(left.is_empty());
    idle(&warden).await;
}
