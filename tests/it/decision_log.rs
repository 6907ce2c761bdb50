//! The decision log: what a line says, what it hides, what is counted instead, and that it stands up to rotation, crashes and
//! greed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use execgate::audit::{self, Asked, Audit, AuditRefused, Entry, RefusedBy, Sync};
use execgate::domain::{CommandRequest, DecisionId};
use execgate::policy::{Policies, PolicySettings, Settings};
use serde_json::{Value, json};

use crate::support::request::command;
use crate::support::{Client, Gateway, PATIENCE, eventually, run};

/// The entries of a log, in order.
pub fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["entry"].take()).collect()
}

fn with_log(more: &str) -> (tempfile::TempDir, Gateway, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("decisions.jsonl");
    let gateway = Gateway::with(&format!("[audit]\npath = {log:?}\n{more}"));
    (directory, gateway, log)
}

fn eventually_lines(log: &Path, count: usize, hook: &str) -> Vec<Value> {
    eventually(PATIENCE, "the lines are written", || {
        lines(log).iter().filter(|l| l["hook"] == hook).count() >= count
    });
    lines(log).into_iter().filter(|l| l["hook"] == hook).collect()
}

#[test]
fn a_line_says_what_was_asked_who_said_what_and_what_that_came_to() {
    let (_directory, gateway, log) = with_log("");
    run(async {
        let mut client = Client::connect(&gateway).await;
        let started = client
            .call("job.start", json!({"argv": ["sh", "-c", "true; ls /"], "labels": {"ticket": "7"}}))
            .await
            .unwrap();
        assert!(client.call("job.start", json!({"argv": ["shutdown", "now"]})).await.is_err());
        let decisions = eventually_lines(&log, 2, "command");
        let line = decisions.iter().find(|l| l["decision"] == started["decision"]).unwrap();
        let request = &line["request"];
        assert_eq!(request["argv"], json!(["sh", "-c", "true; ls /"]));
        assert_eq!(request["script"]["commands"], json!([["true"], ["ls", "/"]]));
        assert_eq!(request["principal"]["tenant"], "local");
        assert_eq!(request["labels"]["ticket"], "7");
        assert_eq!(request["when"]["zone"], "UTC");
        assert!(request["executable"]["canonical"].as_str().unwrap().starts_with('/'));
        assert_eq!(line["fold"]["outcome"], "allow");
        assert_eq!(line["request_sha256"].as_str().unwrap().len(), 64);
        let said = &line["policies"][0];
        for member in ["policy", "version", "module", "settings", "mode", "verdict", "took_us"] {
            assert!(!said[member].is_null(), "{member} is missing in {said}");
        }
        let charge = &line["charges"][0]["charges"][0];
        assert_eq!(charge["cost"], 1, "{line}");
        let refused = decisions.iter().find(|l| l["fold"]["outcome"] == "deny");
        if let Some(refused) = refused {
            assert!(!refused["fold"]["code"].as_str().unwrap().is_empty());
        }
        assert_eq!(eventually_lines(&log, 1, "session")[0]["fold"]["outcome"], "allow");
    });
}

#[test]
fn secrets_in_arguments_never_reach_the_log() {
    let (_directory, gateway, log) = with_log("");
    run(async {
        let mut client = Client::connect(&gateway).await;
        for argv in [
            json!(["echo", "--password=hunter2", "--token", "hunter2"]),
            json!(["sh", "-c", "API_KEY=hunter2 true; echo 'Authorization: Bearer hunter2'"]),
        ] {
            client.call("job.start", json!({"argv": argv, "env": {"DB_PASSWORD": "hunter2"}})).await.unwrap();
        }
        let lines = eventually_lines(&log, 2, "command");
        assert!(lines.iter().all(|line| line["masked"] == true));
    });
    assert!(!std::fs::read_to_string(&log).unwrap().contains("hunter2"));
}

#[test]
fn refusals_by_the_limiter_are_counted_and_not_written_one_by_one() {
    let rate = "[policy.quota]\nmodule = \"builtin:session-quota\"\n[policy.rules]\nmodule = \"builtin:command-rules\"\nsettings = { preset = \"developer\" }\n\
                [policy.slow]\nmodule = \"builtin:rate-limit\"\nsettings = { buckets = [{ id = \"starts\", method = \"job.start\", per = \"subject\", burst = 1, count = 1, period_ms = 3600000 }] }\n";
    let (_directory, gateway, log) = with_log(rate);
    run(async {
        let mut client = Client::connect(&gateway).await;
        client.call("job.start", json!({"argv": ["true"]})).await.unwrap();
        for _ in 0..50 {
            assert_eq!(client.refused("job.start", json!({"argv": ["true"]})).await, "rate_limited");
        }
        let counted = || {
            lines(&log)
                .iter()
                .filter(|l| l["hook"] == "refusals")
                .map(|l| l["count"].as_u64().unwrap())
                .sum::<u64>()
        };
        eventually(PATIENCE, "the refusals are counted", || counted() == 50);
        let refusals = lines(&log).iter().filter(|l| l["hook"] == "refusals").count();
        assert!(refusals < 20, "{refusals} lines for 50 refusals");
    });
}

