//! `exec`, `shell` and `attach` as what stands between a job and whoever reads, types and hangs up.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Output, Stdio};

use nix::pty::{OpenptyResult, Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use crate::support::raw::Raw;
use crate::support::{Client, Gateway, PATIENCE, eventually, run};
use crate::transport::get;

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id() as i32), signal).unwrap();
}

/// Starts a job in a session that lives on without its connection; its id.
fn detached(gateway: &Gateway, start: Value) -> String {
    run(async {
        let mut client = Client::connect(gateway).await;
        let detach = json!({"on_disconnect": "detach", "detach_ttl_ms": 60_000});
        let session = client.call("session.open", detach).await.unwrap()["session"].clone();
        let mut params = start;
        params["session"] = session;
        client.call("job.start", params).await.unwrap()["job"].as_str().unwrap().to_owned()
    })
}

fn state(gateway: &Gateway, job: &str) -> String {
    run(async {
        let got = Client::connect(gateway).await.call("job.get", json!({"job": job})).await.unwrap();
        got["state"].as_str().unwrap().to_owned()
    })
}

/// The program at a terminal of its own, so large.
fn at_a_terminal(gateway: &Gateway, arguments: &[&str], (rows, cols): (u16, u16)) -> (Child, OwnedFd) {
    let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    let OpenptyResult { master, slave } = openpty(Some(&size), None).unwrap();
    // The program must not hold the end that is to hang up.
    rustix::io::fcntl_setfd(&master, rustix::io::FdFlags::CLOEXEC).unwrap();
    let mut command = gateway.cli(arguments);
    command.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(slave);
    (command.spawn().unwrap(), master)
}

/// Reads a terminal until it says so.
fn until_said(terminal: &OwnedFd, words: &str) -> String {
    let mut terminal = File::from(terminal.try_clone().unwrap());
    let mut said = Vec::new();
    let mut buffer = [0; 1024];
    while !String::from_utf8_lossy(&said).contains(words) {
        // EIO: nobody is there any more.
        let n = terminal.read(&mut buffer).unwrap_or(0);
        assert!(n > 0, "it ended before {words:?}: {}", String::from_utf8_lossy(&said));
        said.extend_from_slice(&buffer[..n]);
    }
    String::from_utf8_lossy(&said).into_owned()
}

#[test]
fn a_reader_may_stall_for_longer_than_a_dead_peer_may_be_silent() {
    let gateway = Gateway::with("[limits]\nping = \"200ms\"\ndead_after = \"1s\"\n");
    let mut child = gateway
        .cli(&["exec", "--", "seq", "1", "300000"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "1");
    // Meanwhile two peers, one after the other, are cut off for their silence.
    run(async {
        for _ in 0..2 {
            let mut silent = Raw::connect(&gateway).await;
            let mut heard = Vec::new();
            let cut_off = silent.socket.read_to_end(&mut heard);
            // By an end or a reset.
            let _ = tokio::time::timeout(PATIENCE, cut_off).await.expect("the silent one stays");
        }
    });
    assert_eq!(lines.count(), 299_999);
    assert!(child.wait().unwrap().success());
}

#[test]
fn an_interrupt_is_passed_on_while_nobody_reads() {
    let gateway = Gateway::start();
    let mut child =
        gateway.cli(&["exec", "--", "yes"]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    eventually(PATIENCE, "the pipe is full", || {
        rustix::io::ioctl_fionread(reader.get_ref()).unwrap() > 48 << 10
    });
    signal(&child, Signal::SIGINT);
    eventually(PATIENCE, "the job is interrupted", || gateway.survivors().is_empty());
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(128 + 2), "once all of it was read");
}

#[test]
fn output_that_cannot_be_written_is_told_and_is_no_success() {
    let gateway = Gateway::start();
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let lost = gateway.cli(&["exec", "--", "echo", "hi"]).stdout(full()).output().unwrap();
    assert_eq!(lost.status.code(), Some(1), "{lost:?}");
    assert!(err(&lost).contains("standard output cannot be written: No space left"), "{}", err(&lost));
    let error = gateway.cli(&["exec", "--", "sh", "-c", "echo hi >&2"]).stderr(full()).output().unwrap();
    assert_eq!(error.status.code(), Some(1), "{error:?}");
    let endless = gateway
        .cli(&["exec", "--", "sh", "-c", "echo hi; sleep 1000"])
        .stdin(Stdio::null())
        .stdout(full())
        .output()
        .unwrap();
    assert_eq!(endless.status.code(), Some(1), "the job is ended: {endless:?}");
}

#[test]
fn a_reader_that_went_away_ends_it_as_sigpipe_would() {
    let gateway = Gateway::start();
    let mut child = gateway
        .cli(&["exec", "--", "yes"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), err(&output).as_str()), (Some(128 + 13), ""));
}

#[test]
fn input_that_cannot_be_read_is_told_and_ends_the_job() {
    let gateway = Gateway::start();
    let directory = gateway.cli(&["exec", "--", "cat"]).stdin(File::open("/").unwrap()).output().unwrap();
    assert_eq!(directory.status.code(), Some(1), "{directory:?}");
    let said = err(&directory);
    assert!(said.contains("standard input cannot be read: Is a directory"), "{said}");
}

