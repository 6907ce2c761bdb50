//! Reload, overload, drain, metrics and logs: what an operator relies on, by the real program.

use std::time::{Duration, Instant};

use execgate::telemetry::metrics::{Kind, METRICS};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::authentication::{answer, refused, token_table, with_token};
use crate::support::guest::Guest;
use crate::support::{Client, Gateway, PATIENCE, eventually, proc, run, until};
use crate::transport::get;

fn lines(gateway: &Gateway, word: &str) -> usize {
    gateway.log().matches(word).count()
}

/// Writes the configuration anew, has it read, and waits until the log says what came of it.
pub fn reload(gateway: &Gateway, config: &str, outcome: &str) {
    let before = lines(gateway, outcome);
    gateway.reconfigure(config);
    gateway.signal(Signal::SIGHUP);
    eventually(PATIENCE, outcome, || lines(gateway, outcome) > before);
}

pub const DONE: &str = "configuration reloaded";
const REFUSED: &str = "configuration not reloaded";

#[test]
fn reload_with_invalid_content_changes_nothing_and_loses_no_session() {
    let first = token_table("ada", "acme", &["admin"]);
    let gateway = Gateway::with(&first);
    run(async {
        let mut ada = with_token(&gateway, "ada").await.unwrap();
        let job = ada.start(&["sleep", "1000"]).await;
        for bad in [
            "[limits]\nsesions = 1\n",
            "[limits\n",
            "[drain]\ngrace = 10\n",
            "[policy.x]\nmodule = \"builtin:none\"\n",
            "[auth.token.x]\nsha256 = \"1\"\n",
        ] {
            reload(&gateway, &format!("{first}{bad}"), REFUSED);
        }
        assert_eq!(ada.call("job.get", json!({"job": job})).await.unwrap()["job"], job);
        assert!(with_token(&gateway, "ada").await.is_ok());
        let counted = answer(&gateway, "/metrics", "Authorization: Bearer ada\r\n").await;
        assert!(counted.contains("execgate_reloads_total{outcome=\"refused\"} 5"), "{counted}");
    });
}

#[test]
fn a_reload_brings_new_tokens_and_a_revoked_one_ends_its_session_within_5_s() {
    let (ada, bob) = (token_table("ada", "acme", &[]), token_table("bob", "acme", &[]));
    let gateway = Gateway::with(&ada);
    run(async {
        let mut client = with_token(&gateway, "ada").await.unwrap();
        client.start(&["sleep", "1000"]).await;
        assert_eq!(refused(with_token(&gateway, "bob").await), 401);
        reload(&gateway, &bob, DONE);
        let since = Instant::now();
        assert_eq!(client.close_code().await, Some(4003));
        eventually(Duration::from_secs(5), "the job is gone", || gateway.survivors().is_empty());
        assert!(since.elapsed() < Duration::from_secs(5));
        assert_eq!(refused(with_token(&gateway, "ada").await), 401);
        assert!(with_token(&gateway, "bob").await.is_ok());
    });
}

#[test]
fn a_reload_that_would_leave_nobody_or_no_policy_is_refused_unless_it_says_so() {
    let ada = token_table("ada", "acme", &[]);
    let policy = "[policy.x]\nmodule = \"builtin:command-rules\"\nsettings = { preset = \"read-only\" }\n";
    let gateway = Gateway::with(&format!("{ada}{policy}"));
    run(async {
        reload(&gateway, "", REFUSED);
        reload(&gateway, policy, REFUSED);
        assert!(gateway.log().contains("nobody is left who may connect"), "{}", gateway.log());
        reload(&gateway, &ada, REFUSED);
        assert!(gateway.log().contains("no [policy.NAME] is left"), "{}", gateway.log());
        let mut client = with_token(&gateway, "ada").await.unwrap();
        assert_eq!(client.refused("job.start", json!({"argv": ["rm", "x"]})).await, "policy_denied");
        reload(&gateway, &format!("{ada}{policy}enabled = false\n"), DONE);
    });
}