/// An entry as a gateway would write it.
fn entry(policies: &Policies, request: &Arc<CommandRequest>, number: u128) -> Entry {
    let pinned = policies.pin();
    let ballots = pinned.review_here(request);
    let decision = DecisionId::from_bits(number);
    let fold = audit::fold_of_command(1, decision, request.resolved.clone(), &ballots);
    Entry {
        decision,
        generation: pinned.number(),
        round: 1,
        grants: pinned.grants(),
        asked: Asked::Command(request.clone(), ballots),
        charges: Vec::new(),
        fold,
    }
}

fn developer() -> Policies {
    Policies::load(&Settings::of(vec![PolicySettings::builtin("command-rules", r#"{"preset":"developer"}"#)]))
        .unwrap()
}

#[test]
fn the_chain_goes_on_over_rotated_files_and_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let settings = audit::Settings { rotate: 8 * 1024, keep: 100, ..audit::Settings::at(Some(path.clone())) };
    let (policies, request) = (developer(), command(&["ls", "-l"]));
    for start in 0..3 {
        let audit = Audit::open(&settings).unwrap();
        for n in 0..20 {
            audit.record(entry(&policies, &request, start * 20 + n)).unwrap();
        }
        run(audit.flush());
    }
    let verified = audit::verify(&path, None).unwrap();
    assert_eq!((verified.first, verified.lines), (1, 60));
    assert!(verified.files > 3, "{verified:?}");
    let second = std::fs::read(path.with_extension("2")).unwrap();
    let mut bad = second.clone();
    bad[100] ^= 1;
    std::fs::write(path.with_extension("2"), &bad).unwrap();
    let found = audit::verify(&path, None).unwrap_err();
    assert!(found.file.ends_with("log.2") || found.file.ends_with("log.1"), "{found}");
    std::fs::write(path.with_extension("2"), &second).unwrap();
    assert!(audit::verify(&path, Some(&verified.head)).is_ok());
    let kept = audit::Settings { keep: 1, ..settings };
    let audit = Audit::open(&kept).unwrap();
    for n in 0..40 {
        audit.record(entry(&policies, &request, 100 + n)).unwrap();
    }
    run(audit.flush());
    drop(audit);
    assert!(audit::verify(&path, None).unwrap().lines == 100);
}

#[test]
fn half_a_line_left_by_a_crash_is_taken_off_and_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let settings = audit::Settings::at(Some(path.clone()));
    let (policies, request) = (developer(), command(&["ls"]));
    let audit = Audit::open(&settings).unwrap();
    audit.record(entry(&policies, &request, 1)).unwrap();
    run(audit.flush());
    drop(audit);
    let mut torn = std::fs::read(&path).unwrap();
    torn.extend(b"{\"entry\":{\"cha");
    std::fs::write(&path, &torn).unwrap();
    let audit = Audit::open(&settings).unwrap();
    audit.record(entry(&policies, &request, 2)).unwrap();
    run(audit.flush());
    drop(audit);
    assert_eq!(audit::verify(&path, None).unwrap().lines, 3);
    assert_eq!(lines(&path)[1]["event"], "torn");
}

#[test]
fn a_tenant_that_wrote_its_share_is_refused_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let settings =
        audit::Settings { tenant_bytes: 10_000, sync: Sync::Never, ..audit::Settings::at(Some(path)) };
    let (policies, greedy) = (developer(), command(&["ls"]));
    let mut modest = (*greedy).clone();
    modest.principal =
        Arc::new(execgate::domain::Principal { tenant: "modest".into(), ..(*greedy.principal).clone() });
    let modest = Arc::new(modest);
    let audit = Audit::open(&settings).unwrap();
    let mut refused = None;
    for n in 0..100 {
        refused = audit.record(entry(&policies, &greedy, n)).err();
        if refused.is_some() {
            break;
        }
        run(audit.flush());
    }
    assert_eq!(refused, Some(AuditRefused::Tenant));
    assert_eq!(audit.record(entry(&policies, &modest, 200)), Ok(()));
}

#[test]
fn no_line_is_longer_than_its_bound_and_the_digest_of_the_whole_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let policies = developer();
    let audit = Audit::open(&audit::Settings::at(Some(path.clone()))).unwrap();
    let long = "x".repeat(200_000);
    let many: Vec<String> = (0..4000).map(|n| format!("argument-{n}")).collect();
    let many: Vec<&str> = std::iter::once("ls").chain(many.iter().map(String::as_str)).collect();
    for (n, argv) in [vec!["ls", &long], many].into_iter().enumerate() {
        audit.record(entry(&policies, &command(&argv), n as u128)).unwrap();
    }
    audit.refused(&command(&["ls"]).principal, RefusedBy::Slots);
    run(audit.flush());
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.lines().all(|line| line.len() < 16 * 1024));
    let lines = lines(&path);
    assert_eq!(lines.len(), 3);
    assert!(lines[..2].iter().all(|l| l["cut"] == true && l["request_sha256"].as_str().unwrap().len() == 64));
    assert_ne!(lines[0]["request_sha256"], lines[1]["request_sha256"]);
    assert_eq!(lines[2]["by"], "slots");
}

