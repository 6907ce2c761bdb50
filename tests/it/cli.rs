//! The program as a person at a prompt uses it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use serde_json::json;

use crate::support::pki::Pki;
use crate::support::{Client, Gateway, PATIENCE, eventually, run};

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_first_commands_of_the_readme() {
    let gateway = Gateway::start();
    let uname = gateway.cli(&["exec", "--", "uname", "-a"]).output().unwrap();
    assert!(uname.status.success() && out(&uname).starts_with("Linux "), "{uname:?}");
    let seven = gateway.cli(&["exec", "--", "sh", "-c", "exit 7"]).output().unwrap();
    assert_eq!(seven.status.code(), Some(7));
    let mut tr = gateway
        .cli(&["exec", "--", "tr", "a-z", "A-Z"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    tr.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    assert_eq!(out(&tr.wait_with_output().unwrap()), "HELLO\n");
}

#[test]
fn the_banner_says_what_is_in_force() {
    let gateway = Gateway::start();
    let banner = gateway.banner.join("\n");
    for words in [
        "listening on http://127.0.0.1:",
        "execgate exec --url http://",
        "command-rules",
        "session-quota",
        "rate-limit",
        "containment:  tier ",
    ] {
        assert!(banner.contains(words), "{words:?} is missing in:\n{banner}");
    }
}

#[test]
fn tls_to_a_gateway_without_it_says_which_url_to_use() {
    let gateway = Gateway::start();
    let url = format!("https://{}", gateway.address());
    let refused = gateway.cli(&["exec", "--url", &url, "--", "true"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(69), "{refused:?}");
    assert!(err(&refused).contains("does not speak TLS") && err(&refused).contains("http://"), "{refused:?}");
}

#[test]
fn a_refused_command_takes_leave_of_the_gateway() {
    let gateway = Gateway::start();
    assert_eq!(gateway.cli(&["exec", "--", "mount"]).output().unwrap().status.code(), Some(77));
    eventually(PATIENCE, "it is seen off", || gateway.log().contains("\"disconnected\""));
    assert!(!gateway.log().contains("\"reset\""), "{}", gateway.log());
}

#[test]
fn a_job_that_is_not_there_is_told_with_where_to_look() {
    let gateway = Gateway::start();
    let refused = gateway.cli(&["kill", "j_0123456789abcdef0123456789abcdef"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(err(&refused).contains("no such job") && err(&refused).contains("ps --all"), "{refused:?}");
}

#[test]
fn streams_stay_apart() {
    let gateway = Gateway::start();
    let both = gateway.cli(&["exec", "--", "sh", "-c", "echo out; echo err >&2"]).output().unwrap();
    assert_eq!((out(&both).as_str(), err(&both).as_str()), ("out\n", "err\n"));
}

#[test]
fn a_refusal_names_the_rule_and_what_to_do() {
    let gateway = Gateway::start();
    let denied = gateway.cli(&["exec", "--", "mount"]).output().unwrap();
    assert_eq!(denied.status.code(), Some(77));
    let said = err(&denied);
    for words in ["mount", "command-rules", "developer.admin-programs", "what to do:", "decision: d_"] {
        assert!(said.contains(words), "{words:?} is missing in: {said}");
    }
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let gateway = Gateway::start();
    let failed = gateway.cli(&["exec", "--", "no-such-program"]).output().unwrap();
    assert_eq!(failed.status.code(), Some(127));
    assert!(err(&failed).contains("no-such-program: no such file"), "{}", err(&failed));
    let directory = gateway.cli(&["exec", "--", "/etc/passwd"]).output().unwrap();
    assert_eq!(directory.status.code(), Some(126), "{}", err(&directory));
}

#[test]
fn a_job_of_a_detached_session_is_attached_to_and_written_to() {
    let gateway = Gateway::start();
    let job = run(async {
        let mut client = Client::connect(&gateway).await;
        let detach = json!({"on_disconnect": "detach", "detach_ttl_ms": 30_000});
        let session = client.call("session.open", detach).await.unwrap()["session"].clone();
        let cat = json!({"session": session, "argv": ["cat"], "stdin": "pipe"});
        let job = client.call("job.start", cat).await.unwrap()["job"].as_str().unwrap().to_owned();
        client.call("job.stdin", json!({"job": job, "data": "before\n"})).await.unwrap();
        client.event_of("job.output", &job).await;
        let mut looking = gateway.cli(&["attach", "--observe", &job]).stdout(Stdio::piped()).spawn().unwrap();
        let mut seen = String::new();
        BufReader::new(looking.stdout.take().unwrap()).read_line(&mut seen).unwrap();
        looking.kill().unwrap();
        looking.wait().unwrap();
        assert_eq!(seen, "before\n", "an observer gets what is kept");
        job
    });
    let mut attach = gateway
        .cli(&["attach", "--takeover", &job])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    attach.stdin.take().unwrap().write_all(b"after\n").unwrap();
    let output = attach.wait_with_output().unwrap();
    assert_eq!(out(&output), "before\nafter\n");
    assert!(output.status.success());
}

#[test]
fn a_shell_passes_on_its_exit_code_and_completions_are_printed() {
    let gateway = Gateway::start();
    let mut shell =
        gateway.cli(&["shell", "sh"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    shell.stdin.take().unwrap().write_all(b"exit 5\n").unwrap();
    assert_eq!(shell.wait_with_output().unwrap().status.code(), Some(5));
    for program in ["sh", "cat"] {
        let silent = gateway.cli(&["shell", program]).stdin(Stdio::null()).output().unwrap();
        assert_eq!(silent.status.code(), Some(0), "with nothing to read there is nothing to do: {silent:?}");
    }
    let bash = gateway.cli(&["completions", "bash"]).output().unwrap();
    assert!(out(&bash).contains("complete -F"), "{}", out(&bash));
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let lost = gateway.cli(&["completions", "bash"]).stdout(full).output().unwrap();
    assert_eq!(lost.status.code(), Some(1), "{lost:?}");
    assert!(err(&lost).contains("standard output cannot be written"), "{lost:?}");
}

#[test]
fn a_listing_whose_reader_went_away_ends_as_sigpipe_would() {
    let gateway = Gateway::start();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let listed = gateway.cli(&["config", "show"]).stdout(writer).output().unwrap();
    assert_eq!((listed.status.code(), err(&listed).as_str()), (Some(128 + 13), ""));
}

#[test]
fn a_signal_that_ends_the_command_shows_in_the_exit_code() {
    let gateway = Gateway::start();
    for (signal, number) in [("TERM", 15), ("34", 34)] {
        let script = format!("kill -{signal} $$");
        let killed = gateway.cli(&["exec", "--", "sh", "-c", &script]).output().unwrap();
        assert_eq!(killed.status.code(), Some(128 + number), "{signal}");
    }
}

#[test]
fn an_interrupt_is_passed_on() {
    let gateway = Gateway::start();
    let script = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.05; done";
    let mut child = gateway
        .cli(&["exec", "--", "sh", "-c", script])
        .stdout(Stdio::piped())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "caught");
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
fn a_killed_client_takes_its_job_along() {
    let gateway = Gateway::start();
    let mut child = gateway
        .cli(&["exec", "--", "sh", "-c", "setsid sleep 1000 & sleep 1000"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    eventually(PATIENCE, "the job runs", || gateway.survivors().len() >= 3);
    child.kill().unwrap();
    child.wait().unwrap();
    eventually(PATIENCE, "the job is gone", || gateway.survivors().is_empty());
}

#[test]
fn local_needs_no_server() {
    let directory = tempfile::tempdir().unwrap();
    let local = Gateway::command(&directory)
        .args(["exec", "--local", "--", "sh", "-c", "echo here; exit 3"])
        .output()
        .unwrap();
    assert_eq!((out(&local).as_str(), local.status.code()), ("here\n", Some(3)), "{}", err(&local));
}

#[test]
fn without_a_gateway_it_says_how_to_start_one() {
    let directory = tempfile::tempdir().unwrap();
    let no_token = Gateway::command(&directory).args(["exec", "--", "true"]).output().unwrap();
    assert_eq!(no_token.status.code(), Some(77));
    assert!(err(&no_token).contains("execgate serve"), "{}", err(&no_token));
    let mut aimed = Gateway::command(&directory);
    aimed.args(["exec", "--url", "http://127.0.0.1:1", "--", "true"]).env("EXECGATE_TOKEN", "x");
    let nobody = aimed.output().unwrap();
    assert_eq!(nobody.status.code(), Some(69));
    assert!(err(&nobody).contains("execgate serve") && err(&nobody).contains("--url"), "{}", err(&nobody));
}

#[test]
fn jobs_are_listed_and_killed() {
    let gateway = Gateway::start();
    let mut child = gateway
        .cli(&["exec", "--", "sleep", "1000"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut job = String::new();
    eventually(PATIENCE, "the job is listed", || {
        let listed = out(&gateway.cli(&["ps"]).output().unwrap());
        job = listed
            .lines()
            .find(|l| l.ends_with("sleep 1000"))
            .and_then(|l| l.split(' ').next())
            .unwrap_or_default()
            .to_owned();
        !job.is_empty()
    });
    let json = out(&gateway.cli(&["ps", "--json"]).output().unwrap());
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value[0]["job"], serde_json::json!(job));
    for command in ["pause", "resume", "kill"] {
        let done = gateway.cli(&[command, &job]).output().unwrap();
        assert!(done.status.success(), "{command}: {}", err(&done));
    }
    assert_eq!(child.wait().unwrap().code(), Some(128 + 9));
    let again = gateway.cli(&["kill", &job]).output().unwrap();
    assert!(!again.status.success() && err(&again).contains("has ended"), "{}", err(&again));
}

#[test]
fn doctor_and_policy_check_tell_what_is_so() {
    let directory = tempfile::tempdir().unwrap();
    let doctor = Gateway::command(&directory).args(["doctor", "--json"]).output().unwrap();
    let value: serde_json::Value = serde_json::from_str(&out(&doctor)).unwrap();
    assert!(value["tier"].is_string() && value["spawn_us"].is_u64(), "{value}");
    let forced =
        Gateway::command(&directory).args(["doctor", "--set", "containment.force=C"]).output().unwrap();
    assert!(out(&forced).contains("tier C"), "{}{}", out(&forced), err(&forced));
    let policies = Gateway::command(&directory).args(["policy", "check"]).output().unwrap();
    assert!(out(&policies).contains("builtin:command-rules"), "{}", err(&policies));
}

#[test]
fn a_token_is_taken_from_the_flag_before_the_variables_and_a_wrong_one_is_told_by_where_it_is_from() {
    let gateway = Gateway::start();
    let named = |token: &str, file: &str| {
        let mut command = gateway.cli(&["ps"]);
        command.env("EXECGATE_TOKEN", token).env("EXECGATE_TOKEN_FILE", file);
        command
    };
    let right = gateway.token();
    let made = gateway.directory.path().join("execgate/token").display().to_string();
    assert!(named(&right, "/nowhere").output().unwrap().status.success(), "the variable before its file");
    assert!(named("", &made).output().unwrap().status.success(), "the file when there is no variable");
    let flag = named("wrong", "/nowhere").args(["--token-file", &made]).output().unwrap();
    assert!(flag.status.success(), "the flag before both: {flag:?}");
    let wrong = named("wrong", &made).output().unwrap();
    assert_eq!(wrong.status.code(), Some(77), "{wrong:?}");
    let said = err(&wrong);
    assert!(said.contains("the token of EXECGATE_TOKEN") && !said.contains("another user"), "{said}");
    let directory = gateway.cli(&["ps", "--token-file", "."]).output().unwrap();
    assert!(
        err(&directory).contains("no regular file but a directory") && !err(&directory).contains("chmod"),
        "{directory:?}"
    );
}

#[test]
fn what_is_full_says_so_and_is_for_later() {
    for full in ["[limits]\nconnections = 1\n", "[tenant.\"*\".limits]\nconnections = 1\n"] {
        let gateway = Gateway::with(full);
        run(async {
            let _only = Client::connect(&gateway).await;
            let refused = gateway.cli(&["ps"]).output().unwrap();
            assert_eq!(refused.status.code(), Some(75), "{full}: {refused:?}");
            let said = err(&refused);
            assert!(said.contains("connections of the") && said.contains("limited to 1"), "{full}: {said}");
            assert!(!said.contains('{') && !said.contains("shutting down"), "{full}: {said}");
        });
    }
}

#[test]
fn an_address_that_cannot_be_right_is_told_as_what_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let ps = |arguments: &[&str]| {
        let mut command = Gateway::command(&directory);
        command.arg("ps").args(arguments).env("EXECGATE_TOKEN", "x").output().unwrap()
    };
    let port = ps(&["--url", "http://127.0.0.1:99999"]);
    assert_eq!(port.status.code(), Some(2), "{port:?}");
    assert!(err(&port).contains("a port is a number from 1 to 65535"), "{port:?}");
    let empty = directory.path().join("empty.pem");
    for text in ["", "no certificate\n"] {
        std::fs::write(&empty, text).unwrap();
        let ca = ps(&["--url", "https://127.0.0.1:1", "--ca", empty.to_str().unwrap()]);
        assert_eq!(ca.status.code(), Some(2), "{ca:?}");
        assert!(err(&ca).contains("holds no certificate in PEM"), "{ca:?}");
    }
}

#[test]
fn a_client_certificate_is_shown_and_http_to_a_tls_port_says_which_url_to_use() {
    let pki = Pki::make();
    let mapped = "[auth.mtls.builder]\nname = \"uri:spiffe://acme/builder\"\ntenant = \"acme\"\nsubject = \"builder\"\n";
    let gateway = Gateway::with(&format!("{}{mapped}", pki.tls()));
    let banner = gateway.banner.join("\n");
    assert!(banner.contains("EXECGATE_TOKEN=TOKEN") && banner.contains("--ca FILE"), "{banner}");
    let path = |name| pki.path(name).display().to_string();
    let (ca, cert, key) = (path("ca.pem"), path("builder.pem"), path("builder.key"));
    let shown = gateway.cli(&["ps", "--ca", &ca, "--cert", &cert, "--key", &key]).output().unwrap();
    assert!(shown.status.success(), "{shown:?}");
    let by_variables = gateway
        .cli(&["ps"])
        .env("EXECGATE_CA", &ca)
        .env("EXECGATE_CERT", &cert)
        .env("EXECGATE_KEY", &key)
        .output()
        .unwrap();
    assert!(by_variables.status.success(), "{by_variables:?}");
    let half = gateway.cli(&["ps", "--ca", &ca, "--cert", &cert]).output().unwrap();
    assert!(half.status.code() == Some(2) && err(&half).contains("--key"), "{half:?}");
    let url = format!("http://{}", gateway.address());
    let plain = gateway.cli(&["ps", "--url", &url]).env("EXECGATE_TOKEN", "x").output().unwrap();
    assert_eq!(plain.status.code(), Some(69), "{plain:?}");
    assert!(err(&plain).contains("https://") && !err(&plain).contains("execgate serve"), "{plain:?}");
}

#[test]
fn a_session_that_may_not_be_detached_is_not_told_to_end_some() {
    let gateway = Gateway::with(
        "[policy.rules]\nmodule = \"builtin:command-rules\"\n[policy.sessions]\nmodule = \"builtin:session-quota\"\nsettings = { detach_ttl_ms = 0 }\n",
    );
    run(async {
        let mut client = Client::connect(&gateway).await;
        let refused = client.call("session.open", json!({"on_disconnect": "detach"})).await.unwrap_err();
        let said = refused["message"].as_str().unwrap();
        assert!(said.contains("the limit is 0") && !said.contains("end some"), "{said}");
    });
}