#[test]
fn what_cannot_change_while_serving_is_named_and_refused() {
    let gateway = Gateway::with("");
    run(async {
        reload(&gateway, "[streams]\nring = \"64KiB\"\n[server]\nhosts = [\"new.example\"]\n", REFUSED);
        assert!(
            gateway.log().contains("streams.ring") && gateway.log().contains("Nothing was changed"),
            "{}",
            gateway.log()
        );
        let request = "GET /livez HTTP/1.1\r\nHost: new.example\r\nConnection: close\r\n\r\n";
        assert!(
            crate::transport::speak(&gateway, request).await.starts_with("HTTP/1.1 421"),
            "half was changed"
        );
        reload(&gateway, "[server]\nhosts = [\"new.example\"]\n[drain]\ngrace = \"1s\"\n", DONE);
        assert!(crate::transport::speak(&gateway, request).await.starts_with("HTTP/1.1 200"));
    });
}

#[test]
fn limits_of_the_server_and_of_tenants_change_while_serving_and_end_nothing_that_runs() {
    let tokens = token_table("ada", "acme", &[]) + &token_table("bob", "bolt", &[]);
    let limited = |limits: &str| format!("{tokens}{limits}");
    let gateway = Gateway::with(&limited(""));
    run(async {
        let mut ada = with_token(&gateway, "ada").await.unwrap();
        let first = ada.start(&["sleep", "1000"]).await;
        ada.start(&["sleep", "1000"]).await;
        reload(&gateway, &limited("[tenant.acme.limits]\njobs = 1\nconnections = 1\n"), DONE);
        assert_eq!(ada.refused("job.start", json!({"argv": ["true"]})).await, "limit_exceeded");
        assert_eq!(refused(with_token(&gateway, "ada").await), 429);
        assert_eq!(ada.call("job.get", json!({"job": first})).await.unwrap()["state"], "running");
        let mut bob = with_token(&gateway, "bob").await.unwrap();
        bob.start(&["true"]).await;
        reload(&gateway, &limited("[tenant.acme.limits]\nwall = \"100ms\"\n"), DONE);
        let job = ada.start(&["sleep", "1000"]).await;
        assert_eq!(ada.event_of("job.closed", &job).await["reason"], "timeout");
        reload(&gateway, &limited("[limits]\njobs = 2\nconnections = 3\nrequests_per_second = 1\n"), DONE);
        let info = ada.call("server.info", json!({})).await.unwrap();
        assert_eq!(info["limits"]["jobs"], 2, "{info}");
        let error = ada.call("job.start", json!({"argv": ["true"]})).await.unwrap_err();
        assert_eq!(error["data"]["limit"], "jobs of the server", "{error}");
        let mut slow = with_token(&gateway, "ada").await.unwrap();
        assert_eq!(refused(with_token(&gateway, "ada").await), 503);
        for _ in 0..2 {
            slow.call("server.info", json!({})).await.unwrap();
        }
        assert_eq!(
            slow.refused("server.info", json!({})).await,
            "rate_limited",
            "a new connection has the new rate"
        );
        reload(&gateway, &limited("[limits]\njobs = 100000\n"), REFUSED);
        assert!(gateway.log().contains("limits.jobs can be raised"), "{}", gateway.log());
    });
}

#[test]
fn reload_under_load_loses_no_session() {
    let gateway = Gateway::with("");
    run(async {
        let mut clients = Vec::new();
        for _ in 0..20 {
            let mut client = Client::connect(&gateway).await;
            let job = client.start(&["sleep", "1000"]).await;
            clients.push((client, job));
        }
        for n in 1..=3 {
            gateway.reconfigure(&format!("[drain]\ngrace = \"{n}s\"\n"));
            gateway.signal(Signal::SIGHUP);
            for (client, _) in &mut clients {
                client.call("server.info", json!({})).await.unwrap();
            }
            eventually(PATIENCE, "the reload", || lines(&gateway, DONE) >= n);
        }
        for (client, job) in &mut clients {
            assert_eq!(client.call("job.get", json!({"job": job})).await.unwrap()["state"], "running");
        }
    });
}

