//! Policies that misbehave: refused at load with what to change, or denied by name, and the next decision is served.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::decision_log::lines;
use crate::support::guest::{Guest, embed};
use crate::support::{Client, Gateway, PATIENCE, eventually, run, tenants};

fn written(directory: &Path, module: &[u8]) -> PathBuf {
    let path = directory.join("guest.wasm");
    std::fs::write(&path, module).unwrap();
    path
}

/// Two tenants under the shipped policies; decisions about the first go through the guest too.
fn config(guest: &Path) -> String {
    let two = tenants::two();
    format!("{two}[policy.hostile]\nmodule = {guest:?}\nmatch = {{ tenants = [\"a\"] }}\n")
}

/// The guest's tenant is denied with this fault, again and again; its neighbour is served at the same time. The operator's log.
fn is_denied_by_name(guest: Guest<'_>, fault: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let gateway = Gateway::with(&config(&written(directory.path(), &guest.module())));
    run(async {
        let mut a = Client::with(&gateway, &[("authorization", "Bearer aa")]).await.unwrap();
        let mut b = Client::with(&gateway, &[("authorization", "Bearer bb")]).await.unwrap();
        for _ in 0..20 {
            let denied = a.send("job.start", json!({"argv": ["true"]})).await;
            let job = b.start(&["echo", "served"]).await;
            assert_eq!(b.output(&job, "stdout").await, b"served\n");
            let error = a.answer(denied).await.unwrap_err();
            assert_eq!(error["code"], -32013, "{error}");
            assert_eq!(error["data"]["policy"], "hostile");
            assert_eq!(error["data"]["fault"], fault, "{error}");
        }
    });
    gateway.log()
}

