//! More than there is room for: typed, told when to come back, and no tenant at the cost of another.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::authentication::{refused, token_table, with_token};
use crate::support::http::Exchange;
use crate::support::raw::Raw;
use crate::support::{Client, Gateway, PATIENCE, eventually, needs, run, tenants, until};
use crate::transport::speak;

/// No policy in the way, so that the ceilings of the core are what is met.
const OPEN: &str = "[policy.commands]\nmodule = \"builtin:command-rules\"\nsettings = { preset = \"unrestricted\" }\n\
    [policy.quota]\nmodule = \"builtin:session-quota\"\nsettings = { sessions = { subject = 1000 }, jobs = { subject = 1000 } }\n";

/// The error within a typed refusal by HTTP, which must say when to come back.
fn typed(answer: &str, status: u16) -> Value {
    let (head, body) = answer.split_once("\r\n\r\n").or_else(|| answer.split_once("\n\n")).unwrap();
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with(&format!("http/1.1 {status}")), "{answer}");
    assert!(head.contains("retry-after: "), "{answer}");
    let body: Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}"));
    body["error"]["data"].clone()
}

#[test]
fn a_server_full_of_connections_answers_503_with_retry_after() {
    let gateway = Gateway::with("[limits]\nconnections = 2\n");
    run(async {
        let first = Client::connect(&gateway).await;
        let _second = Client::connect(&gateway).await;
        let authorized = format!("Authorization: Bearer {}\r\n", gateway.token());
        for request in [
            format!("GET /v1/ws HTTP/1.1\r\nHost: localhost\r\n{authorized}\r\n"),
            format!(
                "POST /v1/exec HTTP/1.1\r\nHost: localhost\r\n{authorized}Content-Length: 17\r\n\r\n{{\"argv\":[\"true\"]}}"
            ),
        ] {
            let data = typed(&speak(&gateway, &request).await, 503);
            assert_eq!(
                (&data["kind"], &data["limit"], &data["value"]),
                (&json!("limit_exceeded"), &json!("connections of the server"), &json!(2))
            );
        }
        assert_eq!(refused(Client::with(&gateway, &[]).await), 503, "and so for a WebSocket");
        drop(first);
        until("the place comes back", async || Client::with(&gateway, &[]).await.is_ok()).await;
    });
}

#[test]
fn peers_that_are_turned_away_and_stay_hold_nothing_for_long() {
    let gateway = Gateway::with("[limits]\nconnections = 1\n");
    run(async {
        let _one = Client::connect(&gateway).await;
        let before = crate::support::proc::descriptors(gateway.pid());
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(tokio::net::TcpStream::connect(gateway.address()).await.unwrap());
        }
        eventually(PATIENCE, "the gateway has let go of all", || {
            crate::support::proc::descriptors(gateway.pid()) <= before
        });
    });
}

#[test]
fn a_server_full_of_jobs_answers_an_execution_with_503_and_retry_after() {
    let gateway = Gateway::with("[limits]\njobs = 1\n");
    run(async {
        let mut client = Client::connect(&gateway).await;
        let job = client.start(&["sleep", "1000"]).await;
        let full = Exchange::post(&gateway, "/v1/exec", "{\"argv\":[\"true\"]}").await;
        assert_eq!(full.status, 503, "{}", full.head);
        assert!(full.head.contains("retry-after: 1"), "{}", full.head);
        let error = client.call("job.start", json!({"argv": ["true"]})).await.unwrap_err();
        assert_eq!(
            (&error["data"]["kind"], &error["data"]["limit"]),
            (&json!("limit_exceeded"), &json!("jobs of the server"))
        );
        client.call("job.kill", json!({"job": job})).await.unwrap();
        assert_eq!(Exchange::post(&gateway, "/v1/exec", "{\"argv\":[\"true\"]}").await.status, 200);
    });
}

#[test]
fn a_repeat_under_its_key_finds_its_job_though_the_server_is_full() {
    let gateway = Gateway::with("[limits]\njobs = 1\n");
    run(async {
        let mut client = Client::connect(&gateway).await;
        let start = json!({"argv": ["sleep", "1000"], "key": "once"});
        let first = client.call("job.start", start.clone()).await.unwrap();
        assert_eq!(client.call("job.start", start).await.unwrap()["job"], first["job"]);
        assert_eq!(client.refused("job.start", json!({"argv": ["true"]})).await, "limit_exceeded");
    });
}

