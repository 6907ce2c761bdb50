//! Exhaustion and internal faults: what runs out or breaks within the gateway itself, one test a line.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::authentication::{token_table, with_token};
use crate::support::{Client, Gateway, PATIENCE, eventually, needs, proc, run};
use crate::transport::get;

/// A file system of so many bytes; unmounted on drop. `None` where we may not mount.
struct Small {
    directory: tempfile::TempDir,
}

impl Small {
    fn mount(size: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mounted = nix::mount::mount(
            Some("none"),
            directory.path(),
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some(options.as_str()),
        );
        if !needs(mounted.is_ok(), "a full disk is a small tmpfs, and we may not mount one") {
            return None;
        }
        Some(Self { directory })
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Takes all that is free.
    fn fill(&self) -> PathBuf {
        use std::io::Write as _;
        let filler = self.path().join("filler");
        let mut file = std::fs::File::create(&filler).unwrap();
        while file.write_all(&[0; 1024]).is_ok() {}
        while file.write_all(&[0]).is_ok() {}
        filler
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.directory.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

/// A small file system on a disk of its own, that can be made to hang. Unmounted on drop. `None` where we may not mount.
struct Disk {
    directory: tempfile::TempDir,
}

impl Disk {
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let disk = Self { directory };
        std::fs::create_dir(disk.path()).unwrap();
        let mounted = Self::run("mkfs.ext4", &[Path::new("-q"), &image])
            && Self::run("mount", &[Path::new("-o"), Path::new("loop"), &image, &disk.path()]);
        needs(mounted, "a disk that hangs is an ext4 on a loop device, and we cannot mount one")
            .then_some(disk)
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    /// Whoever writes to it waits until the guard is dropped (fsfreeze(8)).
    fn hang(&self) -> Hanging {
        assert!(Self::run("fsfreeze", &[Path::new("-f"), &self.path()]));
        Hanging(self.path())
    }

    #[allow(clippy::disallowed_methods, reason = "what mounts and freezes")]
    fn run(program: &str, arguments: &[&Path]) -> bool {
        std::process::Command::new(program).args(arguments).status().is_ok_and(|status| status.success())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Self::run("umount", &[&self.path()]);
    }
}

struct Hanging(PathBuf);

impl Drop for Hanging {
    fn drop(&mut self) {
        Disk::run("fsfreeze", &[Path::new("-u"), &self.0]);
    }
}

#[test]
fn a_shutdown_ends_every_job_and_the_warden_while_the_disk_of_the_decision_log_hangs() {
    let Some(disk) = Disk::mount() else { return };
    let log = disk.path().join("decisions");
    let mut gateway = Gateway::with(&format!("[audit]\npath = {log:?}\n"));
    let hanging = disk.hang();
    run(async {
        let mut client = Client::connect(&gateway).await;
        let job = client.start(&["sleep", "1000"]).await;
        gateway.signal(Signal::SIGTERM);
        gateway.signal(Signal::SIGTERM);
        assert_eq!(client.event_of("job.closed", &job).await["survivors"], 0);
        assert_eq!(client.close_code().await, Some(1012));
    });
    eventually(PATIENCE, "the warden is gone", || !proc::is_alive(gateway.warden));
    eventually(PATIENCE, "the log that cannot be flushed is told", || {
        gateway.log().contains("the decision log could not be flushed") && gateway.log().contains("\"gone\"")
    });
    assert!(gateway.survivors().is_empty());
    // The kernel lets no process go that waits for such a disk.
    drop(hanging);
    assert_eq!(gateway.ended(PATIENCE).code(), Some(0));
}

#[test]
fn a_full_disk_under_the_decision_log_refuses_opens_the_breaker_only_for_two_tenants_and_is_over_by_itself() {
    let Some(small) = Small::mount("256k") else { return };
    let tokens = token_table("ada", "acme", &["admin"]) + &token_table("bob", "bolt", &[]);
    let log = small.path().join("decisions");
    let gateway = Gateway::with(&format!(
        "{tokens}[audit]\npath = {log:?}\n[breaker]\nrest = \"500ms\"\nwindow = \"1m\"\n"
    ));
    run(async {
        let mut ada = with_token(&gateway, "ada").await.unwrap();
        let mut bob = with_token(&gateway, "bob").await.unwrap();
        let session = |opened: serde_json::Value| opened["session"].clone();
        let (of_ada, of_bob) = (
            session(ada.call("session.open", json!({})).await.unwrap()),
            session(bob.call("session.open", json!({})).await.unwrap()),
        );
        let running =
            ada.call("job.start", json!({"argv": ["sleep", "1000"], "session": of_ada})).await.unwrap();
        let filler = small.fill();
        let breaker = async |gateway: &Gateway| {
            let request = "Authorization: Bearer ada\r\n";
            crate::authentication::answer(gateway, "/readyz", request).await.contains("audit: open")
        };
        let start = |of: &serde_json::Value| json!({"argv": ["true"], "session": of});
        // The first lines are taken: that the disk is full is found out by writing.
        let mut refusals = 0;
        let since = std::time::Instant::now();
        while refusals < 20 {
            assert!(since.elapsed() < PATIENCE, "a full disk refuses nothing");
            if let Err(error) = ada.call("job.start", start(&of_ada)).await {
                assert_eq!(error["data"]["kind"], "unavailable", "{error}");
                assert!(error["data"]["retry_after_ms"].is_number(), "{error}");
                refusals += 1;
            }
        }
        assert!(!breaker(&gateway).await, "one tenant alone opened it");
        // The log looks whether it can write again by writing, so one or the other line may be taken meanwhile.
        let since = std::time::Instant::now();
        loop {
            assert!(since.elapsed() < PATIENCE, "two tenants did not open it");
            if let Err(error) = bob.call("job.start", start(&of_bob)).await {
                assert!(error["message"].as_str().unwrap().contains("decision log"), "{error}");
                if breaker(&gateway).await {
                    break;
                }
            }
        }
        let state = ada.call("job.get", json!({"job": running["job"]})).await.unwrap();
        assert_eq!(state["state"], "running", "what runs goes on");
        std::fs::remove_file(filler).unwrap();
        let since = std::time::Instant::now();
        while bob.call("job.start", start(&of_bob)).await.is_err() {
            assert!(since.elapsed() < PATIENCE, "it never recovered");
        }
        assert!(!breaker(&gateway).await, "a real success closes it");
    });
}

#[test]
fn a_full_disk_under_the_decision_log_takes_no_decision_that_it_does_not_write_in_the_end() {
    let Some(small) = Small::mount("256k") else { return };
    let log = small.path().join("decisions");
    let gateway = Gateway::with(&format!("[audit]\npath = {log:?}\n"));
    run(async {
        let mut client = Client::connect(&gateway).await;
        client.start(&["true"]).await;
        let filler = small.fill();
        let since = std::time::Instant::now();
        let (mut allowed, mut refused, mut flaps) = (Vec::new(), 0, 0);
        // Long enough for several looks whether the log can be written again, which are no lines of decisions.
        while since.elapsed() < Duration::from_secs(4) {
            match client.call("job.start", json!({"argv": ["true"]})).await {
                Ok(started) => {
                    flaps += usize::from(refused > 0);
                    allowed.push(started["decision"].as_str().unwrap().to_owned());
                }
                Err(_) => refused += 1,
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(refused > 0 && flaps == 0, "{refused} refused, then {flaps} taken while the disk was full");
        std::fs::remove_file(filler).unwrap();
        let written = || {
            let text = std::fs::read_to_string(&log).unwrap();
            allowed.iter().all(|decision| text.contains(decision))
        };
        eventually(PATIENCE, "every decision that was acted on is in the log", written);
    });
    assert!(!std::fs::read_to_string(&log).unwrap().contains("\"event\":\"lost\""));
    execgate::audit::verify(&log, None).unwrap();
}

#[test]
fn a_full_disk_under_the_decision_log_counts_the_loss_when_told_to_drop_and_the_log_is_whole_afterwards() {
    let Some(small) = Small::mount("256k") else { return };
    let log = small.path().join("decisions");
    let gateway = Gateway::with(&format!("[audit]\npath = {log:?}\noverflow = \"drop\"\n"));
    run(async {
        let mut client = Client::connect(&gateway).await;
        client.start(&["true"]).await;
        let filler = small.fill();
        let since = std::time::Instant::now();
        loop {
            client.start(&["true"]).await;
            let (_, metrics) = get(&gateway, "/metrics").await;
            let lost = metrics.lines().find_map(|line| line.strip_prefix("execgate_audit_lost_total "));
            if lost.unwrap().parse::<u64>().unwrap() > 0 {
                break;
            }
            assert!(since.elapsed() < PATIENCE, "nothing was counted as lost");
        }
        std::fs::remove_file(filler).unwrap();
    });
    let told = || std::fs::read_to_string(&log).unwrap().contains("\"event\":\"lost\"");
    eventually(PATIENCE, "the log itself tells of the loss", told);
    execgate::audit::verify(&log, None).unwrap();
}

/// Bounds the address space of a process to so much more than it has; `None` lifts the bound.
pub fn bound_memory(pid: i32, more: Option<u64>) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let size = line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024;
    let soft = more.map(|more| size + more);
    let limit = rustix::process::Rlimit { current: soft, maximum: None };
    rustix::process::prlimit(rustix::process::Pid::from_raw(pid), rustix::process::Resource::As, limit)
        .unwrap();
}

/// The threads of the runtime, by number.
pub fn runtime_threads(pid: i32) -> Vec<i32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let name =
        |thread: &std::fs::DirEntry| std::fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
    threads
        .filter(|thread| name(thread).starts_with("tokio"))
        .filter_map(|thread| thread.file_name().to_str()?.parse().ok())
        .collect()
}

#[test]
fn a_task_that_panics_when_the_kernel_gives_no_memory_ends_its_session_at_most() {
    let gateway = Gateway::start();
    run(async {
        let mut other = Client::connect(&gateway).await;
        let bystander = other.start(&["sleep", "1000"]).await;
        let mut client = Client::connect(&gateway).await;
        let doomed = client.start(&["sleep", "1000"]).await;
        // Reading a script takes a thread, a thread takes a stack, and a stack is more than there is. The threads that
        // were there for other work end by themselves after a while without any.
        let workers = std::thread::available_parallelism().unwrap().get();
        eventually(PATIENCE, "only the workers are left", || runtime_threads(gateway.pid()).len() <= workers);
        bound_memory(gateway.pid(), Some(64 << 10));
        let id = client.send("job.start", json!({"argv": ["sh", "-c", "true"]})).await;
        let broke_off =
            |v: &Value| v["id"] == json!(id) && v["error"]["data"]["kind"] == json!("policy_failed");
        let outcome =
            client.find("what came of it", |v| broke_off(v) || v["method"] == "session.closed").await;
        bound_memory(gateway.pid(), None);
        if broke_off(&outcome) {
            // The C library had kept a stack: the thread was there, and the decision broke off on it.
            assert_eq!(gateway.survivors().len(), 2, "both jobs run on");
            client.start(&["sh", "-c", "true"]).await;
            return;
        }
        let closed = outcome["params"].clone();
        assert_eq!(closed["reason"], "server_fault", "{closed}");
        eventually(PATIENCE, "its tree is gone, and no other", || gateway.survivors().len() == 1);
        assert_eq!(other.call("job.get", json!({"job": bystander})).await.unwrap()["state"], "running");
        let state = client.call("job.get", json!({"job": doomed})).await.unwrap();
        assert_eq!(
            (&state["state"], &state["reason"]),
            (&json!("closed"), &json!("server_fault")),
            "{state}"
        );
        client.start(&["sh", "-c", "true"]).await;
        let (_, metrics) = get(&gateway, "/metrics").await;
        assert!(metrics.contains("execgate_task_panics_total 1"), "{metrics}");
    });
}

/// A memory group for one process; removed on drop, once that process is gone.
struct Cage {
    group: PathBuf,
    limit: &'static str,
    /// Counts what was killed for memory (memory.oom_control of cgroup v1, memory.events of v2).
    events: &'static str,
}

impl Cage {
    /// `None` where no group with a memory controller can be made.
    fn make() -> Option<Self> {
        let kinds = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.oom_control"),
            ("/sys/fs/cgroup", "memory.max", "memory.events"),
        ];
        let made = kinds.into_iter().find_map(|(root, limit, events)| {
            let group = Path::new(root).join(format!("execgate-test-{}", std::process::id()));
            std::fs::create_dir(&group).ok()?;
            let cage = Self { group, limit, events };
            cage.group.join(limit).exists().then_some(cage)
        });
        needs(made.is_some(), "no memory group can be made, so nobody is killed for memory");
        made
    }

    /// From now on the process may take this much more; what it has is another group's affair.
    fn enclose(&self, pid: i32, bytes: u64) {
        std::fs::write(self.group.join(self.limit), bytes.to_string()).unwrap();
        std::fs::write(self.group.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    fn killed(&self) -> bool {
        let events = std::fs::read_to_string(self.group.join(self.events)).unwrap();
        let count = events.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap();
        count.parse::<u64>().unwrap() > 0
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        eventually(PATIENCE, "the group is left", || std::fs::remove_dir(&self.group).is_ok());
    }
}

#[test]
fn a_gateway_that_the_kernel_kills_for_memory_takes_every_tree_along_and_the_next_start_is_clean() {
    let Some(cage) = Cage::make() else { return };
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("decisions");
    let config = format!("[audit]\npath = {log:?}\n");
    let mut gateway = Gateway::with(&config);
    let warden = gateway.warden;
    run(async {
        let mut client = Client::connect(&gateway).await;
        for _ in 0..5 {
            client.sh("trap '' TERM HUP; setsid sleep 1000 & sleep 1000").await;
        }
        eventually(PATIENCE, "they run", || gateway.survivors().len() >= 10);
        cage.enclose(gateway.pid(), 256 << 10);
        // What it prints is kept in rings, which are memory not yet touched.
        let flood = json!({"argv": ["yes"], "output": {"overflow": "ring"}, "view": false});
        for _ in 0..10 {
            client.send("job.start", flood.clone()).await;
        }
        while client.next().await.is_some() {}
    });
    let status = gateway.ended(PATIENCE);
    let took = eventually(Duration::from_secs(1), "nobody is left", || gateway.survivors().is_empty());
    assert_eq!(status.signal(), Some(9), "{status:?} {}", gateway.log());
    assert!(cage.killed(), "it was not the kernel's doing");
    eprintln!("killed for memory: nobody left after {took:?}");
    eventually(PATIENCE, "the warden leaves", || !proc::is_alive(warden));
    let group = proc::instance_of(&gateway.banner);
    assert!(group.is_none_or(|group| !group.exists()), "a group is left");

    let next = Gateway::with(&config);
    run(async {
        let mut client = Client::connect(&next).await;
        let job = client.start(&["echo", "well"]).await;
        assert_eq!(client.output(&job, "stdout").await, b"well\n");
        let (status, ready) = get(&next, "/readyz").await;
        assert_eq!(status, 200, "{ready}");
    });
    drop(next);
    execgate::audit::verify(&log, None).unwrap();
}

#[test]
fn a_gateway_that_aborts_takes_every_tree_along() {
    let mut gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        client.sh("trap '' TERM HUP; setsid sleep 1000 & sleep 1000").await;
        eventually(PATIENCE, "they run", || gateway.survivors().len() >= 2);
    });
    gateway.signal(Signal::SIGABRT);
    gateway.ended(PATIENCE);
    let took = eventually(PATIENCE, "nobody is left", || gateway.survivors().is_empty());
    eprintln!("abort to nobody left: {took:?}");
    assert!(!proc::is_alive(gateway.warden) || took < Duration::from_secs(5));
}

/// Killed at the end, however that comes.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the shell lowers what the gateway is born with")]
fn the_gateway_takes_all_the_descriptors_it_may_and_a_job_at_most_half() {
    let directory = tempfile::tempdir().unwrap();
    let few = "ulimit -Sn 256; exec \"$0\" \"$@\"";
    let gateway = std::process::Command::new("sh")
        .args(["-c", few, env!("CARGO_BIN_EXE_execgate"), "serve", "--listen", "127.0.0.1:0"])
        .env("XDG_STATE_HOME", directory.path())
        // A loaded machine may take its time.
        .env("EXECGATE_JOBS__GATE", "10s")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn();
    let mut gateway = Killed(gateway.unwrap());
    let lines = BufReader::new(gateway.0.stdout.take().unwrap()).lines().map_while(Result::ok);
    let banner: Vec<String> = lines.take_while(|line| !line.starts_with("memory:")).collect();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.0.id())).unwrap();
    let limits = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let limits: Vec<u64> = limits.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let url = banner[0].rsplit(" on ").next().unwrap();
    let job = Gateway::command(&directory)
        .args(["exec", "--url", url, "--", "sh", "-c", "ulimit -Sn; ulimit -Hn"])
        .output()
        .unwrap();
    assert_eq!(limits[0], limits[1]);
    let (said, why) = (String::from_utf8_lossy(&job.stdout), String::from_utf8_lossy(&job.stderr));
    assert_eq!(said, format!("256\n{}\n", limits[1] / 2), "{why}");
}