/// The load is refused, and what is said contains each of these.
fn is_refused_at_load(module: &[u8], said: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let guest = written(directory.path(), module);
    let file = directory.path().join("config.toml");
    std::fs::write(&file, config(&guest)).unwrap();
    let checked =
        Gateway::command(&directory).args(["policy", "check", "--config"]).arg(&file).output().unwrap();
    let text = String::from_utf8_lossy(&checked.stderr);
    assert_eq!(checked.status.code(), Some(1), "{text}");
    for part in said.iter().chain(&["hostile"]) {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn a_guest_that_abstains_leaves_the_decision_to_others() {
    let directory = tempfile::tempdir().unwrap();
    let gateway = Gateway::with(&config(&written(directory.path(), &Guest::default().module())));
    run(async {
        let mut a = Client::with(&gateway, &[("authorization", "Bearer aa")]).await.unwrap();
        let job = a.start(&["echo", "well"]).await;
        assert_eq!(a.output(&job, "stdout").await, b"well\n");
    });
}

#[test]
fn a_guest_that_loops_is_stopped_at_its_budget() {
    is_denied_by_name(Guest { review: "(loop $l (br $l)) (unreachable)", ..Guest::default() }, "deadline");
}

#[test]
fn a_guest_that_grows_memory_for_ever_meets_its_cap() {
    let grow = "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)";
    is_denied_by_name(Guest { review: grow, ..Guest::default() }, "memory");
}

/// One long text, pointed at many times, is little in the guest's memory and much in ours.
#[test]
fn a_guest_whose_answer_is_larger_than_its_memory_is_stopped_before_it_is_ours() {
    let answer = "(local $i i32)
        (loop $l
            (i32.store (i32.add (i32.const 110000) (i32.mul (local.get $i) (i32.const 8))) (i32.const 4096))
            (i32.store (i32.add (i32.const 110004) (i32.mul (local.get $i) (i32.const 8))) (i32.const 32768))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $l (i32.lt_u (local.get $i) (i32.const 126))))
        (i32.store8 (i32.const 2048) (i32.const 1))
        (i32.store (i32.const 2056) (i32.const 110000))
        (i32.store (i32.const 2060) (i32.const 126))
        (i32.const 2048)";
    let log = is_denied_by_name(Guest { review: answer, ..Guest::default() }, "bad_answer");
    assert!(log.contains("too much data"), "{log}");
}

#[test]
fn a_guest_that_traps_is_denied_and_started_afresh() {
    is_denied_by_name(Guest { review: "(unreachable)", ..Guest::default() }, "trap");
}

#[test]
fn a_guest_that_recurses_without_end_overflows_its_own_stack() {
    let recurse = Guest {
        fields: "(func $r (param i32) (result i32) (i32.add (call $r (local.get 0)) (i32.const 1)))",
        review: "(call $r (i32.const 0))",
        ..Guest::default()
    };
    is_denied_by_name(recurse, "trap");
}

#[test]
fn a_guest_that_answers_nonsense_is_denied() {
    let elsewhere = Guest { review: "(i32.const 0x7ffffff0)", ..Guest::default() };
    is_denied_by_name(elsewhere, "bad_answer");
    let no_such_case =
        Guest { review: "(i32.store8 (i32.const 1024) (i32.const 9)) (i32.const 1024)", ..Guest::default() };
    is_denied_by_name(no_such_case, "bad_answer");
}

/// A counter in a global and a mark in memory: both would be seen by the second decision if anything were shared.
#[test]
fn a_guest_that_keeps_state_finds_none_of_it_in_the_next_decision() {
    let counting = Guest {
        fields: "(global $count (mut i32) (i32.const 0))",
        review: "(if (i32.or (global.get $count) (i32.load (i32.const 60000))) (then (unreachable)))
                 (global.set $count (i32.const 1)) (i32.store (i32.const 60000) (i32.const 1)) (i32.const 1024)",
        ..Guest::default()
    };
    let directory = tempfile::tempdir().unwrap();
    let gateway = Gateway::with(&config(&written(directory.path(), &counting.module())));
    run(async {
        let mut a = Client::with(&gateway, &[("authorization", "Bearer aa")]).await.unwrap();
        for _ in 0..50 {
            a.start(&["true"]).await;
        }
    });
}

#[test]
fn a_guest_that_imports_wasi_is_refused_and_told_how_to_be_built() {
    let clock =
        "(import \"wasi_snapshot_preview1\" \"clock_time_get\" (func (param i32 i64 i32) (result i32)))";
    let guest = Guest { imports: clock, ..Guest::default() };
    is_refused_at_load(&guest.module(), &["wasi_snapshot_preview1", "wasm32-unknown-unknown"]);
}

#[test]
fn a_guest_that_imports_anything_else_is_refused_by_name() {
    let guest = Guest { imports: "(import \"env\" \"open\" (func (param i32)))", ..Guest::default() };
    is_refused_at_load(&guest.module(), &["env"]);
}

#[test]
fn a_guest_that_loops_while_it_starts_or_configures_is_refused() {
    let start = Guest { fields: "(func $s (loop $l (br $l))) (start $s)", ..Guest::default() };
    is_refused_at_load(&start.module(), &["broke"]);
    let configure = Guest { configure: "(loop $l (br $l)) (unreachable)", ..Guest::default() };
    is_refused_at_load(&configure.module(), &["broke"]);
}

#[test]
fn what_is_no_policy_is_refused_with_what_to_change() {
    is_refused_at_load(b"\x7fELF\x02\x01\x01", &["native code", "wasm32-unknown-unknown"]);
    is_refused_at_load(b"hello", &["not a WebAssembly module"]);
    is_refused_at_load(&wat::parse_str("(module)").unwrap(), &["execgate:policy"]);
    is_refused_at_load(&vec![0; 5 << 20], &["4 MiB"]);
    let mut hookless = wat::parse_str("(module (memory (export \"memory\") 1))").unwrap();
    embed(&mut hookless, "command-policy");
    is_refused_at_load(&hookless, &["execgate:policy"]);
}

#[test]
fn a_guest_that_was_built_against_another_version_is_told_which() {
    let older = "(import \"execgate:policy/log@0.9.0\" \"log\" (func (param i32 i32 i32)))";
    let guest = Guest { imports: older, ..Guest::default() };
    is_refused_at_load(&guest.module(), &["execgate:policy/log@0.9.0", "1.0.0"]);
}

#[test]
fn a_guest_without_an_export_is_told_which() {
    let mut module = wat::parse_str(
        r#"(module (memory (export "memory") 1)
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (unreachable))
            (func (export "execgate:policy/command@1.0.0#review") (param i32) (result i32) (i32.const 1024)))"#,
    )
    .unwrap();
    embed(&mut module, "command-policy");
    is_refused_at_load(&module, &["plugin"]);
}

/// More than any policy needs, asked for in the module itself: refused before anything of it runs.
#[test]
fn a_guest_that_is_too_much_from_the_start_is_refused() {
    for fields in [
        "(table 10000000 funcref)".to_owned(),
        "(memory 65536)".to_owned(),
        "(memory 1)".repeat(100),
        "(table 10 funcref)".repeat(100),
    ] {
        is_refused_at_load(&Guest { fields: &fields, ..Guest::default() }.module(), &[]);
    }
}

#[test]
fn a_guest_with_a_table_of_sixty_thousand_branches_costs_no_more_than_its_budget() {
    let branches = format!(
        "(block $l (br_table {} (i32.load (i32.const 60000)))) (i32.const 1024)",
        "$l ".repeat(60_000)
    );
    let directory = tempfile::tempdir().unwrap();
    let module = Guest { review: &branches, ..Guest::default() }.module();
    let gateway = Gateway::with(&config(&written(directory.path(), &module)));
    run(async {
        let mut a = Client::with(&gateway, &[("authorization", "Bearer aa")]).await.unwrap();
        a.start(&["true"]).await;
    });
}