#[test]
fn an_admin_reloads_by_call_and_nobody_else() {
    let gateway = Gateway::with(&(token_table("ada", "acme", &["admin"]) + &token_table("bob", "acme", &[])));
    run(async {
        let mut bob = with_token(&gateway, "bob").await.unwrap();
        for method in ["policy.reload", "policy.list", "server.drain"] {
            assert_eq!(bob.refused(method, json!({})).await, "forbidden", "{method}");
        }
        let mut ada = with_token(&gateway, "ada").await.unwrap();
        let done = ada.call("policy.reload", json!({})).await.unwrap();
        assert!(done["changed"].as_str().unwrap().contains("generation 2"), "{done}");
        let session = bob.call("session.open", json!({})).await.unwrap()["session"].clone();
        let listed = ada.call("session.list", json!({})).await.unwrap();
        assert!(listed["sessions"].to_string().contains(session.as_str().unwrap()), "an admin sees all");
    });
}

#[test]
fn memory_pressure_refuses_sessions_then_connections_and_running_sessions_live() {
    let gateway = Gateway::with("");
    run(async {
        let mut client = Client::connect(&gateway).await;
        let session = client.call("session.open", json!({})).await.unwrap()["session"].clone();
        let at =
            |percent: u64| format!("[limits]\nmemory = \"{}B\"\n", proc::rss(gateway.pid()) * 100 / percent);
        reload(&gateway, &at(130), DONE);
        until("new sessions and connections are refused", || async {
            refused(Client::with(&gateway, &[]).await) == 503
        })
        .await;
        assert_eq!(client.refused("session.open", json!({})).await, "unavailable");
        let started =
            client.call("job.start", json!({"argv": ["echo", "lives"], "session": session})).await.unwrap();
        assert_eq!(client.output(started["job"].as_str().unwrap(), "stdout").await, b"lives\n");
        let ready = get(&gateway, "/readyz").await;
        assert!(ready.0 == 503 && ready.1.contains("capacity"), "{ready:?}");
        reload(&gateway, "", DONE);
        // The bound stays what it was set to last; raise it.
        reload(&gateway, &at(10), DONE);
        until("sessions are admitted again", || async { Client::with(&gateway, &[]).await.is_ok() }).await;
    });
}

#[test]
fn a_tenant_has_a_ceiling_of_its_own_and_0_is_none() {
    let tokens = token_table("ada", "acme", &[]) + &token_table("bob", "bolt", &[]);
    let limits = "[tenant.acme.limits]\nsessions = 1\njobs = 0\n";
    let gateway = Gateway::with(&format!("{tokens}{limits}"));
    run(async {
        let mut ada = with_token(&gateway, "ada").await.unwrap();
        ada.call("session.open", json!({})).await.unwrap();
        let error = ada.call("session.open", json!({})).await.unwrap_err();
        assert_eq!((&error["data"]["kind"], &error["data"]["value"]), (&json!("limit_exceeded"), &json!(1)));
        let mut bob = with_token(&gateway, "bob").await.unwrap();
        bob.start(&["true"]).await;
        bob.call("session.open", json!({})).await.unwrap();
    });
}

#[test]
fn sigterm_without_jobs_closes_with_1012_and_exits_0_at_once() {
    let mut gateway = Gateway::start();
    let took = run(async {
        let mut client = Client::connect(&gateway).await;
        client.call("server.info", json!({})).await.unwrap();
        let since = Instant::now();
        gateway.signal(Signal::SIGTERM);
        assert_eq!(client.close_code().await, Some(1012));
        since
    });
    assert_eq!(gateway.ended(PATIENCE).code(), Some(0));
    eprintln!("SIGTERM to exit without jobs: {:?}", took.elapsed());
    assert!(took.elapsed() < Duration::from_secs(2), "{:?}", took.elapsed());
}

#[test]
fn sigterm_waits_for_no_connection_that_asks_for_nothing() {
    let mut gateway = Gateway::start();
    let sockets = run(async {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        // One that said nothing, and one that is kept alive between two requests.
        let silent = tokio::net::TcpStream::connect(gateway.address()).await.unwrap();
        let mut idle = tokio::net::TcpStream::connect(gateway.address()).await.unwrap();
        idle.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut answer = [0; 1024];
        let got = idle.read(&mut answer).await.unwrap();
        assert!(answer[..got].starts_with(b"HTTP/1.1 200"));
        (silent, idle)
    });
    let since = Instant::now();
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.ended(PATIENCE).code(), Some(0));
    let took = since.elapsed();
    assert!(!gateway.log().contains("did not end in time"), "{}", gateway.log());
    assert!(took < Duration::from_millis(1500), "it waited for them: {took:?}");
    drop(sockets);
}

