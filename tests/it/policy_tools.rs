//! What a security team lives in: a policy from nothing to its tests, and the log as a test suite.

use std::path::Path;
use std::sync::Arc;

use execgate::audit::{self, Asked, Audit, Entry};
use execgate::domain::{CommandRequest, DecisionId, Principal};
use execgate::policy::{Policies, PolicySettings, Settings};
use serde_json::Value;

use crate::support::program::{program, succeeds, text};
use crate::support::request::command;
use crate::support::run;

const TABLE: &str = r#"
policy = "builtin:command-rules"
settings = { preset = "read-only" }
[[case]]
name = "ls may run"
argv = ["ls"]
expect = "allow"
[[case]]
name = "rm may not"
argv = ["rm", "x"]
expect = "deny"
"#;

#[test]
fn a_table_that_holds_and_one_that_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let table = directory.path().join("t.toml");
    std::fs::write(&table, TABLE).unwrap();
    let path = table.to_str().unwrap();
    let told = succeeds(&directory, directory.path(), &["policy", "test", path]);
    assert!(told.contains("2 passed, 0 failed") && !told.contains('\u{1b}'), "{told}");
    std::fs::write(
        &table,
        TABLE.replace(
            "argv = [\"rm\", \"x\"]\nexpect = \"deny\"",
            "argv = [\"rm\", \"x\"]\nexpect = \"allow\"",
        ),
    )
    .unwrap();
    let junit = directory.path().join("j.xml");
    let failed =
        program(&directory, directory.path(), &["policy", "test", path, "--junit", junit.to_str().unwrap()]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(text(&failed).contains("expected allow, came out deny"), "{}", text(&failed));
    let xml = std::fs::read_to_string(&junit).unwrap();
    assert!(xml.contains("failures=\"1\"") && xml.contains("rm may not"), "{xml}");
    let json = program(&directory, directory.path(), &["policy", "test", path, "--json"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((json["passed"].as_u64(), json["failed"].as_u64()), (Some(1), Some(1)));
    let chosen = succeeds(&directory, directory.path(), &["policy", "test", path, "--filter", "ls may"]);
    assert!(chosen.contains("1 passed"), "{chosen}");
    std::fs::write(&table, TABLE.replace("argv", "argw")).unwrap();
    let typo = program(&directory, directory.path(), &["policy", "test", path]);
    assert!(text(&typo).contains("argw") && text(&typo).contains("line"), "{}", text(&typo));
}

/// The same tables hold natively, by `cargo test` in policies/: here they are asked as WebAssembly.
#[test]
fn the_shipped_policies_hold_their_own_tables() {
    let directory = tempfile::tempdir().unwrap();
    let mut tables = Vec::new();
    for policy in ["command-rules", "session-quota", "rate-limit"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies").join(policy).join("tests");
        let files = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
        tables.extend(files.filter(|path| path.extension().is_some_and(|e| e == "toml")));
    }
    let mut arguments = vec!["policy", "test"];
    arguments.extend(tables.iter().map(|path| path.to_str().unwrap()));
    let told = succeeds(&directory, directory.path(), &arguments);
    let text = |table: &std::path::PathBuf| std::fs::read_to_string(table).unwrap();
    let rows: usize = tables.iter().map(|table| text(table).matches("\n[[case]]").count()).sum();
    assert!(rows >= 800, "only {rows} rows were found");
    assert!(told.contains(&format!("{rows} passed, 0 failed")), "{rows} rows: {told}");
}

#[test]
fn a_command_is_explained_without_a_server() {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path();
    let told = succeeds(&directory, folder, &["policy", "explain", "--", "sh", "-c", "ls / | wc -l"]);
    assert!(told.starts_with("allow") && told.contains("script   known") && told.contains("wc"), "{told}");
    let read_only = folder.join("c.toml");
    std::fs::write(
        &read_only,
        "[policy.rules]\nmodule = \"builtin:command-rules\"\nsettings = { preset = \"read-only\" }\n",
    )
    .unwrap();
    let denied = program(
        &directory,
        folder,
        &["policy", "explain", "--config", read_only.to_str().unwrap(), "--", "rm", "x"],
    );
    assert_eq!(denied.status.code(), Some(77), "{}", text(&denied));
    assert!(text(&denied).starts_with("deny"), "{}", text(&denied));
    let json = program(&directory, folder, &["policy", "explain", "--json", "--", "ls"]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["verdict"], "allow");
    assert!(!json["policies"].as_array().unwrap().is_empty());
}

#[test]
fn decisions_are_measured_on_a_table() {
    let directory = tempfile::tempdir().unwrap();
    let table = directory.path().join("t.toml");
    std::fs::write(&table, TABLE).unwrap();
    let json = program(
        &directory,
        directory.path(),
        &["policy", "bench", table.to_str().unwrap(), "--time", "200ms", "--json"],
    );
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(
        json[0]["decisions"].as_u64().unwrap() > 10 && json[0]["p50_us"].as_f64().unwrap() > 0.0,
        "{json}"
    );
}

/// Commands of several principals, mixed: some allowed by every preset, some by none, some by one.
fn mixed(number: usize) -> Arc<CommandRequest> {
    let argvs: [&[&str]; 8] = [
        &["ls", "-l"],
        &["cat", "/etc/hostname"],
        &["rm", "-r", "x"],
        &["shutdown", "now"],
        &["find", ".", "-delete"],
        &["find", ".", "-name", "x"],
        &["grep", "-r", "x", "."],
        &["make", "all"],
    ];
    let mut request = (*command(argvs[number % argvs.len()])).clone();
    let subject = format!("subject-{}", number % 5);
    request.principal =
        Arc::new(Principal { subject: subject.as_str().into(), ..(*request.principal).clone() });
    Arc::new(request)
}

/// Writes a log of decisions as a gateway would, under these policies.
fn record(path: &Path, count: usize, policies: &[PolicySettings]) {
    let pinned = Policies::load(&Settings::of(policies.to_vec())).unwrap().pin();
    let settings = audit::Settings { queue: count, ..audit::Settings::at(Some(path.to_owned())) };
    let log = Audit::open(&settings).unwrap();
    for number in 0..count {
        let request = mixed(number);
        let decision = DecisionId::from_bits(number as u128);
        let charges = pinned.charges_here(&request.call());
        let ballots = pinned.review_here(&request);
        let fold = audit::fold_of_command(1, decision, request.resolved.clone(), &ballots);
        let asked = Asked::Command(request, ballots);
        let entry = Entry {
            decision,
            generation: pinned.number(),
            round: 1,
            grants: pinned.grants(),
            asked,
            charges,
            fold,
        };
        log.record(entry).unwrap();
    }
    run(log.flush());
}

fn config(directory: &Path, name: &str, preset: &str) -> String {
    let path = directory.join(name);
    let rules = format!(
        "[policy.rules]\nmodule = \"builtin:command-rules\"\nsettings = {{ preset = \"{preset}\" }}\n"
    );
    std::fs::write(&path, format!("{rules}[policy.rate]\nmodule = \"builtin:rate-limit\"\n")).unwrap();
    path.display().to_string()
}

/// The issue's own words: at least 2 000 mixed decisions; the same configuration, a changed one, and one flipped byte.
#[test]
fn a_recorded_log_is_replayed_against_the_same_and_against_another_configuration() {
    const COUNT: usize = 2_400;
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let set = |preset: &str| {
        let named = |name: &str, module: &str, settings: &str| PolicySettings {
            name: name.to_owned(),
            ..PolicySettings::builtin(module, settings)
        };
        vec![
            named("rules", "command-rules", &format!("{{\"preset\":\"{preset}\"}}")),
            named("rate", "rate-limit", "{}"),
        ]
    };
    record(&log, COUNT, &set("developer"));
    let path = log.to_str().unwrap();
    let same = config(directory.path(), "same.toml", "developer");
    let replayed =
        succeeds(&directory, directory.path(), &["policy", "replay", "--log", path, "--config", &same]);
    assert!(replayed.contains("2400 decisions replayed, 0 different"), "{replayed}");

    // What must differ is known: ask both sets about each of the eight commands.
    let sets =
        ["developer", "read-only"].map(|preset| Policies::load(&Settings::of(set(preset))).unwrap().pin());
    let differs = |number: &usize| {
        let said = sets.iter().map(|set| audit::answers_now(&set.review_here(&mixed(*number))));
        let said: Vec<_> = said.collect();
        said[0] != said[1]
    };
    let expected = (0..COUNT).filter(|number| differs(&(number % 40))).count();
    assert!(expected > 0);
    let other = config(directory.path(), "other.toml", "read-only");
    let changed = program(
        &directory,
        directory.path(),
        &["policy", "replay", "--log", path, "--config", &other, "--json"],
    );
    assert_eq!(changed.status.code(), Some(1), "{}", text(&changed));
    let report: Value = serde_json::from_slice(&changed.stdout).unwrap();
    assert_eq!(
        (report["decided"].as_u64(), report["different"].as_u64()),
        (Some(COUNT as u64), Some(expected as u64)),
        "{report}"
    );
    assert_eq!(report["by_principal"].as_object().unwrap().len(), 5);

    let mut bytes = std::fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let line = bytes[..middle].iter().filter(|b| **b == b'\n').count() + 1;
    std::fs::write(&log, &bytes).unwrap();
    let broken = program(&directory, directory.path(), &["audit", "verify", path]);
    assert_eq!(broken.status.code(), Some(1));
    let told = text(&broken);
    assert!([line, line + 1].iter().any(|n| told.contains(&format!("line {n} "))), "line {line}: {told}");
}
