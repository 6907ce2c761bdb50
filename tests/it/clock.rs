//! The wall clock jumps a day ahead or back in mid-run: what lasts for a time neither ends early nor late, and service goes on.
//!
//! The machine's clock is never set. A shim before the C library shifts what the gateway alone is told; the warden and jobs
//! get none of its environment. Which rooms may name the wall clock is kept by `layers`.

#![expect(clippy::disallowed_methods, reason = "tests start the compiler of the shim")]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::authentication::{answer, refused, ticket, token_table, upgrade, with_token};
use crate::decision_log::lines;
use crate::support::pki::Pki;
use crate::support::{Client, Gateway, PATIENCE, eventually, run, until};

/// Seconds ahead and back.
const JUMPS: [i64; 2] = [86_400, -86_400];
/// What ends in mid-test by the time that passes; a jump ahead must not end it at once, one back not put it off.
const SOON: Duration = Duration::from_secs(2);
/// What ends long after any test; a jump ahead must not end it.
const LATE: Duration = Duration::from_secs(3600);

/// A wall clock of our own. Kept for as long as its gateway runs.
struct Clock {
    directory: tempfile::TempDir,
    shift: File,
}

impl Clock {
    fn make() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/clock.c");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-o"])
            .arg(directory.path().join("clock.so"))
            .arg(source)
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let shift = File::create_new(directory.path().join("shift")).unwrap();
        let clock = Self { directory, shift };
        clock.jump(0);
        clock
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A gateway that goes by this clock.
    fn gateway(&self, config: &str) -> Gateway {
        let (shim, shift) = (self.path("clock.so"), self.path("shift"));
        let shown = |path: &Path| path.to_str().unwrap().to_owned();
        let (shim, shift) = (shown(&shim), shown(&shift));
        Gateway::with_environment(config, &[("LD_PRELOAD", shim.as_str()), ("SHIFTED_CLOCK", shift.as_str())])
    }

    /// So many seconds off the true time, from now on.
    fn jump(&self, seconds: i64) {
        self.shift.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }
}

/// Seconds by which a time of the gateway is off the true time.
fn off(unix_ms: &Value) -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    (unix_ms.as_i64().unwrap() - i64::try_from(now).unwrap()) / 1000
}

/// Whether these are about as many seconds.
fn alike(seconds: i64, wanted: i64) -> bool {
    (seconds - wanted).abs() < 600
}

/// Starts a job that would run for ever but for this limit.
async fn limited(client: &mut Client, limit: Duration) -> String {
    let start = json!({"argv": ["sleep", "1000"], "timeout_ms": limit.as_millis() as u64});
    client.call("job.start", start).await.unwrap()["job"].as_str().unwrap().to_owned()
}

/// A session that outlives its connection for so long, with a job; both are left alone. The session and the job's process.
async fn abandoned(gateway: &Gateway, ttl: Duration) -> (Value, i32) {
    let mut client = with_token(gateway, "ada").await.unwrap();
    let open = json!({"on_disconnect": "detach", "detach_ttl_ms": ttl.as_millis() as u64});
    let session = client.call("session.open", open).await.unwrap()["session"].clone();
    let start = json!({"argv": ["sleep", "1000"], "session": session});
    let started = client.call("job.start", start).await.unwrap();
    (session, started["pid"].as_i64().unwrap() as i32)
}

