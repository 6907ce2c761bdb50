//! What is promised in numbers, and the long run. Ignored by default:
//! `cargo test --test it -- --ignored --nocapture measurements::`, and for the soak `EXECGATE_SOAK_SECONDS=1800`.

#![allow(clippy::disallowed_methods, reason = "the length of the soak comes from the environment")]

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{Client, Gateway, PATIENCE, eventually, proc, run};

/// No policy but one that allows all, so that the limits of the core are what is met.
const OPEN: &str = "[policy.commands]\nmodule = \"builtin:command-rules\"\nsettings = { preset = \"unrestricted\" }\n\
    [policy.quota]\nmodule = \"builtin:session-quota\"\nsettings = { sessions = { subject = 100000 }, jobs = { subject = 100000 } }\n";

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort();
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

#[test]
#[ignore = "a measurement"]
fn m2_the_session_beyond_the_limit_is_refused_in_a_millisecond_and_nothing_is_spawned() {
    let limits = "[limits]\nsessions = 1000\nrequests_per_second = 100000\n";
    let gateway = Gateway::with(&format!("{OPEN}{limits}"));
    run(async {
        let mut client = Client::connect(&gateway).await;
        for _ in 0..1000 {
            client.call("session.open", json!({})).await.unwrap();
        }
        let (warden, before) = (gateway.warden, proc::children(gateway.warden).len());
        let mut times = Vec::new();
        for _ in 0..500 {
            let since = Instant::now();
            let error = client.call("session.open", json!({})).await.unwrap_err();
            times.push(since.elapsed());
            assert_eq!(
                (&error["data"]["kind"], &error["data"]["value"]),
                (&json!("limit_exceeded"), &json!(1000))
            );
        }
        assert_eq!(proc::children(warden).len(), before, "something was spawned");
        let (p50, p99) = (percentile(&mut times, 50), percentile(&mut times, 99));
        eprintln!("M2: the 1 001st session is refused, round trip p50 {p50:?}, p99 {p99:?} of 500");
        assert!(p50 <= Duration::from_millis(1), "{p50:?}");
    });
}

#[test]
#[ignore = "a measurement"]
fn an_idle_gateway_exits_within_100_ms_of_sigterm() {
    let mut times: Vec<_> = (0..20)
        .map(|_| {
            let mut gateway = Gateway::start();
            run(async { drop(Client::connect(&gateway).await.call("server.info", json!({})).await) });
            let since = Instant::now();
            gateway.signal(Signal::SIGTERM);
            assert_eq!(gateway.ended(PATIENCE).code(), Some(0));
            since.elapsed()
        })
        .collect();
    let (p50, most) = (percentile(&mut times, 50), percentile(&mut times, 100));
    eprintln!("SIGTERM without jobs to exit 0: p50 {p50:?}, most {most:?} of 20");
    assert!(p50 <= Duration::from_millis(100), "{p50:?}");
}

/// Numbers that nobody can predict and everybody can repeat (Knuth's 64-bit linear congruence).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// One act of a client that means no good, or none at all.
async fn act(gateway: &Gateway, dice: &mut Dice) {
    match dice.roll(12) {
        0 => {
            // Each from a source of its own, or the penalties would end the soak.
            let from = format!("198.51.{}.{}", dice.roll(256), dice.roll(256));
            drop(
                Client::with(gateway, &[("authorization", "Bearer wrong"), ("x-forwarded-for", &from)]).await,
            );
        }
        1 => {
            // A peer that says half of something and goes.
            let socket = TcpStream::connect(gateway.address()).await.unwrap();
            drop(socket.try_write(b"GET /v1/ws HTTP/1.1\r\nHost: loc"));
        }
        2 if dice.roll(20) == 0 => gateway.signal(Signal::SIGHUP),
        3 => drop(crate::transport::get(gateway, "/readyz").await),
        _ => {
            // Connections may be refused while places are short.
            let Ok(mut client) = Client::with(gateway, &[]).await else { return };
            let script = [
                "echo hello",
                "yes | head -c 1000000",
                "exec sleep 1000",
                "setsid sleep 1000 & sleep 1000 &",
                "trap '' TERM; sleep 1000",
                "exit 3",
                "cat /no/such/file",
                "for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; wait",
            ][dice.roll(8) as usize];
            let mut stdin = "null";
            if dice.roll(4) == 0 {
                stdin = "pipe";
            }
            let asked = json!({"argv": ["sh", "-c", script], "stdin": stdin, "labels": {"soak": "x"}});
            let Ok(started) = client.call("job.start", asked).await else { return };
            let job = started["job"].clone();
            match dice.roll(6) {
                0 => drop(client.call("job.kill", json!({"job": job})).await),
                1 => drop(client.call("job.pause", json!({"job": job})).await),
                2 => drop(client.call("job.stop", json!({"job": job, "grace_ms": 50})).await),
                3 => drop(timeout(Duration::from_millis(50), client.next()).await),
                4 => client.raw("[[[[").await,
                _ => {}
            }
        }
    }
}