#[test]
fn sigterm_with_500_sessions_tells_every_client_and_leaves_no_survivor() {
    let policies = "[policy.commands]\nmodule = \"builtin:command-rules\"\nsettings = { preset = \"unrestricted\" }\n\
                    [policy.quota]\nmodule = \"builtin:session-quota\"\nsettings = { sessions = { subject = 1000 }, jobs = { subject = 1000 } }\n";
    let limits = "[limits]\nsessions = 600\njobs = 600\nconnections = 600\n[drain]\ngrace = \"500ms\"\nkill_grace = \"500ms\"\n";
    let mut gateway = Gateway::with(&format!("{policies}{limits}"));
    let since = run(async {
        let mut clients = Vec::new();
        for n in 0..500 {
            let mut client = Client::connect(&gateway).await;
            client.call("session.open", json!({})).await.unwrap();
            if n % 10 == 0 {
                client.sh("trap '' TERM; setsid sleep 1000 & sleep 1000").await;
            }
            clients.push(client);
        }
        let since = Instant::now();
        gateway.signal(Signal::SIGTERM);
        for mut client in clients {
            let told = client.event("server.draining").await;
            assert!(told["deadline_ms"].is_number() || told.is_object(), "{told}");
            assert_eq!(client.close_code().await, Some(1012));
        }
        since
    });
    assert_eq!(gateway.ended(PATIENCE).code(), Some(0));
    let took = since.elapsed();
    eprintln!("D1: SIGTERM with 500 sessions and 50 stubborn jobs: exit after {took:?}, promised 3 s");
    assert!(gateway.survivors().is_empty(), "survivors: {:?}", gateway.survivors());
    assert!(took < Duration::from_secs(6), "{took:?}");
}

#[test]
fn a_second_signal_kills_at_once_and_sigint_is_as_good_as_sigterm() {
    for (first, second) in [(Signal::SIGTERM, Signal::SIGTERM), (Signal::SIGINT, Signal::SIGTERM)] {
        let mut gateway = Gateway::with("[drain]\ngrace = \"1h\"\nkill_grace = \"1h\"\n");
        let since = run(async {
            let mut client = Client::connect(&gateway).await;
            client.sh("trap '' TERM; sleep 1000 & wait").await;
            gateway.signal(first);
            client.event("server.draining").await;
            let since = Instant::now();
            gateway.signal(second);
            assert_eq!(client.close_code().await, Some(1012));
            since
        });
        assert_eq!(gateway.ended(PATIENCE).code(), Some(0));
        assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
        assert!(gateway.survivors().is_empty());
    }
}

#[test]
fn while_draining_connected_sessions_start_nothing_and_new_clients_get_503_with_retry_after() {
    let gateway = Gateway::with("[drain]\ngrace = \"1h\"\n");
    run(async {
        let mut client = Client::connect(&gateway).await;
        let job = client.start(&["sleep", "1000"]).await;
        gateway.signal(Signal::SIGTERM);
        client.event("server.draining").await;
        assert_eq!(client.refused("job.start", json!({"argv": ["true"]})).await, "draining");
        assert_eq!(client.refused("session.open", json!({})).await, "draining");
        let turned_away = answer(&gateway, "/v1/ws", "").await;
        assert!(
            turned_away.starts_with("HTTP/1.1 503") && turned_away.contains("retry-after"),
            "{turned_away}"
        );
        assert_eq!(get(&gateway, "/livez").await.0, 200);
        let ready = get(&gateway, "/readyz").await;
        assert!(ready.0 == 503 && ready.1.contains("draining"), "{ready:?}");
        assert_eq!(client.call("job.get", json!({"job": job})).await.unwrap()["state"], "running");
        gateway.signal(Signal::SIGTERM);
        assert_eq!(client.close_code().await, Some(1012));
    });
}

