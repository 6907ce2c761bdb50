//! What must be refused, and what must be seen to be broken.

use std::io::Write as _;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{Client, Gateway, PATIENCE, eventually, needs, run, until};
use crate::transport::get;

#[test]
fn no_session_limit() {
    let gateway = Gateway::with("[limits]\nsessions = 3\n");
    run(async {
        let mut client = Client::connect(&gateway).await;
        let mut sessions = Vec::new();
        for _ in 0..3 {
            let opened = client.call("session.open", json!({})).await.unwrap();
            sessions.push(opened["session"].as_str().unwrap().to_owned());
        }
        let error = client.call("session.open", json!({})).await.unwrap_err();
        assert_eq!(
            (error["data"]["kind"].as_str(), error["data"]["value"].as_u64()),
            (Some("limit_exceeded"), Some(3))
        );
        client.call("session.close", json!({"session": sessions[0]})).await.unwrap();
        client.call("session.open", json!({})).await.unwrap();
    });
}

#[test]
fn no_job_limit() {
    let gateway = Gateway::with("[limits]\njobs = 2\n");
    run(async {
        let mut client = Client::connect(&gateway).await;
        let job = client.start(&["sleep", "1000"]).await;
        client.start(&["sleep", "1000"]).await;
        assert_eq!(client.refused("job.start", json!({"argv": ["true"]})).await, "limit_exceeded");
        client.call("job.kill", json!({"job": job})).await.unwrap();
        client.start(&["true"]).await;
    });
}

/// A cgroup that allows no more groups below it makes every leaf fail: a fault of ours, not of the client.
fn break_spawning(gateway: &Gateway) -> Option<std::path::PathBuf> {
    let root = gateway.banner.iter().find_map(|line| line.split(" below ").nth(1));
    let switch = root.map(|root| std::path::Path::new(root).join("cgroup.max.descendants"));
    let broken = switch.filter(|switch| std::fs::write(switch, "0").is_ok());
    needs(broken.is_some(), "spawning is broken by a cgroup, and no cgroup2 is writable").then_some(broken?)
}

#[test]
fn failing_operations_retried_for_ever_no_circuit_breaker() {
    let config = "[breaker]\nrest = \"300ms\"\n";
    let gateway = Gateway::with(config);
    let Some(switch) = break_spawning(&gateway) else { return };
    run(async {
        let mut client = Client::connect(&gateway).await;
        let mut kinds = Vec::new();
        for _ in 0..8 {
            kinds.push(client.refused("job.start", json!({"argv": ["true"]})).await);
            // The probe's failures count for every tenant.
            get(&gateway, "/readyz").await;
        }
        assert!(kinds.contains(&"spawn_failed".to_owned()), "{kinds:?}");
        until("the breaker opens", async || {
            let ready = get(&gateway, "/readyz").await.1;
            ready.contains("spawn: open") || ready.contains("\"breakers\":{\"detail\":\"spawn")
        })
        .await;
        std::fs::write(&switch, "max").unwrap();
        until("it closes by a real success", async || {
            client.call("job.start", json!({"argv": ["true"]})).await.is_ok()
        })
        .await;
    });
}

#[test]
fn a_health_endpoint_that_does_not_check_that_processes_can_be_spawned() {
    let gateway = Gateway::start();
    run(async {
        let (status, body) = get(&gateway, "/readyz").await;
        assert_eq!(status, 200, "{body}");
        let Some(switch) = break_spawning(&gateway) else { return };
        let took = until("readyz fails", async || get(&gateway, "/readyz").await.0 == 503).await;
        eprintln!("spawning broken -> not ready: {took:?}");
        assert_eq!(get(&gateway, "/livez").await.0, 200);
        std::fs::write(&switch, "max").unwrap();
        let took = until("readyz recovers by itself", async || get(&gateway, "/readyz").await.0 == 200).await;
        eprintln!("spawning mended -> ready: {took:?}");
    });
}

/// Goes on when this is dropped.
struct Stopped(nix::unistd::Pid);

impl Stopped {
    fn stop(pid: i32) -> Self {
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, Signal::SIGSTOP).unwrap();
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        nix::sys::signal::kill(self.0, Signal::SIGCONT).unwrap();
    }
}

#[test]
fn a_probe_counts_though_everybody_who_asked_for_it_has_left() {
    let gateway = Gateway::with("[breaker]\nfailures = 1\nrest = \"1m\"\n");
    // No probe comes to an end before its time is up.
    let stopped = Stopped::stop(gateway.warden);
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {}\r\n\r\n", gateway.address());
    eventually(PATIENCE, "the breaker opens", || {
        let mut peer = std::net::TcpStream::connect(gateway.address()).unwrap();
        peer.write_all(request.as_bytes()).unwrap();
        drop(peer);
        run(get(&gateway, "/metrics")).1.contains("execgate_breaker_open{breaker=\"spawn\"} 1")
    });
    drop(stopped);
}
