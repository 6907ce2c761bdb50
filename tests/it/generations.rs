//! Replacing the policies while they decide: whole, only by what holds, and the last good ones stay.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use execgate::policy::{Policies, PolicySettings, Settings};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::guest::Guest;
use crate::support::request::command;
use crate::support::{Client, Gateway, PATIENCE, eventually, proc, run};

const ALLOW: &str = "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.const 1024)";
const DENY: &str = "(i32.store8 (i32.const 1024) (i32.const 2)) (i32.const 1024)";

/// A gateway whose commands are decided by one guest in a file of its own.
fn gateway(directory: &Path, more: &str) -> (Gateway, PathBuf) {
    let module = directory.join("guest.wasm");
    replace(&module, ALLOW);
    let config = format!(
        "[policy.quota]\nmodule = \"builtin:session-quota\"\n[policy.guest]\nmodule = {module:?}\n{more}\n"
    );
    (Gateway::with(&config), module)
}

/// Puts another module in the place of the old one, whole.
fn replace(module: &Path, review: &str) {
    put(module, &Guest { review, ..Guest::default() }.module());
}

fn put(path: &Path, bytes: &[u8]) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, bytes).unwrap();
    std::fs::rename(beside, path).unwrap();
}

async fn is_allowed(client: &mut Client) -> bool {
    client.call("job.start", json!({"argv": ["true"]})).await.is_ok()
}

async fn listed(client: &mut Client) -> Value {
    client.call("policy.list", json!({})).await.unwrap()
}

/// Waits until the list of policies is so.
fn eventually_listed(gateway: &Gateway, what: &str, fits: impl Fn(&Value) -> bool) {
    eventually(PATIENCE, what, || {
        run(async {
            let mut client = Client::connect(gateway).await;
            fits(&listed(&mut client).await)
        })
    });
}

#[test]
fn a_changed_module_comes_into_force_by_itself_and_a_bad_one_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let (gateway, module) = gateway(directory.path(), "");
    run(async { assert!(is_allowed(&mut Client::connect(&gateway).await).await) });
    replace(&module, DENY);
    eventually_listed(&gateway, "the new module is in force", |list| list["generation"].as_u64() > Some(1));
    run(async { assert!(!is_allowed(&mut Client::connect(&gateway).await).await) });
    put(&module, b"no module at all");
    eventually_listed(&gateway, "the failure is told", |list| {
        list["failed"]["why"].as_str().is_some_and(|why| why.contains("guest") && why.contains("WebAssembly"))
    });
    run(async {
        let mut client = Client::connect(&gateway).await;
        assert_eq!(client.refused("job.start", json!({"argv": ["true"]})).await, "policy_denied");
        assert_eq!(listed(&mut client).await["failed_reloads"], 1);
    });
    assert!(gateway.log().contains("the one in force stays"));
}

#[test]
fn a_hangup_reads_the_configuration_again_as_far_as_policies_go() {
    let directory = tempfile::tempdir().unwrap();
    let (gateway, _module) = gateway(directory.path(), "");
    let file = gateway.directory.path().join("test.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let deny_all = "[policy.zz]\nmodule = \"builtin:command-rules\"\nsettings = { preset = \"read-only\" }\n";
    std::fs::write(&file, format!("{deny_all}{before}")).unwrap();
    gateway.signal(Signal::SIGHUP);
    eventually_listed(&gateway, "the new policy is in force", |list| {
        list["policies"].as_array().unwrap().len() == 3
    });
    run(async {
        let mut client = Client::connect(&gateway).await;
        assert_eq!(client.refused("job.start", json!({"argv": ["rm", "x"]})).await, "policy_denied");
    });
    std::fs::write(&file, format!("[policy.zz]\nmodule = \"builtin:nothing-like-it\"\n{before}")).unwrap();
    gateway.signal(Signal::SIGHUP);
    eventually_listed(&gateway, "the failure is told", |list| list["failed_reloads"] == 1);
    eventually_listed(&gateway, "the last good ones stay", |list| {
        list["policies"].as_array().unwrap().len() == 3
    });
}

#[test]
fn an_admin_reloads_and_is_told_what_came_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let (gateway, module) = gateway(directory.path(), "");
    run(async {
        let mut client = Client::connect(&gateway).await;
        let reloaded = client.call("policy.reload", json!({})).await.unwrap();
        assert!(reloaded["changed"].as_str().unwrap().contains("generation"), "{reloaded}");
        assert!(listed(&mut client).await["generation"].as_u64() > Some(1));
        put(&module, b"\x7fELF");
        let failed = client.call("policy.reload", json!({})).await.unwrap_err();
        assert!(failed["message"].as_str().unwrap().contains("native code"), "{failed}");
        assert!(is_allowed(&mut client).await);
    });
}