#[test]
fn during_the_drain_delay_clients_are_admitted_and_readyz_says_no() {
    let gateway = Gateway::with("[drain]\ndelay = \"1h\"\n");
    run(async {
        gateway.signal(Signal::SIGTERM);
        until("readyz says no", || async { get(&gateway, "/readyz").await.0 == 503 }).await;
        let mut client = Client::connect(&gateway).await;
        client.start(&["true"]).await;
        gateway.signal(Signal::SIGTERM);
        assert_eq!(client.close_code().await, Some(1012), "a second signal ends the delay");
    });
}

#[test]
fn shutdown_during_starts_pauses_and_batches_leaves_no_orphan() {
    let mut gateway = Gateway::with("[drain]\ngrace = \"100ms\"\nkill_grace = \"100ms\"\n");
    run(async {
        let mut clients = Vec::new();
        for n in 0..5 {
            let mut client = Client::connect(&gateway).await;
            let job = client.sh("sleep 1000 & sleep 1000").await;
            if n % 2 == 0 {
                client.call("job.pause", json!({"job": job})).await.unwrap();
            }
            let start = |id: usize| json!({"jsonrpc": "2.0", "id": format!("b{id}"), "method": "job.start", "params": {"argv": ["sleep", "1000"]}});
            let batch: Vec<Value> = (0..10).map(start).collect();
            client.raw(&Value::Array(batch).to_string()).await;
            clients.push(client);
        }
        gateway.signal(Signal::SIGTERM);
        for client in &mut clients {
            assert_eq!(client.close_code().await, Some(1012));
        }
    });
    assert_eq!(gateway.ended(PATIENCE).code(), Some(0));
    assert!(gateway.survivors().is_empty(), "{:?}", gateway.survivors());
}

/// Processor time the process has used, in ticks of 10 ms (proc_pid_stat(5), fields 14 and 15).
fn ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    rest.split(' ').skip(11).take(2).map(|n| n.parse::<u64>().unwrap()).sum()
}

#[test]
fn shutdown_during_a_slow_policy_call_starts_nothing_and_ends_in_time() {
    let directory = tempfile::tempdir().unwrap();
    let module = directory.path().join("slow.wasm");
    let slow = Guest { review: "(loop $l (br $l)) (unreachable)", ..Guest::default() };
    std::fs::write(&module, slow.module()).unwrap();
    let mut gateway = Gateway::with(&format!(
        "[policy.quota]\nmodule = \"builtin:session-quota\"\n[policy.slow]\nmodule = {module:?}\nbudget = \"1s\"\n\
         [drain]\ngrace = \"100ms\"\nkill_grace = \"100ms\"\n"
    ));
    let since = run(async {
        let mut client = Client::connect(&gateway).await;
        client.call("session.open", json!({})).await.unwrap();
        let before = ticks(gateway.pid());
        client.send("job.start", json!({"argv": ["sleep", "1000"]})).await;
        eventually(PATIENCE, "the policy is at it", || ticks(gateway.pid()) >= before + 10);
        gateway.signal(Signal::SIGTERM);
        let since = Instant::now();
        assert_eq!(client.close_code().await, Some(1012));
        since
    });
    assert_eq!(gateway.ended(PATIENCE).code(), Some(0));
    eprintln!("SIGTERM during a policy call to exit: {:?}", since.elapsed());
    assert!(since.elapsed() < Duration::from_millis(2_200), "delay, graces and 2 s: {:?}", since.elapsed());
    assert!(gateway.survivors().is_empty(), "{:?}", gateway.survivors());
}

#[test]
fn a_start_waits_for_its_turn_as_long_as_policies_wait_says() {
    let directory = tempfile::tempdir().unwrap();
    let module = directory.path().join("slow.wasm");
    let slow = Guest { review: "(loop $l (br $l)) (unreachable)", ..Guest::default() };
    std::fs::write(&module, slow.module()).unwrap();
    let gateway = Gateway::with(&format!(
        "[policies]\npool = 1\nwait = \"100ms\"\n[policy.quota]\nmodule = \"builtin:session-quota\"\n\
         [policy.slow]\nmodule = {module:?}\nbudget = \"1s\"\n"
    ));
    run(async {
        let mut client = Client::connect(&gateway).await;
        client.call("session.open", json!({})).await.unwrap();
        let first = client.send("job.start", json!({"argv": ["true"]})).await;
        let second = client.send("job.start", json!({"argv": ["true"]})).await;
        let refused =
            client.find("who waits is told", |v| v["id"] == json!(first) || v["id"] == json!(second)).await;
        assert_eq!(refused["error"]["data"]["kind"], "unavailable", "{refused}");
        assert!(refused["error"]["message"].as_str().unwrap().contains("100ms"), "{refused}");
    });
}

