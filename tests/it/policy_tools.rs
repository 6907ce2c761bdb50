//! What a security team lives in: a policy from nothing to its tests, and the log as a test suite.

use std::os::unix::fs::PermissionsExt as _;
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

/// The words that `--help` prints.
fn help(directory: &tempfile::TempDir, command: &[&str]) -> String {
    succeeds(directory, directory.path(), &[command, &["--help"]].concat())
}

#[test]
fn what_explaining_would_ignore_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str], words: &str| {
        let explain = [&["policy", "explain"], arguments, &["--", "ls"]].concat();
        let output = program(&directory, directory.path(), &explain);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output));
        assert!(text(&output).contains(words), "{arguments:?}: {}", text(&output));
    };
    refused(&["--url", "http://127.0.0.1:1"], "--live");
    refused(&["--live", "--tenant", "acme"], "--tenant");
    refused(&["--live", "--set", "limits.jobs=3"], "--set");
    let help = help(&directory, &["policy", "explain"]);
    assert_eq!(help.matches("[default: local]").count(), 1, "{help}");
    assert!(help.contains("EXECGATE_TOKEN_FILE"), "{help}");
}

/// Offline, a program is found as a start finds it: the same files are refused, and the same bits seen.
#[test]
fn a_program_is_explained_as_a_start_would_find_it() {
    let directory = tempfile::tempdir().unwrap();
    let explained = |name: &str, bytes: &[u8], mode: u32| {
        let file = directory.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        program(&directory, directory.path(), &["policy", "explain", "--", file.to_str().unwrap()])
    };
    let long = format!("#!/bin/sh {}\n", " ".repeat(300));
    for (name, bytes, mode) in [
        ("first-line-without-end", long.as_bytes(), 0o755),
        ("no-interpreter", b"#! \ntrue\n".as_slice(), 0o755),
        ("not-executable", b"#!/bin/sh\n".as_slice(), 0o644),
    ] {
        let output = explained(name, bytes, mode);
        assert_eq!(output.status.code(), Some(126), "{name}: {}", text(&output));
    }
    let argument = explained("empty-argument", b"#!/bin/sh \ntrue\n", 0o755);
    assert!(argument.status.success(), "{}", text(&argument));
    let nowhere = program(&directory, directory.path(), &["policy", "explain", "--", "no-such-program"]);
    assert_eq!(nowhere.status.code(), Some(127), "{}", text(&nowhere));
}

/// A file capability is privilege as a setuid bit is.
#[test]
fn a_program_with_capabilities_is_explained_as_privileged() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("capable");
    std::fs::copy("/bin/true", &file).unwrap();
    // struct vfs_cap_data (linux/capability.h), revision 2: effective, and CAP_NET_RAW permitted.
    let words: [u32; 5] = [0x0200_0001, 1 << 13, 0, 0, 0];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let set = rustix::fs::setxattr(&file, "security.capability", &bytes, rustix::fs::XattrFlags::empty());
    if set.is_err() {
        eprintln!("NOTE: no file can be given capabilities here: {set:?}");
        return;
    }
    let output = program(&directory, directory.path(), &["policy", "explain", "--", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(77), "{}", text(&output));
}

#[test]
fn a_dangling_link_is_no_place_for_a_new_policy() {
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("nowhere", directory.path().join("dang")).unwrap();
    let output = program(&directory, directory.path(), &["policy", "new", "dang"]);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("dang is there already"), "{}", text(&output));
}

#[test]
fn what_is_shown_of_a_log_neither_controls_a_terminal_nor_makes_lines() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let pinned =
        Policies::load(&Settings::of(vec![PolicySettings::builtin("command-rules", "{}")])).unwrap().pin();
    let log = Audit::open(&audit::Settings::at(Some(path.clone()))).unwrap();
    let mut request = (*command(&["ls", "a\tb"])).clone();
    let subject = "eve\u{1b}[2J\n\u{202e}";
    request.principal = Arc::new(Principal { subject: subject.into(), ..(*request.principal).clone() });
    let ballots = pinned.review_here(&request);
    let decision = DecisionId::from_bits(1);
    let fold = audit::fold_of_command(1, decision, request.resolved.clone(), &ballots);
    let entry = Entry {
        decision,
        generation: 1,
        round: 1,
        grants: pinned.grants(),
        asked: Asked::Command(Arc::new(request), ballots),
        charges: Vec::new(),
        fold,
    };
    log.record(entry).unwrap();
    run(log.flush());
    let shown = succeeds(&directory, directory.path(), &["audit", "show", path.to_str().unwrap()]);
    assert_eq!(shown.lines().count(), 1, "{shown:?}");
    assert!(shown.contains("acme/eve\\u{1b}[2J\\n\\u{202e}") && shown.contains("ls a\\tb"), "{shown:?}");
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
