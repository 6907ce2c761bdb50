//! The read-only preset on real programs: git in a repository whose configuration names programs everywhere, and every row of the
//! table of honest use.

#![allow(clippy::disallowed_methods, reason = "tests prepare a repository")]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;
use tempfile::TempDir;
use toml_edit::DocumentMut;

use crate::support::{Client, Gateway, needs, run};

const CONFIG: &str = "
[policy.rules]
module = \"builtin:command-rules\"
settings = { preset = \"read-only\", env_allow = [\"EXECGATE_TEST\"] }
[policy.quota]
module = \"builtin:session-quota\"
";

/// A repository that writes a file whenever something of it is run.
struct Hostile {
    directory: TempDir,
}

impl Hostile {
    fn new() -> Self {
        let hostile = Self { directory: tempfile::tempdir().unwrap() };
        let fire = hostile.path().join("fire");
        std::fs::write(&fire, format!("#!/bin/sh\ntouch {}\n", hostile.mark().display())).unwrap();
        std::fs::set_permissions(&fire, std::fs::Permissions::from_mode(0o755)).unwrap();
        hostile.git(&["init", "-q", "-b", "main", "."]);
        std::fs::write(hostile.path().join("a"), "one\n").unwrap();
        std::fs::write(hostile.path().join("f"), "one\n").unwrap();
        std::fs::write(hostile.path().join("p"), "one\n").unwrap();
        let attributes = "a diff=evil\nf filter=evil\np filter=process\n";
        std::fs::write(hostile.path().join(".gitattributes"), attributes).unwrap();
        hostile.git(&["add", "."]);
        hostile.git(&["-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "-m", "one"]);
        for name in ["a", "f", "p"] {
            std::fs::write(hostile.path().join(name), "one\ntwo\n").unwrap();
        }
        let hook = hostile.path().join(".git/hooks/post-index-change");
        std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
        std::fs::copy(&fire, hook).unwrap();
        for key in [
            "core.fsmonitor",
            "core.pager",
            "pager.log",
            "pager.diff",
            "pager.status",
            "diff.external",
            "diff.evil.command",
            "diff.evil.textconv",
            "gpg.program",
            "core.sshCommand",
            "core.editor",
            "core.askPass",
            "core.gitProxy",
            "core.alternateRefsCommand",
            "sequence.editor",
            "interactive.diffFilter",
            "diff.tool",
            "credential.helper",
            "uploadpack.packObjectsHook",
            "alias.execgate-diff",
            "alias.execgate-log",
            "alias.diff",
        ] {
            hostile.git(&["config", key, &fire.display().to_string()]);
        }
        hostile.git(&["config", "log.showSignature", "true"]);
        hostile
    }

    /// Names programs as filters too. Those no configuration can turn off: only that git may not start them.
    fn with_filters(self) -> Self {
        let fire = self.path().join("fire").display().to_string();
        for key in ["filter.evil.clean", "filter.evil.smudge", "filter.process.process"] {
            self.git(&["config", key, &fire]);
        }
        self
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn mark(&self) -> PathBuf {
        self.path().join("fired")
    }

    fn git(&self, arguments: &[&str]) {
        let mut git = Command::new("git");
        let done = git.args(arguments).current_dir(self.path()).stdin(Stdio::null()).output().unwrap();
        let _ = done;
    }

    /// Whether something was run since last asked.
    fn fired(&self) -> bool {
        std::fs::remove_file(self.mark()).is_ok()
    }
}

/// What git is asked for, and something of what it says.
const ASKED: [(&[&str], &str); 16] = [
    (&["diff"], "+two"),
    (&["diff", "--stat"], "a | 1 +"),
    (&["diff", "--cached"], ""),
    (&["diff", "HEAD", "--", "a", "f", "p"], "+two"),
    (&["status", "--short"], " M a"),
    (&["log", "-p"], "+one"),
    (&["log", "--format=%h %s"], "one"),
    (&["show"], "+one"),
    (&["show", "HEAD:f"], "one"),
    (&["cat-file", "-p", "HEAD:f"], "one"),
    (&["blame", "a"], "one"),
    (&["blame", "f"], "one"),
    (&["branch"], "main"),
    (&["grep", "two"], "a:two"),
    (&["ls-files", "-m"], "a"),
    (&["describe", "--always"], ""),
];

#[test]
fn git_runs_nothing_that_a_repository_names() {
    if !needs(Command::new("git").arg("--version").output().is_ok(), "there is no git") {
        return;
    }
    let gateway = Gateway::with(CONFIG);
    let hostile = Hostile::new();
    // Where jobs cannot be held to a number of processes, filters run: the preset's README says so.
    let hostile = if gateway.is_exact() { hostile.with_filters() } else { hostile };
    hostile.fired();
    for arguments in [&["diff"][..], &["diff", "--no-ext-diff", "--no-textconv", "--", "f"]] {
        hostile.git(arguments);
        let shows = hostile.fired() || (arguments.contains(&"f") && !gateway.is_exact());
        assert!(
            shows,
            "plain git runs what the repository names, else this test shows nothing: {arguments:?}"
        );
    }
    run(async {
        let mut client = Client::connect(&gateway).await;
        for (arguments, expected) in ASKED {
            let mut argv = vec!["git"];
            argv.extend(arguments);
            let start = json!({"argv": argv, "cwd": hostile.path()});
            let job = client.call("job.start", start).await.unwrap()["job"].as_str().unwrap().to_owned();
            let output = String::from_utf8(client.output(&job, "stdout").await).unwrap();
            assert!(!hostile.fired(), "{arguments:?} ran what the repository names");
            assert!(output.contains(expected), "{arguments:?}: {output}");
        }
        for argv in [
            json!(["git", "-c", "alias.x=!id", "x"]),
            json!(["git", "grep", "-O", "two"]),
            json!(["git", "grep", "-Oless", "two"]),
            json!(["git", "grep", "--open-files-in-pager=id", "two"]),
            json!(["git", "grep", "--open-files", "two"]),
            json!(["git", "cat-file", "--filters", "HEAD:f"]),
            json!(["git", "cat-file", "--textconv", "HEAD:a"]),
            json!(["git", "diff", "--ext-diff"]),
            json!(["git", "log", "-p", "--textconv"]),
            json!(["git", "log", "--show-signature"]),
            json!(["git", "status", "-v"]),
            json!(["git", "reflog", "--cc"]),
            json!(["git", "log", "--diff-merges=remerge", "-p"]),
            json!(["git", "checkout", "f"]),
            json!(["git", "hash-object", "f"]),
            json!(["find", ".", "-exec", "id", "{}", "+"]),
            json!(["/usr/bin/env", "id"]),
        ] {
            let start = json!({"argv": argv, "cwd": hostile.path()});
            assert_eq!(client.refused("job.start", start).await, "policy_denied", "{argv}");
        }
        let variable = json!({"argv": ["git", "diff"], "env": {"GIT_EXTERNAL_DIFF": "id"}});
        let refused = client.call("job.start", variable).await.unwrap_err();
        assert_eq!(refused["data"]["rules"], json!(["read-only.git"]), "{refused}");
    });
    assert!(!hostile.fired());
    assert!(gateway.survivors().is_empty());
}

/// Every file below, but for what git keeps of times of access, with its content.
fn contents(folder: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            contents(&path, into);
        } else {
            into.insert(path.clone(), std::fs::read(path).unwrap());
        }
    }
}

/// The commands of the table of honest use, but for those that are about another environment or another file of that name.
fn honest() -> Vec<Vec<String>> {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("policies/command-rules/tests/read-only-honest.toml");
    let table: DocumentMut = std::fs::read_to_string(file).unwrap().parse().unwrap();
    let cases = table["case"].as_array_of_tables().unwrap();
    let plain = cases.iter().filter(|case| !case.contains_key("env") && !case.contains_key("canonical"));
    let words = |case: &toml_edit::Table| {
        let argv = case["argv"].as_array().unwrap();
        argv.iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    plain.map(words).collect()
}

#[test]
fn honest_use_is_allowed_on_real_programs_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let git = |arguments: &[&str]| {
        let done =
            Command::new("git").args(arguments).current_dir(folder.path()).stdin(Stdio::null()).output();
        assert!(done.is_ok_and(|done| done.status.success()), "{arguments:?}");
    };
    for name in ["a", "b", "a.c", "a.json", "old", "new", "sums"] {
        std::fs::write(folder.path().join(name), "{\"a\": [1], \"x\": 2}\n").unwrap();
    }
    let commit = ["-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "-m", "one"];
    git(&["init", "-q", "-b", "main", "."]);
    git(&["add", "."]);
    git(&commit);
    git(&["branch", "topic"]);
    std::fs::write(folder.path().join("a.c"), "changed\n").unwrap();
    let mut before = BTreeMap::new();
    contents(folder.path(), &mut before);
    let gateway = Gateway::with(CONFIG);
    let (mut missing, mut ran) = (Vec::new(), 0);
    run(async {
        let mut client = Client::connect(&gateway).await;
        for argv in honest() {
            let start = json!({"argv": argv, "cwd": folder.path(), "timeout_ms": 500, "view": false});
            match client.call("job.start", start).await {
                Ok(job) => {
                    let wait = json!({"job": job["job"], "until": "closed"});
                    let ended = client.call("job.wait", wait).await.unwrap().to_string();
                    // Its second line against writing is not in the way of honest use.
                    assert!(!ended.contains("XFSZ"), "{argv:?}: {ended}");
                    ran += 1;
                }
                Err(error) if error["data"]["kind"] == "spawn_failed" => missing.push(argv[0].clone()),
                Err(error) => panic!("{argv:?}: {error}"),
            }
        }
    });
    let mut after = BTreeMap::new();
    contents(folder.path(), &mut after);
    assert!(before == after, "something was changed below the working directory");
    assert!(ran >= 150, "only {ran} of the programs are here; missing: {missing:?}");
    if !missing.is_empty() {
        eprintln!("NOTE: {ran} rows ran; not tried, because these programs are not installed: {missing:?}");
    }
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let mut git = Command::new("git");
    let done = git.args(arguments).current_dir(folder).stdin(Stdio::null()).output().unwrap();
    assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().trim().to_owned()
}

/// A repository whose branch `signed` is a commit with what looks like a signature.
fn signed() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("f"), "one\n").unwrap();
    git(at, &["init", "-q", "-b", "main", "."]);
    git(at, &["add", "."]);
    git(at, &["-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "-m", "one"]);
    let tree = git(at, &["rev-parse", "HEAD^{tree}"]);
    let commit = format!(
        "tree {tree}\nauthor n <e> 1 +0000\ncommitter n <e> 1 +0000\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n \
         -----END PGP SIGNATURE-----\n\nsigned\n"
    );
    std::fs::write(at.join("commit"), commit).unwrap();
    let id = git(at, &["hash-object", "-t", "commit", "-w", "commit"]);
    git(at, &["branch", "signed", &id]);
    folder
}

#[test]
fn what_would_write_on_the_way_ends_well_and_leaves_nothing() {
    if !needs(Command::new("git").arg("--version").output().is_ok(), "there is no git") {
        return;
    }
    let folder = signed();
    let at = folder.path();
    // Signatures are checked because the repository says so.
    git(at, &["config", "format.pretty", "%h %G? %s"]);
    git(at, &["config", "branch.sort", "signature"]);
    std::fs::write(at.join("big"), "more than fits\n".repeat(400_000)).unwrap();
    // A file that looks changed and is not: diff would note that in the index.
    let touched = std::fs::File::options().append(true).open(at.join("f")).unwrap();
    touched.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000)).unwrap();
    let gateway = Gateway::with(CONFIG);
    run(async {
        let mut client = Client::connect(&gateway).await;
        for (argv, code, stream, said) in [
            (&["git", "diff"][..], 0, "stdout", ""),
            (&["git", "diff", "HEAD"], 0, "stdout", ""),
            (&["git", "log", "-1", "signed"], 0, "stdout", " N signed"),
            (&["git", "branch"], 0, "stdout", "signed"),
            (&["git", "diff", "HEAD", "signed"], 0, "stdout", ""),
            (&["sort", "-S", "1M", "big"], 2, "stderr", "temporary file"),
        ] {
            let start = json!({"argv": argv, "cwd": at});
            let job = client.call("job.start", start).await.unwrap()["job"].as_str().unwrap().to_owned();
            let output = String::from_utf8(client.output(&job, stream).await).unwrap();
            let exited = client.event_of("job.exited", &job).await;
            assert_eq!(exited["code"], code, "{argv:?}: {exited}");
            assert!(output.contains(said), "{argv:?}: {output}");
            assert!(!at.join(".git/index.lock").exists(), "{argv:?}");
        }
        for format in ["--format=%+G?", "--format=%-GS", "--pretty=tformat:% G?"] {
            let start = json!({"argv": ["git", "log", format, "signed"], "cwd": at});
            assert_eq!(client.refused("job.start", start).await, "policy_denied", "{format}");
        }
    });
}

/// Of the one that checked it out, so that git trusts it.
#[test]
fn a_bare_repository_in_a_tree_runs_nothing_without_a_process_limit_either() {
    if !needs(Command::new("git").arg("--version").output().is_ok(), "there is no git") {
        return;
    }
    let hostile = Hostile::new();
    let fire = hostile.path().join("fire").display().to_string();
    hostile.git(&["init", "-q", "--bare", "vendor/x.git"]);
    for (key, value) in [("core.bare", "false"), ("core.worktree", ".."), ("filter.y.clean", fire.as_str())] {
        hostile.git(&["config", "--file", "vendor/x.git/config", key, value]);
    }
    let vendor = hostile.path().join("vendor");
    let inner = vendor.join("x.git");
    std::fs::write(vendor.join(".gitattributes"), "* filter=y\n").unwrap();
    std::fs::write(vendor.join("b"), "b\n").unwrap();
    std::fs::write(vendor.join("a"), "a\n").unwrap();
    git(&inner, &["add", "-f", "../a"]);
    let gateway = Gateway::with(&CONFIG.replace("preset =", "process_limit = false, preset ="));
    std::fs::write(vendor.join("a"), "changed\n").unwrap();
    hostile.fired();
    git(&inner, &["diff"]);
    assert!(hostile.fired(), "plain git runs what the repository names, else this test shows nothing");
    run(async {
        let mut client = Client::connect(&gateway).await;
        for (at, arguments) in
            [&["status"][..], &["diff"], &["diff", "--no-index", "../a", "../b"]].into_iter().enumerate()
        {
            std::fs::write(vendor.join("a"), "changed again\n".repeat(at + 1)).unwrap();
            let mut argv = vec!["git"];
            argv.extend(arguments);
            let start = json!({"argv": argv, "cwd": inner});
            let job = client.call("job.start", start).await.unwrap()["job"].as_str().unwrap().to_owned();
            let _ = client.output(&job, "stderr").await;
            client.event_of("job.exited", &job).await;
            assert!(!hostile.fired(), "{arguments:?} ran what the repository names");
        }
    });
}