#[test]
fn a_pipe_in_a_files_place_holds_up_neither_a_reload_nor_the_shutdown() {
    let directory = tempfile::tempdir().unwrap();
    let table = directory.path().join("cases.toml");
    let rules = format!(
        "[policy.rules]\nmodule = \"builtin:command-rules\"\nsettings = {{ preset = \"developer\" }}\ntests = {table:?}\n"
    );
    std::fs::write(&table, "[[case]]\nname = \"true runs\"\nargv = [\"true\"]\nexpect = \"allow\"\n")
        .unwrap();
    let mut gateway = Gateway::with(&rules);
    std::fs::remove_file(&table).unwrap();
    nix::unistd::mkfifo(&table, nix::sys::stat::Mode::S_IRWXU).unwrap();
    reload(&gateway, &rules, "no regular file");
    gateway.signal(Signal::SIGTERM);
    assert_eq!(gateway.ended(PATIENCE).code(), Some(0));
}

/// Names and kinds that `/metrics` exports.
fn exported(text: &str) -> Vec<(String, String)> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .filter_map(|line| line.split_once(' '))
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect()
}

#[test]
fn the_documented_table_of_metrics_is_what_is_exported() {
    let config = "[server]\nadmin_listen = \"127.0.0.1:0\"\n[limits]\nsessions = 2\n";
    let gateway = Gateway::with(config);
    let text = run(async {
        let mut client = Client::connect(&gateway).await;
        client.call("session.open", json!({})).await.unwrap();
        let job = client.start(&["echo", "x"]).await;
        client.event_of("job.closed", &job).await;
        client.refused("job.start", json!({"argv": ["mount"]})).await;
        client.refused("job.start", json!({"argv": ["/no/such/program"]})).await;
        assert_eq!(client.refused("session.open", json!({})).await, "limit_exceeded");
        let ringed = json!({"argv": ["head", "-c", "1000000", "/dev/zero"], "output": {"overflow": "ring"}, "view": false});
        let started = client.call("job.start", ringed).await.unwrap();
        client.event_of("job.closed", started["job"].as_str().unwrap()).await;
        client.call("job.attach", json!({"job": started["job"], "from": {"stdout": 0}})).await.unwrap();
        client.event("job.gap").await;
        refused(with_token(&gateway, "wrong").await);
        reload(&gateway, config, DONE);
        answer(&gateway, "/metrics", &format!("Authorization: Bearer {}\r\n", gateway.token())).await
    });
    let found = exported(&text);
    let word = |kind| match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Seconds => "histogram",
    };
    for (name, kind) in &found {
        let known =
            METRICS.iter().find(|m| m.name == name).unwrap_or_else(|| panic!("{name} is not in the table"));
        assert_eq!(word(known.kind), kind, "{name}");
    }
    for metric in METRICS.iter().filter(|m| m.name != "execgate_connections_refused_total") {
        assert!(found.iter().any(|(name, _)| name == metric.name), "{} is not exported", metric.name);
    }
    for series in text.lines().filter(|line| line.starts_with("execgate_") && line.contains('{')) {
        let (name, labels) = series.split_once('{').unwrap();
        let base = name.trim_end_matches("_bucket").trim_end_matches("_sum").trim_end_matches("_count");
        let metric = METRICS.iter().find(|m| m.name == base || m.name == name).unwrap();
        for label in labels.split('}').next().unwrap().split(',').map(|l| l.split('=').next().unwrap()) {
            assert!(label == "le" || metric.labels.contains(&label), "{name} has a label {label}");
        }
    }
    let documented =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/SPECIFICATION.md")).unwrap();
    for metric in METRICS {
        let labels = if metric.labels.is_empty() { "–".to_owned() } else { metric.labels.join(", ") };
        let row = format!("| `{}` | {} | {labels} | {} |", metric.name, word(metric.kind), metric.help);
        assert!(documented.contains(&row), "SPECIFICATION.md lacks the row\n{row}");
    }
    assert_eq!(documented.matches("| `execgate_").count(), METRICS.len(), "rows without a metric");
}