#[test]
fn a_policy_whose_own_cases_fail_does_not_come_into_force() {
    let directory = tempfile::tempdir().unwrap();
    let table = directory.path().join("cases.toml");
    std::fs::write(&table, "[[case]]\nname = \"true runs\"\nargv = [\"true\"]\nexpect = \"allow\"\n")
        .unwrap();
    let (gateway, module) = gateway(directory.path(), &format!("tests = {table:?}"));
    replace(&module, DENY);
    eventually_listed(&gateway, "the failure is told", |list| {
        list["failed"]["why"]
            .as_str()
            .is_some_and(|why| why.contains("true runs") && why.contains("expected allow"))
    });
    run(async { assert!(is_allowed(&mut Client::connect(&gateway).await).await) });
}

/// Number P4. Two policies, and generations that differ in the settings of both: no decision may see one of each, and none may
/// fail, while sets are swapped as fast as they load.
#[test]
fn no_decision_mixes_generations_or_fails_while_they_are_swapped() {
    let both = |preset: &str| {
        let settings = format!("{{\"preset\":\"{preset}\"}}");
        ["one", "two"].map(|name| PolicySettings {
            name: name.to_owned(),
            // What is tried is the swap: on a starved machine a decision may take its time.
            budget: Duration::from_secs(1),
            ..PolicySettings::builtin("command-rules", &settings)
        })
    };
    let sets = [both("developer"), both("unrestricted")];
    let policies = Policies::load(&Settings::of(sets[0].to_vec())).unwrap();
    let prepared: Vec<_> = (0..2).map(|n| policies.prepare(&sets[n]).unwrap()).collect();
    let (stop, decided) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let askers: Vec<_> = (0..2)
        .map(|_| {
            let (policies, stop, decided) = (policies.clone(), stop.clone(), decided.clone());
            std::thread::spawn(move || {
                let request = command(&["ls", "-l"]);
                while !stop.load(Ordering::Relaxed) {
                    let ballots = policies.pin().review_here(&request);
                    assert_eq!(ballots.len(), 2);
                    assert!(ballots.iter().all(|b| b.outcome.is_ok()), "a decision failed: {ballots:?}");
                    assert_eq!(
                        ballots[0].author.settings, ballots[1].author.settings,
                        "a decision saw two generations"
                    );
                    decided.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let (mut swaps, mut slowest) = (0, Duration::ZERO);
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until || swaps < 1_000 {
        // Now and then one is really loaded beside the deciding; mostly the swap itself is what is tried.
        let next = if swaps % 500 == 499 {
            policies.prepare(&sets[swaps % 2]).unwrap()
        } else {
            prepared[swaps % 2].clone()
        };
        let since = Instant::now();
        policies.install(next);
        slowest = slowest.max(since.elapsed());
        swaps += 1;
        std::thread::yield_now();
    }
    stop.store(true, Ordering::Relaxed);
    askers.into_iter().for_each(|asker| asker.join().unwrap());
    let decided = decided.load(Ordering::Relaxed);
    eprintln!("P4: {decided} decisions under {swaps} swaps, 0 failed, 0 mixed; slowest swap {slowest:?}");
    assert!(decided > 100 && swaps > 100, "{decided} decisions, {swaps} swaps");
}

#[test]
fn what_compiling_takes_is_given_back_after_every_reload() {
    let gateway = Gateway::start();
    let start = proc::rss(gateway.pid());
    for generation in 2..=10 {
        gateway.signal(Signal::SIGHUP);
        eventually_listed(&gateway, "reloaded", |list| list["generation"] == generation);
    }
    // Kept contexts of the compiler and free memory of its threads were 14 MiB and more.
    let grown = || proc::rss(gateway.pid()).saturating_sub(start) >> 20;
    eventually(PATIENCE, "memory is back", || grown() < 8);
}
