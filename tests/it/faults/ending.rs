//! What must be gone, and when.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{Client, Gateway, PATIENCE, eventually, proc, run};

/// A job that has let go of everything a process group holds on to.
const ESCAPED: &str = "setsid sh -c 'trap \"\" HUP TERM; sleep 1000' & setsid setsid sleep 1000 & sleep 1000";

#[test]
fn orphaned_processes_when_a_socket_drops() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        client.sh(ESCAPED).await;
        eventually(PATIENCE, "the whole tree runs", || gateway.survivors().len() >= 4);
        drop(client);
        let took = eventually(PATIENCE, "nothing is left", || gateway.survivors().is_empty());
        eprintln!("socket dropped -> tree of {} gone: {took:?}", 4);
    });
}

#[test]
fn killing_the_gateway_leaves_nothing_after_a_second() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        for job in 0..20 {
            client.sh(if job % 2 == 0 { "setsid sleep 1000 & wait" } else { "sleep 1000" }).await;
        }
        eventually(PATIENCE, "all run", || gateway.survivors().len() >= 20);
    });
    gateway.signal(Signal::SIGKILL);
    let took = eventually(Duration::from_secs(1), "nothing is left", || gateway.survivors().is_empty());
    eprintln!("gateway killed -> 20 trees gone: {took:?}");
}

#[test]
fn killing_the_warden_ends_the_gateway_and_every_job() {
    let mut gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        // No more than a leader: in best effort, that is what is promised.
        client.sh("exec sleep 1000").await;
    });
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(gateway.warden), Signal::SIGKILL).unwrap();
    assert!(!gateway.ended(PATIENCE).success());
    eventually(PATIENCE, "nothing is left", || gateway.survivors().is_empty());
}

#[test]
fn children_leaked_when_a_start_fails_half_way() {
    let gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        client.start(&["true"]).await;
        let descriptors = (proc::descriptors(gateway.pid()), proc::descriptors(gateway.warden));
        for _ in 0..50 {
            let failures = [
                json!({"argv": ["no-such-program"]}),
                json!({"argv": ["/etc/passwd"]}),
                json!({"argv": ["/"]}),
                json!({"argv": ["true"], "cwd": "/no/such/directory"}),
                json!({"argv": ["mount"]}),
            ];
            for params in failures {
                client.call("job.start", params).await.unwrap_err();
            }
        }
        eventually(PATIENCE, "no process is left", || gateway.survivors().is_empty());
        eventually(PATIENCE, "no descriptor is left", || {
            proc::descriptors(gateway.pid()) <= descriptors.0
                && proc::descriptors(gateway.warden) <= descriptors.1
        });
        eventually(PATIENCE, "no zombie is left", || proc::zombies(gateway.warden) == 0);
        eventually(PATIENCE, "no group is left", || proc::groups_of(&gateway.banner).is_empty());
        let jobs = client.call("job.list", json!({})).await.unwrap();
        assert_eq!(jobs["jobs"].as_array().unwrap().len(), 1, "only the one that ran");
    });
}

#[test]
fn no_graceful_shutdown() {
    let mut gateway = Gateway::with("[drain]\ngrace = \"2s\"\nkill_grace = \"3s\"\n");
    run(async {
        let mut client = Client::connect(&gateway).await;
        let polite =
            client.sh("trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done").await;
        let stubborn = client.sh("trap '' TERM; echo ready; while :; do sleep 0.05; done").await;
        for job in [&polite, &stubborn] {
            client.event_of("job.output", job).await;
        }
        gateway.signal(Signal::SIGTERM);
        client.event("server.draining").await;
        assert_eq!(client.refused("job.start", json!({"argv": ["true"]})).await, "draining");
        assert_eq!(client.event_of("job.exited", &polite).await["code"], 3);
        assert_eq!(client.event_of("job.exited", &stubborn).await["signal"], "SIGKILL");
        let closed = client.event_of("job.closed", &stubborn).await;
        assert_eq!((closed["reason"].as_str(), closed["survivors"].as_u64()), (Some("shutdown"), Some(0)));
        assert_eq!(client.close_code().await, Some(1012));
    });
    assert!(gateway.ended(PATIENCE).success());
    assert!(gateway.survivors().is_empty());
}

#[test]
fn an_idle_gateway_stops_at_once() {
    let mut gateway = Gateway::start();
    run(async {
        let mut client = Client::connect(&gateway).await;
        client.call("server.info", json!({})).await.unwrap();
        let since = Instant::now();
        gateway.signal(Signal::SIGTERM);
        assert_eq!(client.close_code().await, Some(1012));
        assert!(gateway.ended(PATIENCE).success());
        eprintln!("SIGTERM, one idle client -> gone: {:?}", since.elapsed());
    });
}

#[test]
fn a_second_signal_kills_at_once() {
    let mut gateway = Gateway::with("[drain]\ngrace = \"10m\"\nkill_grace = \"10m\"\n");
    run(async {
        let mut client = Client::connect(&gateway).await;
        client.sh("trap '' TERM; sleep 1000").await;
        gateway.signal(Signal::SIGTERM);
        client.event("server.draining").await;
        gateway.signal(Signal::SIGTERM);
        assert_eq!(client.close_code().await, Some(1012));
    });
    assert!(gateway.ended(PATIENCE).success());
}

#[test]
fn unbounded_read_buffers() {
    const BOUND: u64 = 100 * 1024 * 1024;
    let gateway = Gateway::start();
    run(async {
        let before = proc::rss(gateway.pid());
        let mut idle = Vec::new();
        for windowed in [false, true] {
            // Prints for ever to a client that reads the answer and nothing more.
            let mut client = Client::binary(&gateway).await;
            let mut params = json!({"argv": ["sh", "-c", "yes; true"]});
            if windowed {
                params["window"] = json!(65536);
            }
            client.call("job.start", params).await.unwrap();
            idle.push(client);
        }
        let mut slow = Client::binary(&gateway).await;
        let started =
            slow.call("job.start", json!({"argv": ["yes"], "output": {"overflow": "ring"}})).await.unwrap();
        for _ in 0..2000 {
            slow.find("output", |v| v["frame"]["kind"] == 1).await;
        }
        let after = proc::rss(gateway.pid());
        eprintln!(
            "RSS {} KiB -> {} KiB with two stalled readers and a slow one of endless output",
            before / 1024,
            after / 1024
        );
        assert!(after < BOUND, "{after} bytes");
        let job = started["job"].as_str().unwrap().to_owned();
        slow.call("job.kill", json!({"job": job})).await.unwrap();
    });
}

#[test]
fn sends_to_a_closed_socket() {
    let gateway = Gateway::start();
    run(async {
        for _ in 0..20 {
            let mut client = Client::binary(&gateway).await;
            client.call("job.start", json!({"argv": ["yes"]})).await.unwrap();
            drop(client);
        }
        eventually(PATIENCE, "every job is gone", || gateway.survivors().is_empty());
        let mut client = Client::connect(&gateway).await;
        let job = client.start(&["echo", "well"]).await;
        assert_eq!(client.output(&job, "stdout").await, b"well\n");
    });
    assert!(!gateway.log().contains("panic"), "{}", gateway.log());
}