#[test]
fn metrics_and_reasons_are_for_admins_and_for_the_admins_door() {
    let gateway = Gateway::with(&format!(
        "[server]\nadmin_listen = \"127.0.0.1:0\"\n{}",
        token_table("bob", "acme", &[])
    ));
    let door = gateway
        .banner
        .iter()
        .find_map(|l| l.strip_prefix("admin:        http://")?.split('/').next())
        .unwrap();
    run(async {
        assert!(answer(&gateway, "/metrics", "").await.starts_with("HTTP/1.1 401"));
        assert!(
            answer(&gateway, "/metrics", "Authorization: Bearer bob\r\n").await.starts_with("HTTP/1.1 403")
        );
        assert!(!answer(&gateway, "/readyz", "Authorization: Bearer bob\r\n").await.contains("spawn"));
        let ask = async |path: &str| {
            use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
            let mut socket = tokio::net::TcpStream::connect(door).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: {door}\r\nConnection: close\r\n\r\n");
            socket.write_all(request.as_bytes()).await.unwrap();
            let mut text = String::new();
            socket.read_to_string(&mut text).await.unwrap();
            text
        };
        assert!(ask("/metrics").await.contains("execgate_warden_up 1"));
        assert!(ask("/readyz").await.contains("\"spawn\""));
        assert!(ask("/v1/ws").await.starts_with("HTTP/1.1 404"), "nothing is done by the admin's door");
    });
}

#[test]
fn the_log_says_how_long_each_stage_of_a_request_took_under_its_id() {
    let gateway = Gateway::with("[log]\nlevel = \"debug\"\n");
    let job = run(async {
        let mut client = Client::connect(&gateway).await;
        let job = client.start(&["echo", "x"]).await;
        client.event_of("job.closed", &job).await;
        job
    });
    let log = gateway.log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let stages = |stage: &str| lines.iter().filter(|line| line["stage"] == stage).collect::<Vec<_>>();
    let spawn = stages("spawn")[0];
    let request = &spawn["span"]["request_id"];
    assert!(request.is_string() && spawn["job"] == job, "{spawn}");
    let of_it = |stage: &str| stages(stage).into_iter().find(|line| line["span"]["request_id"] == *request);
    for stage in ["decode", "decide", "exit"] {
        assert!(of_it(stage).is_some_and(|line| line["took"].is_string()), "{stage}: {log}");
    }
    let judged = |line: &&&Value| line["hook"] == "command" && line["policy"].is_string();
    let of_command = stages("decide").iter().filter(judged).count();
    assert!(of_command > 0, "{log}");
    assert_eq!(stages("first byte")[0]["job"], job, "{log}");
}

#[test]
fn log_lines_are_json_escape_control_bytes_and_carry_no_secret() {
    let gateway = Gateway::with("[log]\nlevel = \"debug\"\n[jobs]\nenv_allow = [\"*\"]\n");
    run(async {
        let mut client = Client::connect(&gateway).await;
        let argv = json!(["echo", "\u{1b}]0;owned\u{7}\u{9b}31m"]);
        let started = client
            .call("job.start", json!({"argv": argv, "env": {"API_KEY": "s3cr3t-value"}}))
            .await
            .unwrap();
        client.event_of("job.closed", started["job"].as_str().unwrap()).await;
        client.refused("job.start", json!({"argv": ["\u{1b}[2J"]})).await;
    });
    let log = gateway.log();
    for line in log.lines() {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        if ["job started", "job closed", "session opened"].contains(&value["message"].as_str().unwrap()) {
            for field in ["request_id", "connection", "tenant"] {
                assert!(value["span"][field].is_string(), "{field} is missing in {line}");
            }
        }
        if value["message"] == "job started" {
            for field in ["job", "session", "tenant", "decision"] {
                assert!(value[field].is_string(), "{field} is missing in {line}");
            }
        }
    }
    assert!(log.contains("job started"));
    assert!(!log.chars().any(|c| c.is_control() && c != '\n'), "a control character is in the log");
    assert!(!log.contains("s3cr3t") && !log.contains(&gateway.token()), "a secret is in the log");
}
