//! Each limit of a tenant, from the configuration file to the client: what ends the job, what it is told, and what it used.

use serde_json::Value;

use crate::support::{Client, Gateway, run};

/// How a job under these limits ended, what it printed, and what was told at its end.
struct Ended {
    exited: Value,
    closed: Value,
    output: String,
}

fn under(limits: &str, argv: &[&str]) -> Ended {
    let gateway = Gateway::with(&format!("[tenant.\"*\".limits]\n{limits}\n"));
    let ended = run(async {
        let mut client = Client::connect(&gateway).await;
        let job = client.start(argv).await;
        let output = String::from_utf8_lossy(&client.output(&job, "stdout").await).into_owned();
        let exited = client.event_of("job.exited", &job).await;
        let closed = client.event_of("job.closed", &job).await;
        Ended { exited, closed, output }
    });
    assert_eq!(ended.closed["survivors"], 0, "{}", ended.closed);
    for used in ["user_ms", "system_ms", "max_rss"] {
        assert!(ended.closed["usage"][used].is_u64(), "{used}: {}", ended.closed);
    }
    ended
}

/// The tests of the warden's room are this binary's other programs.
fn own(test: &str) -> Vec<String> {
    let exe = std::env::current_exe().unwrap().to_str().unwrap().to_owned();
    [&exe, "--exact", test, "--ignored", "--nocapture", "--test-threads=1"].map(str::to_owned).to_vec()
}

fn under_own(limits: &str, test: &str) -> Ended {
    let argv = own(test);
    under(limits, &argv.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn wall_time_ends_a_job_as_timeout() {
    assert_eq!(under("wall = \"300ms\"", &["sleep", "1000"]).closed["reason"], "timeout");
}

#[test]
fn cpu_time_of_the_whole_job_ends_it_as_cpu_limit() {
    let ended =
        under("cpu = \"300ms\"", &["sh", "-c", "setsid sh -c 'while :; do :; done' & wait; sleep 1000"]);
    assert_eq!(ended.closed["reason"], "cpu_limit", "{}", ended.closed);
}

#[test]
fn memory_of_the_whole_job_ends_it_as_memory_limit() {
    let ended = under_own("memory = \"64MiB\"", "warden_room::limiting::memory_hog");
    assert_eq!(ended.closed["reason"], "memory_limit", "{} {}", ended.closed, ended.output);
}

#[test]
fn a_fork_bomb_ends_as_process_limit() {
    let ended = under_own("processes = 20", "warden_room::limiting::fork_bomb");
    assert_eq!(ended.closed["reason"], "process_limit", "{} {}", ended.closed, ended.output);
    let peak = ended.closed["usage"]["processes_peak"].as_u64();
    assert!(peak.is_none_or(|peak| (2..=20).contains(&peak)), "{}", ended.closed);
}

#[test]
fn output_ends_a_job_as_output_limit() {
    let ended = under("output = \"64KiB\"", &["yes"]);
    assert_eq!(ended.closed["reason"], "output_limit", "{}", ended.closed);
}

#[test]
fn output_that_is_cut_after_the_leaders_exit_is_told_too() {
    // However long it takes until the first byte.
    let limits = "output = \"64KiB\"\n[streams]\ndrain_idle = \"1m\"\ndrain_total = \"1m\"";
    for (script, reason) in [
        ("yes & exit 0", "output_limit"),
        ("exec head -c 65537 /dev/zero", "output_limit"),
        ("exec head -c 65536 /dev/zero", "exited"),
    ] {
        let ended = under(limits, &["sh", "-c", script]);
        assert_eq!((&ended.closed["reason"], ended.output.len()), (&reason.into(), 65536), "{script}");
    }
}

#[test]
fn a_file_too_large_ends_its_writer_by_the_signal_that_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    let script = format!("exec head -c 1000000 /dev/zero >{}", file.display());
    let ended = under("file_size = \"64KiB\"", &["sh", "-c", &script]);
    assert_eq!(ended.closed["reason"], "signal", "{}", ended.closed);
    assert_eq!(ended.exited["signal"], "SIGXFSZ", "{}", ended.exited);
    assert_eq!(std::fs::metadata(&file).unwrap().len(), 64 << 10);
}

#[test]
fn open_files_and_niceness_are_as_configured() {
    let script = "ulimit -n; ulimit -Hn; nice";
    let before = under("nice = 0", &["nice"]).output.trim().parse::<i32>().unwrap();
    let ended = under("open_files = 9\nnice = 3", &["sh", "-c", script]);
    assert_eq!(ended.output.lines().take(3).collect::<Vec<_>>(), ["9", "9", &(before + 3).to_string()]);
    assert_eq!(ended.closed["reason"], "exited", "they end nothing: {}", ended.closed);
}
