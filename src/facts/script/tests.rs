//! What facts say, case by case; the corpus in `tests/it/script_facts.rs` compares with real shells.

use std::time::{Duration, Instant};

use super::*;
use crate::domain::FileIdentity;

fn examined(env: &[(&str, &str)], canonical: &str, argv: &[&str]) -> Option<Script> {
    let command = Command {
        argv: argv.iter().map(|a| (*a).to_owned()).collect(),
        cwd: None,
        env: env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        terminal: None,
    };
    let executable = Executable {
        requested: argv[0].to_owned(),
        found: None,
        canonical: canonical.to_owned(),
        identity: FileIdentity { device: 0, inode: 0 },
        setuid: false,
        interpreter: None,
    };
    examine(&command, &executable)
}

fn script_in(env: &[(&str, &str)], argv: &[&str]) -> Option<Script> {
    examined(env, &format!("/usr/bin/{}", argv[0]), argv)
}

fn script(argv: &[&str]) -> Option<Script> {
    script_in(&[], argv)
}

fn lines(script: &Script) -> Vec<String> {
    script.commands.iter().map(|c| c.join(" ")).collect()
}

/// Known in full, with these commands.
fn known(argv: &[&str], commands: &[&str]) {
    let script = script(argv).unwrap();
    assert_eq!(
        (lines(&script), script.reasons),
        (commands.iter().map(|c| (*c).to_owned()).collect(), Vec::new()),
        "{argv:?}"
    );
    assert!(!script.opaque);
}

fn doubted(argv: &[&str], reasons: &[&str]) {
    let script = script(argv).unwrap();
    assert_eq!(script.reasons, reasons, "{argv:?}");
    assert!(script.opaque);
}

#[test]
fn a_shell_says_where_its_script_comes_from() {
    doubted(&["sh"], &["stdin"]);
    doubted(&["sh", "-s", "a"], &["stdin"]);
    doubted(&["sh", "-i"], &["interactive"]);
    doubted(&["sh", "-x", "file.sh"], &["file"]);
    doubted(&["sh", "file.sh", "-c"], &["file"]);
    doubted(&["bash", "--rcfile", "x"], &["stdin"]);
    doubted(&["sh", "--unheard-of", "-c", "ls"], &["options"]);
    doubted(&["bash", "-norc", "verbose", "ls"], &["options"]);
    doubted(&["bash", "-lc", "ls"], &["source"]);
    doubted(&["zsh", "-c", "ls"], &["dialect"]);
    doubted(&["python3", "-c", "x"], &["language"]);
    doubted(&["gawk", "x"], &["language"]);
}

#[test]
fn every_spelling_of_c_is_read() {
    for options in [
        &["-c"][..],
        &["-ec"],
        &["-e", "-c"],
        &["-c", "-e"],
        &["-c", "--"],
        &["-o", "errexit", "-c"],
        &["+e", "-c"],
        &["-ceu"],
    ] {
        let argv: Vec<_> = [&["sh"], options, &["ls -l"]].concat();
        known(&argv, &["ls -l"]);
    }
}

#[test]
fn wrappers_are_seen_through() {
    known(&["env", "LC_ALL=C", "ls", "-l"], &["ls -l"]);
    known(
        &["nice", "-n", "5", "timeout", "-k", "1", "5", "sh", "-c", "ls; id"],
        &["timeout -k 1 5 sh -c ls; id", "sh -c ls; id", "ls", "id"],
    );
    known(&["setsid", "nohup", "id"], &["nohup id", "id"]);
    known(&["stdbuf", "-oL", "id"], &["id"]);
    known(&["nice", "ls"], &["ls"]);
    known(&["busybox", "sh", "-c", "id"], &["sh -c id", "id"]);
    doubted(&["xargs", "rm"], &["dynamic"]);
    doubted(&["env", "-S", "sh -c id"], &["wrapper"]);
    doubted(&["env", "LD_PRELOAD=x", "ls"], &["variable"]);
    doubted(&["timeout", "--kill=1", "5", "ls"], &["wrapper"]);
    doubted(&["chrt", "-o", "ls"], &["wrapper"]);
    known(&["timeout", "5", "-s/../ls", "id"], &["-s/../ls id"]);
    known(&["env", "-", "-u/../ls", "id"], &["-u/../ls id"]);
    doubted(&["sudo", "ls"], &["wrapper"]);
    doubted(&["timeout", "3", "python3.11", "x.py"], &["language"]);
}