#[test]
fn input_that_does_not_block_is_waited_for() {
    let gateway = Gateway::start();
    let (reader, mut writer) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&reader, true).unwrap();
    let mut child = gateway
        .cli(&["exec", "--", "sh", "-c", "echo ready; exec cat"])
        .stdin(reader)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    writer.write_all(b"late\n").unwrap();
    drop(writer);
    assert_eq!(lines.next().unwrap().unwrap(), "late");
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_second_signal_that_a_gateway_does_not_answer_leaves() {
    let gateway = Gateway::start();
    let mut child = gateway
        .cli(&["exec", "--", "sh", "-c", "trap '' INT; echo ready; sleep 1000"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    gateway.signal(Signal::SIGSTOP);
    let mut status = None;
    eventually(PATIENCE, "it leaves", || {
        status = child.try_wait().unwrap();
        if status.is_none() {
            signal(&child, Signal::SIGINT);
        }
        status.is_some()
    });
    gateway.signal(Signal::SIGCONT);
    assert_eq!(status.unwrap().code(), Some(69));
    eventually(PATIENCE, "the job ends with its connection", || gateway.survivors().is_empty());
}

#[test]
fn a_window_that_is_dragged_ends_nothing_and_its_last_size_arrives() {
    let gateway = Gateway::with("[limits]\nrequests_per_second = 5\n");
    let script = "echo ready; until [ \"$(stty size)\" = '41 132' ]; do sleep 0.05; done; echo sized";
    let (mut child, terminal) = at_a_terminal(&gateway, &["exec", "-t", "--", "sh", "-c", script], (24, 80));
    until_said(&terminal, "ready");
    let resize = |rows, cols| {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(terminal.as_fd(), size).unwrap();
        signal(&child, Signal::SIGWINCH);
    };
    let mut rows = 30;
    eventually(PATIENCE, "a resize is one too many", || {
        rows = 30 + (rows + 1) % 10;
        resize(rows, 80);
        let (_, metrics) = run(get(&gateway, "/metrics"));
        metrics.lines().any(|line| {
            line.strip_prefix("execgate_refusal_seconds_count ").is_some_and(|count| count != "0")
        })
    });
    resize(41, 132);
    until_said(&terminal, "sized");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn who_attaches_brings_his_window_and_takes_nothing_along_when_he_hangs_up() {
    let gateway = Gateway::start();
    let script = "until [ \"$(stty size)\" = '50 132' ]; do sleep 0.05; done; echo sized; read x; echo over";
    let start = json!({"argv": ["sh", "-c", script], "stdin": "pipe", "pty": {"rows": 24, "cols": 80}});
    let job = detached(&gateway, start);
    let (mut child, terminal) = at_a_terminal(&gateway, &["attach", &job], (50, 132));
    until_said(&terminal, "sized");
    signal(&child, Signal::SIGHUP);
    assert!(!child.wait().unwrap().success());
    assert_eq!(state(&gateway, &job), "running", "after SIGHUP");
    let (mut child, terminal) = at_a_terminal(&gateway, &["attach", "--takeover", &job], (50, 132));
    until_said(&terminal, "sized");
    drop(terminal);
    assert!(!child.wait().unwrap().success());
    assert_eq!(state(&gateway, &job), "running", "after the terminal was gone");
    assert!(gateway.cli(&["kill", &job]).output().unwrap().status.success());
}

#[test]
fn who_only_looks_leaves_standard_input_to_others() {
    let gateway = Gateway::start();
    let job = detached(&gateway, json!({"argv": ["sh", "-c", "echo here; sleep 0.2"]}));
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"for another\n").unwrap();
    drop(writer);
    let mut command = gateway.cli(&["attach", "--observe", &job]);
    let looked = command.stdin(reader.try_clone().unwrap()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&looked.stdout), "here\n", "{looked:?}");
    let mut left = String::new();
    BufReader::new(reader).read_to_string(&mut left).unwrap();
    assert_eq!(left, "for another\n");
}

#[test]
fn only_a_session_that_is_owned_elsewhere_is_said_to_be() {
    let gateway = Gateway::start();
    assert!(gateway.cli(&["exec", "--", "echo", "hi"]).output().unwrap().status.success());
    let listed = gateway.cli(&["ps", "--all", "--json"]).output().unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let ended = gateway.cli(&["attach", listed[0]["job"].as_str().unwrap()]).output().unwrap();
    assert!(err(&ended).contains("the session is over or not yours"), "{ended:?}");
    assert!(!err(&ended).contains("takeover"), "{ended:?}");
    run(async {
        let mut client = Client::connect(&gateway).await;
        let sleeps = client.call("job.start", json!({"argv": ["sleep", "1000"]})).await.unwrap();
        let job = sleeps["job"].as_str().unwrap();
        let mut looking = gateway.cli(&["attach", job]).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(looking.stderr.take().unwrap()).read_line(&mut said).unwrap();
        assert!(
            said.contains("another connection owns the session") && said.contains("--takeover"),
            "{said}"
        );
        looking.kill().unwrap();
        looking.wait().unwrap();
    });
}