#[test]
fn jobs_sessions_and_what_is_kept_of_them_end_by_the_time_that_passes_when_the_clock_jumps_a_day() {
    for jump in JUMPS {
        let clock = Clock::make();
        let log = clock.path("decisions");
        let terms = format!(
            "[policy.commands]\nmodule = \"builtin:command-rules\"\nsettings = {{ preset = \"unrestricted\" }}\n\
             [policy.quota]\nmodule = \"builtin:session-quota\"\n\
             settings = {{ idle_ms = {}, groups = [{{ group = \"brief\", idle_ms = {} }}] }}\n\
             [limits]\nkeep_ended = \"{}s\"\n[audit]\npath = {log:?}\n[drain]\ngrace = \"0s\"\n",
            LATE.as_millis(),
            SOON.as_millis(),
            SOON.as_secs(),
        );
        let tokens = token_table("ada", "acme", &[]) + &token_table("bob", "acme", &["brief"]);
        let mut gateway = clock.gateway(&(tokens + &terms));
        run(async {
            let mut ada = with_token(&gateway, "ada").await.unwrap();
            let mut bob = with_token(&gateway, "bob").await.unwrap();
            let first = ada.call("job.start", json!({"argv": ["true"]})).await.unwrap();
            assert!(alike(off(&first["started_at"]), 0), "{first}");
            let late = limited(&mut ada, LATE).await;
            let (kept, of_kept) = abandoned(&gateway, LATE).await;

            let since = Instant::now();
            let (_, of_lost) = abandoned(&gateway, SOON).await;
            let soon = limited(&mut ada, SOON).await;
            let gone = ada.start(&["true"]).await;
            ada.event_of("job.closed", &gone).await;
            bob.call("session.open", json!({})).await.unwrap();
            clock.jump(jump);

            let after = ada.call("job.start", json!({"argv": ["true"]})).await.unwrap();
            assert!(alike(off(&after["started_at"]), jump), "the shim shifts nothing: {after}");
            let known = ada.call("job.get", json!({"job": gone})).await;
            assert!(known.is_ok() || since.elapsed() >= SOON, "forgotten early: {known:?}");
            let closed = ada.event_of("job.closed", &soon).await;
            assert_eq!(closed["reason"], "timeout", "{closed}");
            assert!(since.elapsed() >= SOON, "a time limit ended early, after {:?}", since.elapsed());
            assert_eq!(bob.event("session.closed").await["reason"], "idle");
            assert!(since.elapsed() >= SOON, "an idle session ended early, after {:?}", since.elapsed());
            eventually(PATIENCE, "the detached session ends", || !gateway.survivors().contains(&of_lost));
            assert!(since.elapsed() >= SOON, "a detached session ended early, after {:?}", since.elapsed());
            // What ends looks after what has ended before it.
            let next = ada.start(&["true"]).await;
            ada.event_of("job.closed", &next).await;
            assert_eq!(ada.refused("job.get", json!({"job": gone})).await, "not_found", "kept too long");

            assert_eq!(ada.call("job.get", json!({"job": late})).await.unwrap()["state"], "running");
            assert!(gateway.survivors().contains(&of_kept), "a detached session ended early");
            ada.call("session.attach", json!({"session": kept})).await.unwrap();
        });
        gateway.signal(Signal::SIGTERM);
        assert!(gateway.ended(PATIENCE).success());
        let verified = gateway.cli(&["audit", "verify", log.to_str().unwrap()]).output().unwrap();
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
        let times: Vec<Value> = lines(&log).iter().map(|line| line["time_ms"].clone()).collect();
        assert!(alike(off(&times[0]), 0) && alike(off(times.last().unwrap()), jump), "{times:?}");
    }
}

#[test]
fn a_peer_that_answers_lives_and_a_silent_one_is_gone_in_time_when_the_clock_jumps_a_day() {
    const DEAD: Duration = Duration::from_secs(2);
    for jump in JUMPS {
        let clock = Clock::make();
        let gateway = clock.gateway("[limits]\nping = \"200ms\"\ndead_after = \"2s\"\n");
        run(async {
            let mut talker = Client::connect(&gateway).await;
            let mut silent = Client::connect(&gateway).await;
            silent.start(&["sleep", "1000"]).await;
            let since = Instant::now();
            clock.jump(jump);
            let spoken = talker.start(&["sh", "-c", "sleep 3; echo well"]).await;
            assert_eq!(talker.output(&spoken, "stdout").await, b"well\n", "who answers was cut off");
            eventually(PATIENCE, "the silent one is gone", || gateway.survivors().is_empty());
            assert!(since.elapsed() >= DEAD, "cut off early, after {:?}", since.elapsed());
            talker.call("server.info", json!({})).await.unwrap();
        });
    }
}

