//! `doctor`: true in every tier, as root and as an ordinary user, and each time saying what would make it better.

#![allow(clippy::disallowed_methods, reason = "tests start the program under test")]

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::{Gateway, needs_root};

fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

/// The program with these arguments, as nobody when so wanted.
fn program(as_nobody: bool, arguments: &[&str]) -> Command {
    let user = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let mut command = Command::new(if as_nobody { "setpriv" } else { "env" });
    command.args(if as_nobody { &user[..] } else { &[] }).arg(env!("CARGO_BIN_EXE_execgate")).args(arguments);
    command.env_clear().env("HOME", "/tmp").env("PATH", std::env::var_os("PATH").unwrap());
    command.stdin(Stdio::null());
    command
}

/// `doctor` with these arguments, as nobody when so wanted.
fn doctor(as_nobody: bool, arguments: &[&str]) -> Output {
    program(as_nobody, &[&["doctor"], arguments].concat()).output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
}

fn notes(value: &Value) -> String {
    value["notes"].as_array().unwrap().iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
}

#[test]
fn each_tier_that_is_forced_is_the_one_that_is_told() {
    for nobody in [false, true] {
        if nobody && !needs_root() {
            continue;
        }
        let ordinary = nobody || !is_root();
        for tier in ["A", "A'", "B", "C"] {
            let force = format!("containment.force={tier}");
            let told = doctor(nobody, &["--json", "--set", &force]);
            if ordinary && tier.starts_with('A') {
                // Unless somebody delegated a group to this user.
                if told.status.success() {
                    continue;
                }
                let said = String::from_utf8_lossy(&told.stderr);
                assert!(said.contains("is not to be had") && said.contains("group"), "{said}");
                let steps = ["Delegate=yes", "hand over a group", "container", "mount"];
                assert!(steps.iter().any(|step| said.contains(step)), "no step is named: {said}");
                continue;
            }
            let value = json(&told);
            assert_eq!(value["tier"], tier, "{value}");
            assert!(value["spawn_us"].is_u64() && told.status.success(), "{value}");
            let exact = value["pause"].as_str().unwrap().contains("acknowledged");
            assert_eq!(exact, tier.starts_with('A'));
            assert_eq!(notes(&value).contains("no exact containment"), tier == "C");
        }
    }
}

#[test]
fn a_terminal_that_jobs_could_open_is_told() {
    let master =
        rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let slave = std::fs::File::open(name.to_str().unwrap()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let told = |options: &[&str]| {
        let plain = Gateway::command(&directory);
        let mut command = Command::new("setsid");
        command.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.args(options).arg(plain.get_program()).args(["doctor", "--json"]);
        notes(&json(&command.stdin(slave.try_clone().unwrap()).output().unwrap()))
    };
    assert!(told(&["-w", "-c"]).contains("terminal that this was started from"));
    assert!(!told(&["-w"]).contains("terminal that this was started from"));
}

#[test]
fn a_start_warns_of_limits_that_this_host_cannot_keep_for_a_job() {
    for nobody in [false, true] {
        if nobody && !needs_root() {
            continue;
        }
        let lacking = notes(&json(&doctor(nobody, &["--json"]))).contains("no pids controller");
        for (limited, set) in [(true, "tenant.acme.limits.processes=20"), (false, "limits.jobs=20")] {
            let mut serve = program(nobody, &["serve", "--listen", "127.0.0.1:0", "--set", set]);
            let directory = tempfile::tempdir().unwrap();
            std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).unwrap();
            serve.env("XDG_STATE_HOME", directory.path()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut child = serve.spawn().unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
            let warned = |line: &String| line.starts_with("warning:") && line.contains("no pids controller");
            let mut banner = Vec::new();
            for line in &mut lines {
                let is_last = line.starts_with("memory:");
                banner.push(line);
                if is_last {
                    break;
                }
            }
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(banner.iter().any(warned), lacking && limited, "{banner:?}");
        }
    }
}

#[test]
fn an_ordinary_user_is_told_the_step_to_the_better_tier() {
    if !needs_root() {
        return;
    }
    let value = json(&doctor(true, &["--json"]));
    if value["tier"] == "B" || value["tier"] == "C" {
        assert!(notes(&value).contains("not tier A"), "{value}");
        let steps = ["Delegate=yes", "hand over a group", "container", "mount"];
        assert!(steps.iter().any(|step| notes(&value).contains(step)), "{value}");
    }
    let text = doctor(true, &[]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("containment  tier "), "{text:?}");
}

#[test]
fn exact_containment_that_is_not_to_be_had_refuses_to_start_and_says_so() {
    let required = ["--set", "containment.require=exact", "--set", "containment.force=C"];
    let told = doctor(false, &[&["--json"][..], &required].concat());
    assert!(!told.status.success());
    assert_eq!(json(&told)["would_start"], false);
    let directory = tempfile::tempdir().unwrap();
    let mut serve = Gateway::command(&directory);
    let refused = serve.args(["serve", "--listen", "127.0.0.1:0"]).args(required).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("tier C") && said.contains("doctor"), "{said}");
    assert!(said.contains("take containment.force out"), "the host may give more: {said}");
    let told = doctor(false, &required);
    let said = String::from_utf8_lossy(&told.stdout);
    assert!(said.contains("containment.force chooses it: serve would not start"), "{said}");
}