#[test]
fn a_tenants_connections_have_a_ceiling_and_another_tenant_gets_in() {
    let tokens = token_table("ada", "acme", &[]) + &token_table("bob", "bolt", &[]);
    let gateway = Gateway::with(&format!("{tokens}[tenant.acme.limits]\nconnections = 1\n"));
    run(async {
        let ada = with_token(&gateway, "ada").await.unwrap();
        assert_eq!(refused(with_token(&gateway, "ada").await), 429);
        let body = "{\"argv\":[\"true\"]}";
        let beyond =
            Exchange::send(&gateway, "POST", "/v1/exec", "Authorization: Bearer ada\r\n", body).await;
        assert_eq!(beyond.status, 429, "{}", beyond.head);
        assert!(beyond.head.contains("retry-after: 1"), "{}", beyond.head);
        let mut bob = with_token(&gateway, "bob").await.unwrap();
        bob.start(&["true"]).await;
        drop(ada);
        comes_in(&gateway, "ada").await;
    });
}

/// A request for a ticket; what it is asked on stays open.
fn asks_for_a_ticket(token: &str) -> String {
    format!(
        "POST /v1/tickets HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n"
    )
}

#[test]
fn every_connection_on_which_a_caller_has_shown_itself_takes_one_place_of_its_tenant() {
    let tokens = token_table("ada", "acme", &[]) + &token_table("bob", "bolt", &[]);
    let gateway = Gateway::with(&format!("{tokens}[tenant.acme.limits]\nconnections = 2\n"));
    run(async {
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut raw = Raw::ask(&gateway, &asks_for_a_ticket("ada")).await;
            assert!(raw.head.starts_with("http/1.1 200"), "{}", raw.head);
            // However often it asks, it is one connection.
            assert!(raw.send(asks_for_a_ticket("ada").as_bytes()).await);
            held.push(raw);
        }
        let mut beyond =
            Exchange::send(&gateway, "POST", "/v1/tickets", "Authorization: Bearer ada\r\n", "").await;
        assert_eq!(beyond.status, 429, "{}", beyond.head);
        assert!(beyond.head.contains("retry-after: 1"), "{}", beyond.head);
        assert_eq!(beyond.json().await["error"]["data"]["limit"], "connections of the tenant");
        assert_eq!(refused(with_token(&gateway, "ada").await), 429);
        with_token(&gateway, "bob").await.unwrap();
        drop(held);
        comes_in(&gateway, "ada").await;
    });
}

/// Waits for a place.
async fn comes_in(gateway: &Gateway, token: &str) {
    until("the place comes back", async || with_token(gateway, token).await.is_ok()).await;
}

#[test]
fn a_connection_that_goes_on_without_its_credential_gives_its_tenants_place_back() {
    let tokens = token_table("ada", "acme", &[]);
    let gateway = Gateway::with(&format!(
        "{tokens}[limits]\nheader_time = \"10m\"\n[tenant.acme.limits]\nconnections = 1\n"
    ));
    run(async {
        let mut raw = Raw::ask(&gateway, &asks_for_a_ticket("ada")).await;
        assert_eq!(refused(with_token(&gateway, "ada").await), 429);
        assert!(raw.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await);
        comes_in(&gateway, "ada").await;
    });
}

#[test]
fn a_connection_that_goes_on_without_its_credential_can_be_shown_out() {
    use tokio::io::AsyncReadExt as _;
    let gateway =
        Gateway::with("[limits]\nunauthenticated = 1\nheader_time = \"10m\"\nfirst_byte = \"10m\"\n");
    run(async {
        let mut raw = Raw::ask(&gateway, &asks_for_a_ticket(&gateway.token())).await;
        let mut answered = Vec::new();
        assert!(raw.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await);
        while !String::from_utf8_lossy(&answered).contains("ok") {
            let read = tokio::time::timeout(PATIENCE, raw.socket.read_buf(&mut answered)).await;
            assert!(read.expect("an answer").unwrap() > 0, "there was room for it");
        }
        let _newcomer = tokio::net::TcpStream::connect(gateway.address()).await.unwrap();
        let end = tokio::time::timeout(PATIENCE, raw.socket.read_to_end(&mut answered)).await;
        end.expect("it was never shown out").unwrap();
    });
}

