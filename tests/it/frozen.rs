//! Version 1.0.0 of the interfaces is frozen: what was built against it is taken for ever.

use std::path::{Path, PathBuf};

use execgate::domain::SessionRequest;
use execgate::policy::{Module, Pinned, Policies, PolicySettings, Settings};
use execgate::verdict::Verdict;
use sha2::{Digest as _, Sha256};

use crate::support::guest::{Guest, MEMORY, embed};
use crate::support::request::command;

/// Guests compiled when 1.0.0 was frozen, as they came out of the toolchain of that day, one a hook. Never built again.
fn fixture(hook: &str) -> PathBuf {
    let name = if hook == "command" { "guest-1.0.0.wasm".to_owned() } else { format!("{hook}-1.0.0.wasm") };
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn loaded(hook: &str) -> Pinned {
    let settings =
        PolicySettings { module: Module::File(fixture(hook)), ..PolicySettings::builtin("old", "{}") };
    let policies = Policies::load(&Settings::of(vec![settings])).unwrap().pin();
    assert_eq!(policies.list()[0].hooks, [hook]);
    policies
}

#[test]
fn a_guest_compiled_against_1_0_0_is_taken_and_decides() {
    let ballots = loaded("command").review_here(&command(&["ls"]));
    assert!(ballots[0].outcome.is_ok(), "{ballots:?}");
}

#[test]
fn a_session_guest_compiled_against_1_0_0_is_taken_and_decides() {
    let asked = command(&["ls"]);
    let request = SessionRequest {
        principal: asked.principal.clone(),
        origin: asked.origin.clone(),
        when: asked.when.clone(),
        session: asked.session,
        labels: asked.labels.clone(),
        usage: asked.usage,
    };
    let ballots = loaded("session").admit_here(&request);
    assert!(matches!(&ballots[0].outcome, Ok(Verdict::Deny(d)) if d.code == "frozen"), "{ballots:?}");
}

#[test]
fn a_rate_guest_compiled_against_1_0_0_is_taken_and_decides() {
    let ballots = loaded("rate").charges_here(&command(&["ls"]).call());
    assert!(matches!(&ballots[0].outcome, Ok(Verdict::Deny(d)) if d.code == "frozen"), "{ballots:?}");
}

/// Words may be bettered, what they are about may not: growth is in the `attributes`, or in a new version in a folder of its own.
#[test]
fn the_interfaces_are_those_that_were_frozen() {
    const FROZEN: &str = "dc58dc762bff1f8a8d013cd9c34614e9b26096579f2c089cdc0ed7b4a7fc78d9";
    let mut files: Vec<_> = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("wit"))
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .collect();
    files.sort();
    let texts: Vec<_> = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let said = |line: &&str| !line.is_empty() && !line.starts_with("//");
    let lines: Vec<_> = texts.iter().flat_map(|text| text.lines().map(str::trim).filter(said)).collect();
    assert_eq!(
        format!("{:x}", Sha256::digest(lines.join("\n"))),
        FROZEN,
        "the interfaces of 1.0.0 were changed"
    );
}

#[test]
#[ignore = "made once, when 1.0.0 was frozen"]
fn the_fixtures_are_made() {
    // A frozen guest is never built again.
    let write = |hook: &str, module: Vec<u8>| {
        if !fixture(hook).exists() {
            std::fs::write(fixture(hook), module).unwrap();
        }
    };
    write("command", Guest::default().module());
    // A denial with a code: where its text is named differs by the alignment of the other answers.
    let denies = |hook: &str, func: &str, case: u8, code: u8| {
        let zeros = "\\00".repeat(usize::from(code) - 1);
        let text = format!(
            r#"(module
                {MEMORY}
                (func (export "execgate:policy/plugin@1.0.0#describe") (result i32) (i32.const 1024))
                (func (export "execgate:policy/plugin@1.0.0#configure") (param i32 i32) (result i32) (i32.const 1024))
                (func (export "execgate:policy/{hook}@1.0.0#{func}") (param i32) (result i32) (i32.const 2048))
                (data (i32.const 2048) "\{case:02x}{zeros}\00\10\00\00\06")
                (data (i32.const 4096) "frozen"))"#
        );
        let mut module = wat::parse_str(text).unwrap();
        embed(&mut module, &format!("{hook}-policy"));
        write(hook, module);
    };
    denies("session", "admit", 2, 8);
    denies("rate", "charge-for", 1, 4);
}