#[test]
fn a_rotation_that_gets_no_new_file_loses_none_of_the_log() {
    let Some(small) = Small::mount("1m,nr_inodes=16") else { return };
    let log = small.path().join("log");
    let gateway = Gateway::with(&format!("[audit]\npath = {log:?}\nrotate = \"4KiB\"\nkeep = 8\n"));
    run(async {
        let mut client = Client::connect(&gateway).await;
        let start = async |client: &mut Client| {
            let started = client.call("job.start", json!({"argv": ["true"], "view": false})).await.unwrap();
            let decision = started["decision"].as_str().unwrap().to_owned();
            let written = || std::fs::read_to_string(&log).is_ok_and(|text| text.contains(&decision));
            eventually(PATIENCE, "its line is in the file, and not in an older one", written);
        };
        let oldest = small.path().join("log.3");
        while !oldest.exists() {
            start(&mut client).await;
        }
        let mut fillers = 0;
        while std::fs::File::create(small.path().join(format!("filler{fillers}"))).is_ok() {
            fillers += 1;
        }
        let (before, first) = (std::fs::read(&oldest).unwrap(), execgate::audit::verify(&log, None).unwrap());
        // More than two files of them.
        for _ in 0..12 {
            start(&mut client).await;
        }
        assert!(gateway.log().contains("cannot be rotated"), "{}", gateway.log());
        assert_eq!(std::fs::read(&oldest).unwrap(), before);
        let after = execgate::audit::verify(&log, None).unwrap();
        assert_eq!(after.first, first.first, "nothing at the begin is gone");
        assert!(after.lines >= first.lines + 12, "{after:?}");
    });
}
