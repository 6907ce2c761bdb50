//! The examples work as they stand, with the keys that the documented command makes.

#![allow(clippy::disallowed_methods, reason = "tests run the documented commands")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::Error;

use crate::support::pki::{client_trusting, make_keys, make_token};
use crate::support::{Client, Gateway, eventually, needs, needs_root, run};

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples").join(name)
}

async fn with_token(gateway: &Gateway, token: &str) -> Client {
    Client::with(gateway, &[("authorization", &format!("Bearer {token}"))]).await.unwrap()
}

#[test]
fn every_example_is_a_good_configuration() {
    let place = tempfile::tempdir().unwrap();
    make_keys(&place.path().join("config/examples/keys"));
    for name in ["hosted-shell.toml", "read-only-ops.toml", "agent-sandbox.toml"] {
        if name == "hosted-shell.toml" && !needs_root() {
            continue;
        }
        let mut command = Gateway::command(&place);
        command.current_dir(place.path()).args(["config", "check", "--config"]).arg(example(name));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// What a tenant can hold must be bounded, and all tenants together must fit what the server has for all.
#[test]
fn the_tenants_of_the_hosted_shell_have_every_limit_and_fit_the_server_together() {
    let place = tempfile::tempdir().unwrap();
    let mut command = Gateway::command(&place);
    let output =
        command.args(["config", "show", "--json", "--config"]).arg(example("hosted-shell.toml")).output();
    let shown: Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    for key in ["connections", "sessions", "jobs"] {
        let of = |table: &str| shown[format!("{table}limits.{key}")]["value"].as_u64().unwrap();
        let together = of("tenant.acme.") + of("tenant.bolt.");
        assert!(together <= of(""), "{key}: {together} of {}", of(""));
    }
    for tenant in ["acme", "bolt"] {
        for key in ["wall", "cpu", "memory", "processes", "output", "file_size", "open_files"] {
            let key = format!("tenant.{tenant}.limits.{key}");
            assert!(shown.get(&key).is_some_and(|limit| limit["value"] != "unlimited"), "{key}");
        }
    }
}

/// The hosted shell as its head says to try it, but for where the homes are.
struct Hosted {
    gateway: Gateway,
    keys: PathBuf,
}

impl Hosted {
    fn start() -> Option<Self> {
        if !needs_root() {
            return None;
        }
        let place = TempDir::new().unwrap();
        // Its tenants pass through it to their homes.
        std::fs::set_permissions(place.path(), Permissions::from_mode(0o711)).unwrap();
        let keys = place.path().join("config/examples/keys");
        make_keys(&keys);
        let mut homes = Vec::new();
        for (tenant, user) in [("acme", "20001"), ("bolt", "20002")] {
            let home = place.path().join(tenant);
            let mut install = std::process::Command::new("install");
            install.args(["-d", "-m", "700", "-o", user, "-g", user]).arg(&home);
            assert!(install.status().unwrap().success());
            homes.push(format!("tenant.{tenant}.identity.home={home:?}"));
        }
        let arguments = ["--set", "server.admin_listen=\"\"", "--set", &homes[0], "--set", &homes[1]];
        let gateway = Gateway::example(place, &example("hosted-shell.toml"), &arguments);
        Some(Self { gateway, keys })
    }

    fn token(&self, whose: &[&str]) -> String {
        format!("Bearer {}", make_token(&self.keys, whose))
    }

    async fn enter(&self, bearer: &str) -> Result<Client, Error> {
        let tls = client_trusting(&self.keys.join("ca.pem"));
        Client::tls(&self.gateway, tls, &[("authorization", bearer)]).await
    }

    async fn client(&self, whose: &[&str]) -> Client {
        self.enter(&self.token(whose)).await.unwrap()
    }
}

#[test]
fn in_the_hosted_shell_two_tenants_can_neither_see_nor_signal_nor_starve_each_other() {
    let Some(hosted) = Hosted::start() else { return };
    let lacks = hosted.gateway.banner.iter().find(|line| line.contains(" controller that may be written"));
    if !needs(lacks.is_none(), lacks.map_or("", String::as_str)) {
        return;
    }
    run(async {
        let mut ada = hosted.client(&["acme", "ada"]).await;
        let mut bob = hosted.client(&["bolt", "bob"]).await;
        let id = ada.start(&["id", "-u"]).await;
        assert_eq!(ada.output(&id, "stdout").await, b"20001\n");
        cannot_see_or_signal(&mut ada, &mut bob).await;
        // Bob takes all the connections, sessions, jobs, processes and memory he may have.
        let token = hosted.token(&["bolt", "bob"]);
        let mut held = Vec::new();
        let no_seat = loop {
            match hosted.enter(&token).await {
                Ok(client) => held.push(client),
                Err(error) => break error,
            }
        };
        assert!(matches!(no_seat, Error::Http(answer) if answer.status() == 429));
        takes_what_he_may(&mut bob).await;
        // Ada comes in, and her next job starts, forks and ends.
        let mut newcomer = hosted.client(&["acme", "ada"]).await;
        for client in [&mut ada, &mut newcomer] {
            let still = client.sh("echo $(echo still)").await;
            assert_eq!(client.output(&still, "stdout").await, b"still\n");
        }
    });
}

async fn cannot_see_or_signal(ada: &mut Client, bob: &mut Client) {
    let sleeper = ada.call("job.start", json!({"argv": ["sleep", "1000"]})).await.unwrap();
    let (job, pid) = (sleeper["job"].clone(), sleeper["pid"].to_string());
    // Not by asking the gateway, and not by asking the kernel.
    assert_eq!(bob.refused("job.get", json!({"job": job})).await, "not_found");
    assert_eq!(bob.refused("job.kill", json!({"job": job})).await, "not_found");
    let kill = bob.sh(&format!("kill -9 {pid} 2>/dev/null; echo $?")).await;
    assert_ne!(bob.output(&kill, "stdout").await, b"0\n", "bob signalled ada's job");
    // However open she leaves it, he does not read what she writes, and she can write nowhere else.
    let script = "echo secret >~/note; chmod 711 ~; chmod 644 ~/note; \
        for place in /tmp /var/tmp /dev/shm /run/lock; do mktemp -p $place 2>/dev/null; done; echo ~/note";
    let note = ada.sh(script).await;
    let note = String::from_utf8(ada.output(&note, "stdout").await).unwrap();
    assert_eq!(note.lines().count(), 1, "{note}");
    let reads = bob.start(&["cat", note.trim()]).await;
    assert_eq!(bob.output(&reads, "stdout").await, b"", "bob reads what ada wrote");
    let own = ada.start(&["cat", note.trim()]).await;
    assert_eq!(ada.output(&own, "stdout").await, b"secret\n");
    assert_eq!(ada.call("job.get", json!({"job": job})).await.unwrap()["job"], job);
}

/// Forks until no more is allowed, and stays.
const STORM: &str = "sh -c 'while :; do sleep 1000 & done' 2>/dev/null; echo full; exec sleep 1000";

async fn takes_what_he_may(bob: &mut Client) {
    let mut sessions = 0;
    while let Ok(_session) = bob.call("session.open", json!({})).await {
        sessions += 1;
        assert!(sessions < 1000, "no end of sessions");
    }
    for _ in 0..2 {
        let hog = bob.start(&["tail", "-n", "1", "/dev/zero"]).await;
        assert_eq!(bob.event_of("job.closed", &hog).await["reason"], "memory_limit");
    }
    let mut storms = Vec::new();
    let refused = loop {
        match bob.call("job.start", json!({"argv": ["sh", "-c", STORM]})).await {
            Ok(started) => storms.push(started["job"].as_str().unwrap().to_owned()),
            Err(error) => break error,
        }
    };
    assert_eq!(refused["data"]["kind"], "limit_exceeded", "{refused}");
    assert!(storms.len() > 1, "{refused}");
    for storm in &storms {
        assert_eq!(bob.event_of("job.output", storm).await["data"], "full\n");
    }
}

#[test]
fn in_the_hosted_shell_no_token_makes_an_admin_and_a_tenant_without_a_table_gets_nothing() {
    let Some(hosted) = Hosted::start() else { return };
    run(async {
        let mut ada = hosted.client(&["acme", "ada"]).await;
        let job = ada.start(&["sleep", "1000"]).await;
        for group in ["admin", "tenant-admin"] {
            let mut eve = hosted.client(&["bolt", "eve", group]).await;
            assert_eq!(eve.refused("job.get", json!({"job": job})).await, "not_found", "{group}");
            assert_eq!(eve.refused("policy.reload", json!({})).await, "forbidden", "{group}");
        }
        let stranger = hosted.enter(&hosted.token(&["evil", "eve"])).await;
        let Err(Error::Http(answer)) = stranger else { panic!("a tenant of no table was let in") };
        assert_eq!(answer.status(), 429);
    });
}

#[test]
fn read_only_operators_look_and_do_not_touch() {
    let gateway = Gateway::example(TempDir::new().unwrap(), &example("read-only-ops.toml"), &[]);
    run(async {
        let mut client = with_token(&gateway, "look").await;
        let look = client.start(&["cat", "/proc/uptime"]).await;
        assert!(!client.output(&look, "stdout").await.is_empty());
        for touch in [
            &["rm", "-f", "/tmp/x"][..],
            &["sh", "-c", "id"],
            &["touch", "/tmp/x"],
            &["find", "/", "-delete"],
            &["systemctl", "stop", "x"],
        ] {
            assert_eq!(
                client.refused("job.start", json!({"argv": touch})).await,
                "policy_denied",
                "{touch:?}"
            );
        }
    });
}

#[test]
fn an_agent_runs_the_programs_of_its_list_within_tight_limits() {
    let gateway = Gateway::example(TempDir::new().unwrap(), &example("agent-sandbox.toml"), &[]);
    run(async {
        let mut client = with_token(&gateway, "agent").await;
        let echo = client.start(&["echo", "hello"]).await;
        assert_eq!(client.output(&echo, "stdout").await, b"hello\n");
        for other in [&["sh", "-c", "echo"][..], &["python3"], &["env", "cat"], &["curl", "x"]] {
            assert_eq!(
                client.refused("job.start", json!({"argv": other})).await,
                "policy_denied",
                "{other:?}"
            );
        }
        // What it may look at is named, and how much memory it may take.
        let note = gateway.directory.path().join("note");
        std::fs::write(&note, "secret").unwrap();
        let outside = client.start(&["cat", note.to_str().unwrap()]).await;
        assert_eq!(client.output(&outside, "stdout").await, b"");
        let inside = client.start(&["head", "-n", "1", "/etc/passwd"]).await;
        assert!(!client.output(&inside, "stdout").await.is_empty());
        let hog = client.start(&["tail", "-n", "1", "/dev/zero"]).await;
        let closed = client.event_of("job.closed", &hog).await;
        assert!(closed["reason"] == "memory_limit" || closed["reason"] == "exited", "{closed}");
        let mut kinds = Vec::new();
        for _ in 0..6 {
            let started = client.call("job.start", json!({"argv": ["cat"], "stdin": "pipe"})).await;
            kinds.extend(started.err().map(|error| error["data"]["kind"].clone()));
        }
        assert!(kinds.contains(&json!("limit_exceeded")), "{kinds:?}");
    });
    drop(gateway);
}

/// Asked, never run: where the answer is wrong, these change the clock and files of this host.
#[test]
fn an_agents_programs_are_given_no_argument_that_changes_anything() {
    let place = tempfile::tempdir().unwrap();
    let asks = |argv: &[&str]| {
        let mut command = Gateway::command(&place);
        command.args(["policy", "explain", "--tenant", "agents", "--config"]);
        let output = command.arg(example("agent-sandbox.toml")).arg("--").args(argv).output().unwrap();
        String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned()
    };
    for argv in [
        &["uniq", "in", "out"][..],
        &["date", "-s", "2030-01-01"],
        &["date", "--set=2030-01-01"],
        &["date", "010100002030"],
        &["git", "log"],
        &["ps"],
    ] {
        assert!(asks(argv).starts_with("deny"), "{argv:?}: {}", asks(argv));
    }
    for argv in [&["uniq", "-c", "in"][..], &["date", "+%s"], &["tail", "-n", "1", "in"], &["ls", "-l"]] {
        assert!(asks(argv).starts_with("allow"), "{argv:?}: {}", asks(argv));
    }
}

#[test]
fn the_systemd_unit_says_what_the_gateway_relies_on() {
    let path = example("../execgate.service");
    let unit = std::fs::read_to_string(&path).unwrap();
    for line in [
        "Type=notify",
        "Delegate=yes",
        "KillMode=mixed",
        "OOMPolicy=continue",
        "WatchdogSec=10s",
        "TimeoutStopSec=90s",
    ] {
        assert!(unit.lines().any(|l| l == line), "{line} is missing");
    }
    let verified =
        std::process::Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output();
    match verified {
        Err(_) => {
            needs(false, "there is no systemd-analyze to verify the unit with");
        }
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let faults: Vec<_> =
                said.lines().filter(|l| l.contains("execgate.service:") && l.contains("Unknown")).collect();
            assert!(faults.is_empty(), "{said}");
        }
    }
}

#[test]
fn readiness_and_leave_are_told_to_the_service_manager() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let gateway = Gateway::with_environment("", &[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    let mut said = String::new();
    let mut hear = |word: &str| {
        eventually(crate::support::PATIENCE, word, || {
            let mut buffer = [0; 512];
            while let Ok(n) = socket.recv(&mut buffer) {
                said.push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
            said.contains(word)
        });
    };
    hear("READY=1");
    hear("WATCHDOG=1");
    gateway.signal(nix::sys::signal::Signal::SIGHUP);
    hear("RELOADING=1");
    gateway.signal(nix::sys::signal::Signal::SIGTERM);
    hear("STOPPING=1");
}