#[test]
fn a_guest_that_grows_a_table_for_ever_is_denied() {
    let grow = Guest {
        fields: "(table $t 1 funcref)",
        review: "(loop $l (br_if $l (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1)))) (unreachable)",
        ..Guest::default()
    };
    let directory = tempfile::tempdir().unwrap();
    let gateway = Gateway::with(&config(&written(directory.path(), &grow.module())));
    run(async {
        let mut a = Client::with(&gateway, &[("authorization", "Bearer aa")]).await.unwrap();
        assert_eq!(a.refused("job.start", json!({"argv": ["true"]})).await, "policy_failed");
    });
}

#[test]
fn a_guest_that_answers_more_than_the_bounds_is_denied() {
    // A denial with a thousand empty rules.
    let many = "(i32.store8 (i32.const 1024) (i32.const 2)) (i32.store (i32.const 1060) (i32.const 2048)) \
                (i32.store (i32.const 1064) (i32.const 1000)) (i32.const 1024)";
    is_denied_by_name(Guest { review: many, ..Guest::default() }, "bad_answer");
}

/// Allows, and confines the job by the profile "nonesuch": the list of one text is at 128 bytes of the answer.
const CONFINES: Guest<'static> = Guest {
    imports: "",
    fields: "(data (i32.const 2048) \"nonesuch\")",
    configure: "(i32.const 1024)",
    review: "(i32.store8 (i32.const 1024) (i32.const 1))
             (i32.store (i32.const 1152) (i32.const 3072)) (i32.store (i32.const 1156) (i32.const 1))
             (i32.store (i32.const 3072) (i32.const 2048)) (i32.store (i32.const 3076) (i32.const 8))
             (i32.const 1024)",
};

#[test]
fn a_guest_that_confines_by_a_profile_nobody_configured_is_broken_and_the_log_says_so() {
    is_denied_by_name(CONFINES, "bad_answer");
    let directory = tempfile::tempdir().unwrap();
    let (guest, log) = (written(directory.path(), &CONFINES.module()), directory.path().join("decisions"));
    let gateway = Gateway::with(&format!("{}[audit]\npath = {log:?}\n", config(&guest)));
    let (of_a, of_b) = run(async {
        let mut a = Client::with(&gateway, &[("authorization", "Bearer aa")]).await.unwrap();
        let mut b = Client::with(&gateway, &[("authorization", "Bearer bb")]).await.unwrap();
        let error = a.call("job.start", json!({"argv": ["true"]})).await.unwrap_err();
        assert_eq!(error["data"]["kind"], "policy_failed", "{error}");
        let started = b.call("job.start", json!({"argv": ["true"]})).await.unwrap();
        (error["data"]["decision"].clone(), started["decision"].clone())
    });
    let of =
        |decision| lines(&log).into_iter().find(|l| l["hook"] == "command" && &l["decision"] == decision);
    eventually(PATIENCE, "both are in the log", || of(&of_a).is_some() && of(&of_b).is_some());
    let (broken, served) = (of(&of_a).unwrap(), of(&of_b).unwrap());
    assert_eq!(broken["fold"], json!({"outcome": "failed", "policy": "hostile", "fault": "bad_answer"}));
    assert_eq!(served["fold"]["outcome"], "allow");
    assert!(
        gateway.log().contains("configure [profile.nonesuch]"),
        "what to do is not told: {}",
        gateway.log()
    );
}

#[test]
fn a_guest_that_confines_by_a_profile_that_is_configured_has_its_way() {
    let directory = tempfile::tempdir().unwrap();
    let guest = written(directory.path(), &CONFINES.module());
    let profile = "[profile.nonesuch]\nnetwork = \"none\"\n";
    let gateway = Gateway::with(&format!("{}{profile}", config(&guest)));
    run(async {
        let mut a = Client::with(&gateway, &[("authorization", "Bearer aa")]).await.unwrap();
        let job = a.start(&["grep", "^Seccomp_filters", "/proc/self/status"]).await;
        let confined = a.output(&job, "stdout").await;
        let mut b = Client::with(&gateway, &[("authorization", "Bearer bb")]).await.unwrap();
        let job = b.start(&["grep", "^Seccomp_filters", "/proc/self/status"]).await;
        assert_ne!(
            confined,
            b.output(&job, "stdout").await,
            "the offline filter comes on top of that of base"
        );
    });
}