#[test]
fn penalties_tickets_and_rates_go_by_the_time_that_passes_when_the_clock_jumps_a_day() {
    for jump in JUMPS {
        let clock = Clock::make();
        let gateway = clock.gateway("[limits]\nrequests_per_second = 1\n");
        run(async {
            let mut client = Client::connect(&gateway).await;
            let made = ticket(&gateway).await;
            let query = format!("ticket={}", made["ticket"].as_str().unwrap());
            clock.jump(jump);
            assert_eq!(upgrade(&gateway, &query, &gateway.url).await, 101, "the ticket is good for 30 s");

            let rate = async |client: &mut Client| client.call("server.info", json!({})).await;
            let error = loop {
                if let Err(error) = rate(&mut client).await {
                    break error;
                }
            };
            assert!(error["data"]["retry_after_ms"].as_u64().unwrap() <= 1000, "{error}");
            clock.jump(0);
            until("the rate comes back", async || rate(&mut client).await.is_ok()).await;

            let wrong = "Authorization: Bearer wrong\r\n";
            for _ in 0..10 {
                assert!(answer(&gateway, "/v1/ws", wrong).await.starts_with("HTTP/1.1 401"));
            }
            let since = Instant::now();
            assert!(answer(&gateway, "/v1/ws", wrong).await.starts_with("HTTP/1.1 401"));
            clock.jump(jump);
            let second = Duration::from_secs(1);
            until("the penalty of a second ends", async || {
                !answer(&gateway, "/v1/ws", wrong).await.starts_with("HTTP/1.1 429")
            })
            .await;
            assert!(since.elapsed() >= second, "the penalty ended early, after {:?}", since.elapsed());
        });
    }
}

#[test]
fn a_signed_token_is_admitted_by_the_clock_and_its_connection_ends_by_the_time_that_passes() {
    let pki = Pki::make();
    for jump in JUMPS {
        let clock = Clock::make();
        let gateway = clock.gateway(&pki.jwt());
        run(async {
            let token = |good_for: u64| pki.token("acme", "ada", Duration::from_secs(good_for), json!({}));
            let (hour, moment) = (token(3600), token(4));
            let since = Instant::now();
            let mut long = with_token(&gateway, &hour).await.unwrap();
            let mut brief = with_token(&gateway, &moment).await.unwrap();
            clock.jump(jump);
            // A day on, it has expired; a day back, it is not good yet.
            assert_eq!(refused(with_token(&gateway, &hour).await), 401);
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
            let then = now.saturating_add_signed(jump);
            let claims = json!({"nbf": then - 60, "exp": then + 60});
            let fresh = pki.token("acme", "ada", Duration::ZERO, claims);
            with_token(&gateway, &fresh).await.expect("a token for that day");
            assert_eq!(brief.close_code().await, Some(4003));
            // Its expiry is a whole second.
            assert!(since.elapsed() >= Duration::from_secs(3), "ended early, after {:?}", since.elapsed());
            long.call("server.info", json!({})).await.expect("a connection that was admitted for an hour");
        });
    }
}

#[test]
fn the_graces_of_a_shutdown_go_by_the_time_that_passes_when_the_clock_jumps_a_day() {
    for jump in JUMPS {
        let clock = Clock::make();
        let mut gateway = clock.gateway("[drain]\ngrace = \"1s\"\nkill_grace = \"1s\"\n");
        let since = run(async {
            let mut client = Client::connect(&gateway).await;
            let job = client.sh("trap '' TERM; echo ready; while :; do sleep 0.05; done").await;
            client.event_of("job.output", &job).await;
            let since = Instant::now();
            gateway.signal(Signal::SIGTERM);
            client.event("server.draining").await;
            clock.jump(jump);
            assert_eq!(client.event_of("job.closed", &job).await["reason"], "shutdown");
            assert!(since.elapsed() >= Duration::from_secs(2), "killed early, after {:?}", since.elapsed());
            since
        });
        assert!(gateway.ended(PATIENCE).success());
        assert!(since.elapsed() < PATIENCE);
    }
}