#[test]
fn what_is_made_while_it_runs_is_in_doubt() {
    for text in [
        "$x",
        "ls $x",
        "ls *",
        "ls ~",
        "ls {a,b}",
        "$(echo ls)",
        "ls `id`",
        "echo $((x))",
        "ls \"$@\"",
        "let x=1",
        "ls ${x:-a}",
    ] {
        doubted(&["bash", "-c", text], &["dynamic"]);
    }
    doubted(&["sh", "-c", ". ./x"], &["source"]);
    doubted(&["sh", "-c", "alias l=ls"], &["eval"]);
    doubted(&["sh", "-c", "PATH=/tmp ls"], &["variable"]);
    doubted(&["sh", "-c", "PATH=/tmp; ls"], &["variable"]);
    doubted(&["sh", "-c", "ls > x"], &["redirect"]);
    doubted(&["bash", "-c", "ls </dev/tcp/h/1"], &["redirect"]);
    doubted(&["sh", "-c", "if"], &["syntax"]);
    doubted(&["sh", "-c", "ls &>x"], &["redirect"]);
    doubted(&["sh", "-c", "[[ a ]]"], &["dynamic"]);
    doubted(&["sh", "-c", "ls\u{a0}-l"], &["syntax"]);
    doubted(&["bash", "-c", "test -v 'a[$(id)]'"], &["dynamic"]);
    doubted(&["bash", "-c", "[[ $x -eq 1 ]]"], &["dynamic"]);
    doubted(&["bash", "-c", "echo ${x@P}"], &["dynamic"]);
    assert_eq!(script_in(&[("BASH_ENV", "x")], &["bash", "-c", "ls"]).unwrap().reasons, ["variable"]);
    assert_eq!(script_in(&[("x", "1")], &["bash", "-c", "x=2; ls"]).unwrap().reasons, ["variable"]);
}

#[test]
fn every_branch_and_substitution_counts() {
    known(&["sh", "-c", "if a; then b; elif c; then d; else e; fi"], &["a", "b", "c", "d", "e"]);
    known(&["sh", "-c", "f() { rm x; }; f"], &["rm x", "f"]);
    known(&["sh", "-c", "case a in a) b;; *) c;; esac"], &["b", "c"]);
    known(&["sh", "-c", "for f in $(a); do b; done"], &["a", "b"]);
    known(&["sh", "-c", "x=$(a); : \"\"; trap 'c' EXIT"], &["a", ": ", "c", "trap c EXIT"]);
    known(&["sh", "-c", "eval 'a; b'"], &["a", "b", "eval a; b"]);
    known(&["sh", "-c", "cat <<X\n$(a)\nX\n"], &["a", "cat"]);
    known(&["bash", "-c", "a | b |& c & (d) 2>/dev/null"], &["a", "b", "c", "d"]);
}

#[test]
fn one_file_that_is_many_programs_goes_by_the_name_it_is_called_by() {
    let busybox = |argv: &[&str]| examined(&[], "/bin/busybox", argv);
    assert_eq!(busybox(&["/opt/ash", "script.sh"]).unwrap().reasons, ["file"]);
    assert_eq!(lines(&busybox(&["/opt/timeout", "5", "id"]).unwrap()), ["id"]);
    assert_eq!(busybox(&["/opt/xargs", "id"]).unwrap().reasons, ["dynamic"]);
    assert_eq!(busybox(&["/opt/ls", "sh"]), None);
    for name in ["/opt/busybox", "/opt/busybox.static"] {
        let script = busybox(&[name, "ash", "script.sh"]).unwrap();
        assert_eq!(
            (lines(&script), script.reasons),
            (vec!["ash script.sh".to_owned()], vec!["file".to_owned()])
        );
    }
    let bash = |argv: &[&str]| examined(&[], "/usr/bin/bash", argv).unwrap().reasons;
    assert_eq!(bash(&["/opt/shell", "file"]), ["file"]);
    assert_eq!(bash(&["/opt/timeout", "5", "id"]), ["file"]);
    assert_eq!(bash(&["/bin/sh", "-c", "x+=1"]), ["dialect"]);
    assert_eq!(examined(&[], "/usr/bin/dash", &["/opt/bash", "-c", "x+=1"]).unwrap().reasons, ["dialect"]);
}

#[test]
fn hostile_scripts_are_bounded_in_time_and_hurt_nobody() {
    let deep = |open: &str, close: &str, n: usize| format!("{}id{}", open.repeat(n), close.repeat(n));
    let scripts = [
        deep("$(", ")", 9),
        deep("$(", ")", 390),
        deep("(", ")", 390),
        deep("((", "))", 190),
        deep("{ ", ";}", 390),
        deep("if ", ";then id;fi", 390),
        deep("\"$(", ")\"", 10),
        deep("\"${x:-", "}\"", 10),
        deep("echo ${x/$(", ")/}", 5),
        deep("`", "`", 190),
        deep("case x in x) ", ";; esac", 390),
        deep("f() { ", "; }", 190),
        deep("! ", "", 390),
        "(".repeat(390),
        "\"$(".repeat(10),
        "echo {1..99999999999999999999999}".to_owned(),
        "echo ~99999999999999999999999/x".to_owned(),
        "cat <<X\n".repeat(1_000),
        "a|".repeat(8_000),
        "a;".repeat(8_000),
        "a ".repeat(8_000),
        "'".to_owned(),
        "$((((((((((((((".to_owned(),
        "\\".to_owned(),
        "x".repeat(1 << 20),
    ];
    for text in scripts {
        let since = Instant::now();
        let script = script(&["bash", "-c", &text]).unwrap();
        let took = since.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?} for {}", text.chars().take(40).collect::<String>());
        assert!(script.commands.len() <= 256);
    }
}

#[test]
fn a_plain_program_has_no_script() {
    assert_eq!(script(&["ls", "-c"]), None);
    assert_eq!(script(&["find", ".", "-exec", "sh", ";"]), None);
}
