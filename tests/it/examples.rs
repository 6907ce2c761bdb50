//! The examples work as they stand, with the keys that the documented command makes.

#![allow(clippy::disallowed_methods, reason = "tests run the documented commands")]

use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;

use crate::support::pki::{client_trusting, make_keys, make_token};
use crate::support::{Client, Gateway, eventually, run};

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
        if name == "hosted-shell.toml" && !nix::unistd::geteuid().is_root() {
            eprintln!(
                "NOTE: NOT SHOWN HERE: hosted-shell.toml runs jobs as other users, and that needs root"
            );
            continue;
        }
        let mut command = Gateway::command(&place);
        command.current_dir(place.path()).args(["config", "check", "--config"]).arg(example(name));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn in_the_hosted_shell_two_tenants_can_neither_see_nor_signal_nor_starve_each_other() {
    if !nix::unistd::geteuid().is_root() {
        return eprintln!("NOTE: NOT SHOWN HERE: jobs run as other users, and that needs root");
    }
    let place = TempDir::new().unwrap();
    let keys = place.path().join("config/examples/keys");
    make_keys(&keys);
    let gateway =
        Gateway::example(place, &example("hosted-shell.toml"), &["--set", "server.admin_listen=\"\""]);
    if !gateway.is_exact() {
        return;
    }
    run(async {
        let connect = |tenant, subject| {
            let bearer = format!("Bearer {}", make_token(&keys, tenant, subject));
            let (gateway, tls) = (&gateway, client_trusting(&keys.join("ca.pem")));
            async move { Client::tls(gateway, tls, &[("authorization", &bearer)]).await.unwrap() }
        };
        let mut ada = connect("acme", "ada").await;
        let mut bob = connect("bolt", "bob").await;
        let id = ada.start(&["id", "-u"]).await;
        assert_eq!(ada.output(&id, "stdout").await, b"20001\n");
        let sleeper = ada.call("job.start", json!({"argv": ["sleep", "1000"]})).await.unwrap();
        let (job, pid) = (sleeper["job"].clone(), sleeper["pid"].to_string());
        // Not by asking the gateway, and not by asking the kernel.
        assert_eq!(bob.refused("job.get", json!({"job": job})).await, "not_found");
        assert_eq!(bob.refused("job.kill", json!({"job": job})).await, "not_found");
        let kill = bob.sh(&format!("kill -9 {pid} 2>/dev/null; echo $?")).await;
        assert_ne!(bob.output(&kill, "stdout").await, b"0\n", "bob signalled ada's job");
        // Bob takes all he may have; ada's next job still starts.
        let mut refused = None;
        for _ in 0..30 {
            if let Err(error) = bob.call("job.start", json!({"argv": ["sleep", "1000"]})).await {
                refused = Some(error["data"]["kind"].clone());
                break;
            }
        }
        assert_eq!(refused, Some(json!("limit_exceeded")));
        let still = ada.start(&["echo", "still"]).await;
        assert_eq!(ada.output(&still, "stdout").await, b"still\n");
        assert_eq!(ada.call("job.get", json!({"job": job})).await.unwrap()["job"], job);
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
        let mut kinds = Vec::new();
        for _ in 0..6 {
            let started = client.call("job.start", json!({"argv": ["cat"], "stdin": "pipe"})).await;
            kinds.extend(started.err().map(|error| error["data"]["kind"].clone()));
        }
        assert!(kinds.contains(&json!("limit_exceeded")), "{kinds:?}");
    });
    drop(gateway);
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
        "TimeoutStopSec=60s",
    ] {
        assert!(unit.lines().any(|l| l == line), "{line} is missing");
    }
    let verified =
        std::process::Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output();
    match verified {
        Err(_) => eprintln!("NOTE: NOT SHOWN HERE: no systemd-analyze to verify the unit with"),
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
