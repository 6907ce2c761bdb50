//! The policies in policies/examples, built for WebAssembly and loaded by the real gateway.

#![allow(clippy::disallowed_methods, reason = "tests build the policies")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::json;

use crate::support::{Client, Gateway, run, tenants};

/// The folder of the built modules; built once.
fn modules() -> &'static Path {
    static MODULES: OnceLock<PathBuf> = OnceLock::new();
    MODULES.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let target = root.join("target/policies");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(root.join("policies"));
        cargo.args(["build", "--release", "--locked", "--target", "wasm32-unknown-unknown", "--target-dir"]);
        cargo.arg(&target);
        for name in [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "CARGO_BUILD_TARGET",
        ] {
            cargo.env_remove(name);
        }
        let done = cargo.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        target.join("wasm32-unknown-unknown/release")
    })
}

fn config(policies: &str) -> String {
    let two = tenants::in_groups(&["students"], &[]);
    format!(
        "{two}[policy.rules]\nmodule = \"builtin:command-rules\"\nsettings = {{ preset = \"developer\" }}\n{policies}"
    )
}

/// The same tables hold natively, by `cargo test` in policies/: here they are asked as WebAssembly, of the modules built from the same
/// sources.
#[test]
fn the_example_policies_hold_their_own_tables() {
    modules();
    let directory = tempfile::tempdir().unwrap();
    let mut test = Gateway::command(&directory);
    test.args(["policy", "test"]);
    let mut rows = 0;
    for example in ["group-budget", "path-jail", "two-person", "working-hours"] {
        let folder =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/examples").join(example).join("tests");
        for table in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            rows += std::fs::read_to_string(&table).unwrap().matches("\n[[case]]").count();
            test.arg(table);
        }
    }
    let done = test.output().unwrap();
    let told = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
    assert!(rows >= 60 && told.contains(&format!("{rows} passed, 0 failed")), "{rows} rows: {told}");
}

#[test]
fn a_module_with_two_hooks_has_both() {
    let module = modules().join("group_budget.wasm");
    let policies = format!(
        "[policy.budget]\nmodule = {module:?}\n[[policy.budget.settings.budgets]]\ngroup = \"students\"\nsessions = 2\njobs = 2\n\
         points_per_hour = 1\nburst = 3\ncosts = {{ echo = 2 }}\n"
    );
    let gateway = Gateway::with(&config(&policies));
    run(async {
        let mut a = Client::with(&gateway, &[("authorization", "Bearer aa")]).await.unwrap();
        let job = a.start(&["echo", "paid"]).await;
        assert_eq!(a.output(&job, "stdout").await, b"paid\n");
        let refused = a.call("job.start", json!({"argv": ["echo"]})).await.unwrap_err();
        assert_eq!(refused["data"]["kind"], "rate_limited", "{refused}");
        a.start(&["true"]).await;
        let mut b = Client::with(&gateway, &[("authorization", "Bearer bb")]).await.unwrap();
        let refused = b.call("session.open", json!({})).await.unwrap_err();
        assert_eq!(refused["data"]["rules"], json!(["budget"]), "{refused}");
    });
}

#[test]
fn policies_that_only_refuse_stand_beside_others() {
    let module = |name: &str| modules().join(name).display().to_string();
    let policies = format!(
        "[policy.quota]\nmodule = \"builtin:session-quota\"\n[policy.jail]\nmodule = {:?}\nsettings = {{ roots = [\"/tmp\"] }}\n\
         [policy.hours]\nmodule = {:?}\nsettings = {{ zone = \"UTC\", hours = [{{ days = [1,2,3,4,5,6,7], from = \"00:00\", to = \"24:00\" }}] }}\n\
         [policy.approval]\nmodule = {:?}\nsettings = {{ approvers = [\"bob\"], commands = [{{ id = \"stop\", programs = [\"false\"] }}] }}\n",
        module("path_jail.wasm"),
        module("working_hours.wasm"),
        module("two_person.wasm")
    );
    let gateway = Gateway::with(&config(&policies));
    run(async {
        let mut a = Client::with(&gateway, &[("authorization", "Bearer aa")]).await.unwrap();
        let inside = json!({"argv": ["echo", "/tmp/x"], "cwd": "/tmp"});
        assert!(a.call("job.start", inside).await.is_ok());
        for (argv, policy) in [(json!(["cat", "../etc/passwd"]), "jail"), (json!(["false"]), "approval")] {
            let refused = a.call("job.start", json!({"argv": argv, "cwd": "/tmp"})).await.unwrap_err();
            assert_eq!(refused["data"]["policy"], policy, "{refused}");
        }
    });
}