/// Keeps so many starts of a shell in flight until told to stop; gives how long each took.
async fn flood(gateway: &Gateway, token: &str, stop: &CancellationToken) -> Vec<Duration> {
    let mut client = with_token(gateway, token).await.unwrap();
    let (mut flight, mut times) = (HashMap::new(), Vec::new());
    let start = json!({"argv": ["sh", "-c", "true"], "view": false});
    loop {
        while flight.len() < 64 {
            flight.insert(client.send("job.start", start.clone()).await, Instant::now());
        }
        tokio::select! {
            () = stop.cancelled() => return times,
            message = client.next() => {
                let message = message.expect("the connection lives");
                if let Some(since) = message["id"].as_u64().and_then(|id| flight.remove(&id)) {
                    assert!(message["error"].is_null(), "{message}");
                    times.push(since.elapsed());
                }
            }
        }
    }
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort();
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

/// Holds write leases on its files (fcntl(2), `F_SETLEASE`), so that the kernel lets nobody else open them, until it is killed.
struct Leases(std::process::Child);

impl Leases {
    #[allow(clippy::disallowed_methods, reason = "what holds the leases")]
    fn on(files: &[String]) -> Option<Self> {
        use std::io::BufRead as _;
        const HOLD: &str = "import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
held = [os.open(path, os.O_RDONLY) for path in sys.argv[1:]]
[fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK) for file in held]
print('held', flush=True)
signal.pause()";
        let python = std::process::Command::new("python3")
            .args(["-c", HOLD])
            .args(files)
            .stdout(std::process::Stdio::piped())
            .spawn();
        let Ok(mut holder) = python else {
            needs(false, "Python holds the leases");
            return None;
        };
        let mut said = String::new();
        std::io::BufReader::new(holder.stdout.take().unwrap()).read_line(&mut said).unwrap();
        let holder = Self(holder);
        needs(said == "held\n", "no lease is to be had").then_some(holder)
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn programs_that_their_owner_lets_nobody_open_hold_up_and_refuse_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let files: Vec<_> = (0..8).map(|n| directory.path().join(n.to_string()).display().to_string()).collect();
    for file in &files {
        std::fs::copy("/bin/true", file).unwrap();
    }
    let Some(_leases) = Leases::on(&files) else { return };
    let gateway = Gateway::with(&tenants::two());
    run(async {
        let mut a = Client::with(&gateway, &[("authorization", "Bearer aa")]).await.unwrap();
        let mut b = Client::with(&gateway, &[("authorization", "Bearer bb")]).await.unwrap();
        let held_up = |file: &String| json!({"argv": [file], "view": false});
        let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
        for (at, file) in files.iter().enumerate() {
            if at % 2 == 0 {
                of_a.push(a.send("job.start", held_up(file)).await);
            } else {
                of_b.push(b.send("job.start", held_up(file)).await);
            }
        }
        let mut other = Client::with(&gateway, &[("authorization", "Bearer bb")]).await.unwrap();
        other.start(&["true"]).await;
        let soon = tokio::time::timeout(Duration::ZERO, a.answer(of_a[0])).await;
        assert!(soon.is_err(), "the kernel gave up before another was served");
        for (client, ids) in [(&mut a, of_a), (&mut b, of_b)] {
            for id in ids {
                let error = client.answer(id).await.unwrap_err();
                let data = &error["data"];
                assert_eq!(
                    (&data["kind"], &data["stage"]),
                    (&json!("spawn_failed"), &json!("exec")),
                    "{error}"
                );
            }
        }
        // Eight failures of two tenants: none of them speaks of the host.
        other.start(&["true"]).await;
    });
}

#[test]
fn a_tenant_that_floods_waits_for_itself_and_another_is_served_in_its_turn() {
    const FLOODERS: usize = 3;
    let tokens = token_table("ada", "acme", &[]) + &token_table("bob", "bolt", &[]);
    // A loaded machine may take its time; the test is about whose turn it is.
    let limits = "[limits]\njobs = 1000\nrequests_per_second = 100000\n[policies]\nwait = \"20s\"\n";
    let gateway = Gateway::with(&format!("{OPEN}{tokens}{limits}"));
    run(async {
        let mut bob = with_token(&gateway, "bob").await.unwrap();
        let once = async |bob: &mut Client| {
            let since = Instant::now();
            bob.call("job.start", json!({"argv": ["sh", "-c", "true"], "view": false})).await.unwrap();
            since.elapsed()
        };
        let mut alone = Vec::new();
        for _ in 0..50 {
            alone.push(once(&mut bob).await);
        }
        // Stays said: whoever is sending at that moment sees it afterwards.
        let stop = CancellationToken::new();
        let flooding = futures_util::future::join_all((0..FLOODERS).map(|_| flood(&gateway, "ada", &stop)));
        let serving = async {
            let mut beside = Vec::new();
            for _ in 0..50 {
                beside.push(once(&mut bob).await);
            }
            stop.cancel();
            beside
        };
        let (theirs, mut beside) = tokio::join!(flooding, serving);
        let mut theirs: Vec<_> = theirs.into_iter().flatten().collect();
        let (flooder, median) = (percentile(&mut theirs, 50), percentile(&mut beside, 50));
        eprintln!(
            "a start of b: alone p50 {:?}, p99 {:?}; beside a flood of 192 in flight p50 {median:?}, p99 {:?}; of the flood p50 {flooder:?}",
            percentile(&mut alone, 50),
            percentile(&mut alone, 99),
            percentile(&mut beside, 99)
        );
        // Served in order of arrival, b would wait behind as many of a as a itself does.
        assert!(median * 4 < flooder, "b waits {median:?}, a {flooder:?}");
    });
}
