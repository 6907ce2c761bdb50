//! A policy in C, from policies/examples/c-terminal: the interface is not Rust's own.

#![allow(clippy::disallowed_methods, reason = "tests start the compiler")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tempfile::TempDir;
use wit_component::{StringEncoding, metadata};
use wit_parser::Resolve;

use crate::support::{Client, Gateway, needs, run, tenants};

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/examples/c-terminal")
}

/// The built module; `None` where there is no compiler for it.
fn built(directory: &TempDir) -> Option<PathBuf> {
    let there =
        |program: &str| Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
    let both = there("clang") && there("wasm-ld");
    if !needs(both, "the policy in C takes clang and wasm-ld (apt-get install clang lld)") {
        return None;
    }
    let module = directory.path().join("terminal_group.wasm");
    let done = Command::new("sh").arg(example().join("build.sh")).arg(&module).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Some(module)
}

/// Two tenants under the shipped policies and the one in C; the second is of the group.
fn config(module: &Path, settings: &str) -> String {
    let two = tenants::in_groups(&[], &["staff", "interactive"]);
    format!("{two}{}[policy.terminal]\nmodule = {module:?}\nsettings = {settings}\n", tenants::POLICIES)
}

#[test]
fn a_policy_in_c_decides() {
    let directory = tempfile::tempdir().unwrap();
    let Some(module) = built(&directory) else { return };
    let gateway = Gateway::with(&config(&module, "{ group = \"interactive\" }"));
    run(async {
        let mut a = Client::with(&gateway, &[("authorization", "Bearer aa")]).await.unwrap();
        let mut b = Client::with(&gateway, &[("authorization", "Bearer bb")]).await.unwrap();
        let terminal = json!({"argv": ["true"], "pty": {"rows": 24, "cols": 80}});
        let job = a.start(&["echo", "no terminal"]).await;
        assert_eq!(a.output(&job, "stdout").await, b"no terminal\n");
        let error = a.call("job.start", terminal.clone()).await.unwrap_err();
        let data = &error["data"];
        assert_eq!(
            (&data["kind"], &data["policy"]),
            (&json!("policy_denied"), &json!("terminal")),
            "{error}"
        );
        assert_eq!(data["rules"], json!(["terminal"]));
        assert!(data["remedy"].as_str().unwrap().contains("without a terminal"), "{error}");
        assert!(b.call("job.start", terminal).await.is_ok());
    });
}

#[test]
fn a_policy_in_c_says_what_is_wrong_with_its_settings() {
    let directory = tempfile::tempdir().unwrap();
    let Some(module) = built(&directory) else { return };
    for settings in
        ["{}", "{ group = \"\" }", "{ group = \"a\", more = 1 }", "{ group = \"a\\\\b\" }", "{ group = 1 }"]
    {
        let file = directory.path().join("config.toml");
        std::fs::write(&file, config(&module, settings)).unwrap();
        let checked =
            Gateway::command(&directory).args(["policy", "check", "--config"]).arg(&file).output().unwrap();
        let text = String::from_utf8_lossy(&checked.stderr);
        assert_eq!(checked.status.code(), Some(1), "{settings}: {text}");
        assert!(text.contains("exactly one setting is taken"), "{settings}: {text}");
    }
}

/// The world as an assembler's custom section. A compiler of another language knows no interface files: this tells the
/// host which world the module implements.
fn world() -> String {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("wit")).unwrap();
    let world = resolve.select_world(&[package], Some("command-policy")).unwrap();
    let bytes = metadata::encode(&resolve, world, StringEncoding::UTF8, None).unwrap();
    let mut text = "# Generated from the interface files in wit/ by tests/it/guest_in_c.rs; after a change of them run it with\n\
                    # UPDATE_WORLD=1. This is the world command-policy in its binary form (the component model's), as a custom\n\
                    # section of the module: the host reads from it which interfaces the exports belong to.\n\
                    \t.section \".custom_section.component-type:command-policy\",\"\",@\n"
        .to_owned();
    for line in bytes.chunks(32) {
        let line: Vec<_> = line.iter().map(|byte| format!("0x{byte:02x}")).collect();
        let _ = writeln!(text, "\t.byte {}", line.join(","));
    }
    text
}

#[test]
fn the_world_of_the_policy_in_c_is_that_of_the_interface_files() {
    let file = example().join("world.s");
    if std::env::var_os("UPDATE_WORLD").is_some() {
        std::fs::write(&file, world()).unwrap();
    }
    assert!(
        std::fs::read_to_string(&file).unwrap_or_default() == world(),
        "run this test with UPDATE_WORLD=1"
    );
}