/// Resident memory when no reload is under way, which takes ten MiB and more: this one waited for all before it.
async fn resident(gateway: &Gateway) -> u64 {
    Client::connect(gateway).await.call("policy.reload", json!({})).await.unwrap();
    proc::rss(gateway.pid())
}

#[test]
#[ignore = "half an hour, or EXECGATE_SOAK_SECONDS"]
fn soak_with_random_faults_returns_everything_to_where_it_was() {
    let seconds =
        std::env::var("EXECGATE_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1800);
    let gateway = Gateway::with(&format!(
        "{OPEN}[server]\ntrusted_proxies = [\"127.0.0.1\"]\n[limits]\nkeep_ended = \"1s\"\nended_jobs = 64\nended_jobs_per_session = 64\n"
    ));
    let pid = gateway.pid();
    run(async {
        let mut dice = Dice(u64::from(std::process::id()));
        eprintln!("soak: seed {}", dice.0);
        // What the first acts make for good — pools, arenas, tables — is not a leak; some eight reloads under load are among them.
        for _ in 0..2000 {
            act(&gateway, &mut dice).await;
        }
        let settled = || gateway.survivors().is_empty();
        eventually(PATIENCE, "the warm-up is over", settled);
        let start =
            (proc::descriptors(pid), proc::groups_of(&gateway.banner).len(), resident(&gateway).await);
        let (since, mut acts, mut next) = (Instant::now(), 0_u64, Duration::ZERO);
        while since.elapsed() < Duration::from_secs(seconds) {
            act(&gateway, &mut dice).await;
            acts += 1;
            if since.elapsed() >= next {
                next += Duration::from_secs((seconds / 20).max(1));
                let (rss, fds) = (proc::rss(pid) >> 10, proc::descriptors(pid));
                eprintln!(
                    "soak: {:>5} s {acts:>7} acts {rss:>8} KiB {fds:>4} fds",
                    since.elapsed().as_secs()
                );
            }
        }
        eventually(PATIENCE, "no process is left", settled);
        eventually(PATIENCE, "descriptors are back", || proc::descriptors(pid) <= start.0 + 2);
        eventually(Duration::from_secs(120), "groups are back", || {
            proc::groups_of(&gateway.banner).len() <= start.1 + 2
        });
        let rss = resident(&gateway).await;
        eprintln!(
            "soak: {acts} acts; rss {} -> {} KiB, descriptors {} -> {}",
            start.2 >> 10,
            rss >> 10,
            start.0,
            proc::descriptors(pid)
        );
        // Kept on purpose, within a bound: sources that showed a wrong token, by reckoning 2 MiB of them after half an hour.
        assert!(rss < start.2 + (8 << 20), "memory grew from {} to {rss}", start.2);
        assert_eq!(proc::zombies(pid), 0);
        let info: Value = Client::connect(&gateway).await.call("server.info", json!({})).await.unwrap();
        assert!(info["epoch"].is_string(), "it never restarted");
        assert!(!gateway.log().contains("panicked"), "something panicked");
    });
}
