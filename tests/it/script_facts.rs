//! What is said of a script, against what really runs: every script of the corpus is run by a real `sh` and a real `bash`, on a PATH of
//! small programs that write down their names. A program that ran and was not foretold, in a script that was not called
//! opaque, is a hole.

#![allow(clippy::disallowed_methods, reason = "the test runs real shells")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

use execgate::domain::{Command, Executable, FileIdentity, Script};
use execgate::facts;

const CORPUS: &str = include_str!("../fixtures/scripts.txt");

/// Programs of the PATH that the scripts run on.
const PROGRAMS: [&str; 35] = [
    "ls", "id", "cat", "wc", "sort", "uniq", "head", "tail", "tr", "grep", "find", "tee", "uname", "env",
    "nice", "timeout", "nohup", "setsid", "stdbuf", "xargs", "sh", "bash", "dash", "true", "false", "echo",
    "printf", "test", "[", "time", "kill", "busybox", "sleep", "seq", "rm",
];

/// Programs that run only when a script makes a shell look where it should not, with what they write down, and folders.
const BAIT: [(&str, &str); 7] = [
    ("bait", "bait"),
    ("verbose", "bait"),
    ("other/ls", "bait"),
    ("10/ls", "bait"),
    ("11/ls", "bait"),
    ("63/ls", "bait"),
    ("bin/1", "1"),
];
const FOLDERS: [&str; 9] = ["bin", "other", "10", "11", "63", "-s", "-u", "x+=", "y+="];

/// A folder of programs, each of which writes down its name and then is what it is called.
fn traced(directory: &Path) -> PathBuf {
    let bin = directory.join("bin");
    FOLDERS.iter().for_each(|folder| fs::create_dir(directory.join(folder)).unwrap());
    for (path, name) in BAIT {
        let path = directory.join(path);
        // The path may begin like an option.
        fs::write(&path, format!("#!/bin/sh -\necho '{name}' >>'{}/log'\n", directory.display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    for program in PROGRAMS {
        let real = ["/usr/bin", "/bin"].iter().map(|d| Path::new(d).join(program)).find(|p| p.exists());
        let Some(real) = real else { continue };
        let path = bin.join(program);
        let text = format!(
            "#!/bin/sh\nprintf '%s\\n' '{program}' >>'{}/log'\nexec {} \"$@\"\n",
            directory.display(),
            real.display()
        );
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    bin
}

fn ran(shell: &str, script: &str) -> BTreeSet<String> {
    let directory = tempfile::tempdir().unwrap();
    let bin = traced(directory.path());
    let status = Process::new(format!("/bin/{shell}"))
        .args(["-c", script])
        .env_clear()
        .envs([("PATH", bin.as_os_str()), ("HOME", directory.path().as_os_str())])
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.code().is_some(), "{script:?} was killed");
    fs::read_to_string(directory.path().join("log")).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn said(shell: &str, script: &str) -> Script {
    let env = [("PATH", "/bin"), ("HOME", "/tmp")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    let command = Command {
        argv: [shell, "-c", script].map(str::to_owned).to_vec(),
        cwd: None,
        env: BTreeMap::from(env),
        terminal: None,
    };
    let executable = Executable {
        requested: shell.to_owned(),
        found: Some(format!("/usr/bin/{shell}")),
        canonical: format!("/usr/bin/{}", if shell == "sh" { "dash" } else { shell }),
        identity: FileIdentity { device: 0, inode: 0 },
        setuid: false,
        interpreter: None,
    };
    facts::resolve(command, executable, "/tmp".to_owned()).facts.script.unwrap()
}

#[test]
fn what_is_foretold_of_a_script_covers_what_really_runs() {
    let scripts: Vec<_> = CORPUS.split("\n---\n").map(|s| s.trim_end_matches('\n')).collect();
    assert!(scripts.len() >= 200, "{} scripts", scripts.len());
    let mut holes = Vec::new();
    let (mut runs, mut known, mut programs) = (0, 0, 0);
    let mut reasons = BTreeMap::<String, u32>::new();
    for script in &scripts {
        for shell in ["sh", "bash"] {
            let said = said(shell, script);
            let really = ran(shell, script);
            let foretold: BTreeSet<_> =
                said.commands.iter().map(|c| c[0].rsplit('/').next().unwrap().to_owned()).collect();
            runs += 1;
            programs += really.len();
            if said.opaque {
                said.reasons.iter().for_each(|r| *reasons.entry(r.clone()).or_default() += 1);
            } else {
                known += 1;
                let missed: Vec<_> = really.difference(&foretold).collect();
                if !missed.is_empty() {
                    holes.push(format!("{shell}: {script:?} ran {missed:?}, foretold {foretold:?}"));
                }
            }
        }
    }
    println!(
        "{} scripts, {runs} runs, {programs} programs started; {known} runs foretold in full, the others opaque: {reasons:?}",
        scripts.len()
    );
    assert!(holes.is_empty(), "{}", holes.join("\n"));
    assert!(known * 2 >= runs, "only {known} of {runs} are known: calling everything opaque is no fact");
}
