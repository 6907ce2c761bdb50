//! Version 1.0.0 of the interfaces is frozen: what was built against it is taken for ever.

use std::path::{Path, PathBuf};

use execgate::policy::{Module, Policies, PolicySettings, Settings};
use sha2::{Digest as _, Sha256};

use crate::support::guest::Guest;
use crate::support::request::command;

/// A guest compiled when 1.0.0 was frozen, as it came out of the toolchain of that day. Never built again.
fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/guest-1.0.0.wasm")
}

#[test]
fn a_guest_compiled_against_1_0_0_is_taken_and_decides() {
    let settings = PolicySettings { module: Module::File(fixture()), ..PolicySettings::builtin("old", "{}") };
    let policies = Policies::load(&Settings::of(vec![settings])).unwrap().pin();
    assert_eq!(policies.list()[0].hooks, ["command"]);
    let ballots = policies.review_here(&command(&["ls"]));
    assert!(ballots[0].outcome.is_ok(), "{ballots:?}");
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
fn the_fixture_is_made() {
    assert!(!fixture().exists(), "a frozen guest is never built again");
    std::fs::write(fixture(), Guest::default().module()).unwrap();
}