#[test]
fn a_full_queue_refuses_or_counts_as_configured() {
    let (policies, request) = (developer(), command(&["ls"]));
    for refuse in [true, false] {
        let directory = tempfile::tempdir().unwrap();
        let path = Some(directory.path().join("log"));
        let settings = audit::Settings {
            refuse_when_full: refuse,
            queue: 1,
            sync: Sync::Always,
            ..audit::Settings::at(path)
        };
        let audit = Audit::open(&settings).unwrap();
        let entry = entry(&policies, &request, 1);
        eventually(Duration::from_secs(10), "the queue overflows", || {
            let outcome = (0..100).find_map(|_| audit.record(entry.clone()).err());
            assert!(refuse || outcome.is_none());
            outcome == Some(AuditRefused::Full) || audit.lost() > 0
        });
        assert_eq!(audit.lost() > 0, !refuse);
    }
}

#[test]
fn a_rotation_that_a_crash_broke_off_is_gone_on_with_and_a_file_that_is_missing_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let file = |name: &str| directory.path().join(name);
    let settings = audit::Settings { rotate: 8 * 1024, keep: 100, ..audit::Settings::at(Some(path.clone())) };
    let (policies, request) = (developer(), command(&["ls", "-l"]));
    let write = |from: u128, until: u128| {
        let audit = Audit::open(&settings).unwrap();
        (from..until).for_each(|n| audit.record(entry(&policies, &request, n)).unwrap());
        run(audit.flush());
    };
    let move_older = || {
        let older = (1..100).take_while(|n| file(&format!("log.{n}")).exists()).last().unwrap();
        for n in (1..=older).rev() {
            std::fs::rename(file(&format!("log.{n}")), file(&format!("log.{}", n + 1))).unwrap();
        }
    };
    write(0, 20);
    // The older files had been moved, the current one not yet, and the next one was there.
    move_older();
    std::fs::write(file("log.next"), "").unwrap();
    assert_eq!(audit::verify(&path, None).unwrap().first, 1, "nothing is missing, whatever it is called");
    write(20, 40);
    assert!(!file("log.next").exists());
    let verified = audit::verify(&path, None).unwrap();
    assert_eq!((verified.first, verified.lines), (1, 40));
    // It had been moved, and the next one had not taken its place.
    std::fs::rename(&path, file("moved")).unwrap();
    move_older();
    std::fs::rename(file("moved"), file("log.1")).unwrap();
    write(40, 60);
    let verified = audit::verify(&path, None).unwrap();
    assert_eq!((verified.first, verified.lines), (1, 60));
    std::fs::remove_file(file("log.2")).unwrap();
    let missing = audit::verify(&path, None).unwrap_err();
    assert!(missing.file.ends_with("log.1") && missing.line == 1, "{missing}");
}

#[test]
fn what_is_no_file_is_no_place_for_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for path in [pipe.as_path(), Path::new("/dev/null")] {
        let refused = Audit::open(&audit::Settings::at(Some(path.to_owned()))).unwrap_err().to_string();
        assert!(refused.contains("no regular file") && refused.contains("audit.path"), "{refused}");
    }
}

#[test]
fn a_file_that_is_no_log_is_refused_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes");
    for foreign in [b"a token".to_vec(), b"one line\n".to_vec(), [&[b'x'; 50_000][..], b"\nhalf"].concat()] {
        std::fs::write(&path, &foreign).unwrap();
        let refused = Audit::open(&audit::Settings::at(Some(path.clone()))).unwrap_err().to_string();
        assert!(refused.contains("notes") && refused.contains("line 1"), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), foreign);
    }
}

#[test]
fn a_log_has_one_writer_across_rotations_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let settings = audit::Settings { rotate: 20_000, ..audit::Settings::at(Some(path.clone())) };
    let (policies, request) = (developer(), command(&["ls"]));
    let audit = Audit::open(&settings).unwrap();
    for round in 0..2 {
        let refused = Audit::open(&settings).unwrap_err().to_string();
        assert!(refused.contains("another execgate writes to it"), "{refused}");
        for n in 0..40 {
            audit.record(entry(&policies, &request, round * 100 + n)).unwrap();
        }
        run(audit.flush());
    }
    assert!(directory.path().join("log.1").exists(), "it was not rotated");
    drop(audit);
    assert_eq!(audit::verify(&path, None).unwrap().lines, 80);
}
