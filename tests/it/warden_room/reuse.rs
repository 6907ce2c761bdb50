//! Signals when process numbers come round again: in a PID namespace of a few hundred numbers.

use super::*;

/// Most numbers in the namespace of the test: the least the kernel allows is 301.
const NUMBERS: i32 = 400;
/// A number above those that the kernel leaves out once it has begun anew (RESERVED_PIDS, 300).
const FIRST_AGAIN: i32 = 310;

/// Starts strangers, ending them at once, until one has this number; that one is kept. `None` when it never comes round.
fn stranger_with(number: i32) -> Option<std::process::Child> {
    for _ in 0..3 * NUMBERS {
        let mut stranger = Program::new("sleep").arg("1000").spawn().unwrap();
        if stranger.id().cast_signed() == number {
            return Some(stranger);
        }
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
    None
}

#[tokio::test]
#[ignore = "started by a_reused_number_misdirects_no_signal"]
async fn reuse_child() {
    let warden = launch(tier_of_environment()).await;
    let targets = [SignalTarget::Leader, SignalTarget::Group, SignalTarget::Foreground, SignalTarget::Tree];
    assert!(stranger_with(FIRST_AGAIN).map(|mut stranger| stranger.kill().and(stranger.wait())).is_some());
    for _ in 0..3 {
        let (running, _ends) = start(&warden, job_id(), &["sleep", "0.01"]).await;
        assert_eq!(running.emptied().await.survivors, 0);
        let mut stranger = stranger_with(running.pid()).expect("the number comes round once the job is over");
        for target in targets {
            assert_eq!(running.signal(libc::SIGKILL, target).await, Err(SignalFailure::Finished));
        }
        running.kill();
        assert_eq!(running.pause().await, Err(SignalFailure::Finished));
        warden.probe().await.unwrap();
        assert!(stranger.try_wait().unwrap().is_none(), "the stranger lives");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
    // While the tree lives, the number of its dead leader is nobody's.
    let job = job_id();
    let (running, ends) = start(&warden, job, &["sh", "-c", "setsid sleep 1000 & echo ready; exit 4"]).await;
    line(&ends.stdout).await;
    assert_eq!(running.exited().await, ExitStatus::Code(4));
    assert!(stranger_with(running.pid()).is_none());
    assert_eq!(running.signal(libc::SIGKILL, SignalTarget::Leader).await, Err(SignalFailure::Finished));
    assert!(!living(job).is_empty());
    running.signal(libc::SIGKILL, SignalTarget::Tree).await.unwrap();
    assert_eq!(running.emptied().await.survivors, 0);
    assert_eq!(living(job), Vec::<i32>::new());
    println!("alone=passed");
}

/// Whether the kernel keeps the highest number for each namespace (Linux 6.14), so that the host's is left alone.
fn has_numbers_of_its_own() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut parts = release.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next(), parts.next()) >= (Some(6), Some(14))
}

fn a_reused_number_misdirects_no_signal(tier: &str) {
    if !needs(is_root() && has_numbers_of_its_own(), "it takes root and Linux 6.14") {
        return;
    }
    let mut child = Program::new("unshare");
    let script = format!("echo {NUMBERS} > /proc/sys/kernel/pid_max && exec \"$@\"");
    child.args(["--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", &script, "sh"]);
    child.arg(std::env::current_exe().unwrap()).env("TIER", tier);
    alone("reuse::reuse_child", child);
}

#[test]
fn a_reused_number_misdirects_no_signal_in_the_best_tier() {
    a_reused_number_misdirects_no_signal("");
}

#[test]
fn a_reused_number_misdirects_no_signal_in_tier_b() {
    a_reused_number_misdirects_no_signal("B");
}

#[test]
fn a_reused_number_misdirects_no_signal_in_tier_c() {
    a_reused_number_misdirects_no_signal("C");
}
