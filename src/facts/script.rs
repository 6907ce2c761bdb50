//! Whether a command hands a script to an interpreter, and how much of that script is known.
//!
//! A program that is not a known interpreter, and wraps none, has no script. Every script is opaque so far: what
//! it would run is not looked into, only where it would come from.

use crate::domain::{Command, Executable, Script};

/// POSIX shells and their kin: `-c` holds a script, no operand means standard input.
const SHELLS: [&str; 9] = ["sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "fish", "rbash"];

/// Interpreters of other languages, by the name before any version number.
const LANGUAGES: [&str; 18] = [
    "python", "perl", "ruby", "node", "nodejs", "php", "lua", "luajit", "tclsh", "wish", "awk", "gawk",
    "mawk", "expect", "guile", "java", "deno", "bun",
];

/// Programs that run the program named by their operands.
const WRAPPERS: [&str; 14] = [
    "env", "nice", "timeout", "nohup", "setsid", "stdbuf", "xargs", "busybox", "ionice", "chrt", "taskset",
    "time", "unshare", "toybox",
];

/// The script facts of a command: `None` when neither it nor a program it wraps is a known interpreter.
pub(super) fn examine(command: &Command, executable: &Executable) -> Option<Script> {
    if executable.interpreter.is_some() {
        return Some(opaque("file"));
    }
    let names = [executable.found.as_deref().unwrap_or_default(), &executable.canonical];
    let arguments = command.argv.get(1..).unwrap_or_default();
    if names.iter().any(|path| is_one_of(path, &WRAPPERS)) {
        return wrapped(arguments);
    }
    names.iter().find_map(|path| interpreted(path, arguments))
}

/// The first operand of a wrapper that names an interpreter; what comes after it are the interpreter's arguments.
fn wrapped(arguments: &[String]) -> Option<Script> {
    let at = arguments.iter().position(|a| is_one_of(a, &SHELLS) || is_language(a))?;
    interpreted(arguments.get(at)?, arguments.get(at + 1..).unwrap_or_default())
}

fn interpreted(path: &str, arguments: &[String]) -> Option<Script> {
    if is_language(path) {
        return Some(opaque("language"));
    }
    is_one_of(path, &SHELLS).then(|| opaque(source(arguments)))
}

/// Where a shell's script comes from: an option group with `c` in it, a file, or standard input.
fn source(arguments: &[String]) -> &'static str {
    for argument in arguments {
        match argument.strip_prefix('-') {
            Some(flags) if !flags.starts_with('-') && flags.contains('c') => return "command",
            Some(flags) if !flags.starts_with('-') && flags.contains('i') => return "interactive",
            Some(_) => {}
            None => return "file",
        }
    }
    "stdin"
}

fn opaque(reason: &str) -> Script {
    Script { commands: Vec::new(), opaque: true, reasons: vec![reason.to_owned()] }
}

fn is_one_of(path: &str, names: &[&str]) -> bool {
    names.contains(&last_part(path))
}

fn is_language(path: &str) -> bool {
    let name = last_part(path).trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-'));
    LANGUAGES.contains(&name)
}

fn last_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::FileIdentity;

    fn reasons(canonical: &str, argv: &[&str]) -> Option<Vec<String>> {
        let command = Command {
            argv: argv.iter().map(|a| (*a).to_owned()).collect(),
            cwd: None,
            env: Default::default(),
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
        examine(&command, &executable).map(|script| script.reasons)
    }

    #[test]
    fn a_shell_is_opaque_and_says_where_its_script_comes_from() {
        let table: [(&[&str], &str); 6] = [
            (&["sh"], "stdin"),
            (&["sh", "-c", "ls"], "command"),
            (&["sh", "-ec", "ls"], "command"),
            (&["sh", "-i"], "interactive"),
            (&["sh", "-x", "file.sh"], "file"),
            (&["sh", "file.sh", "-c"], "file"),
        ];
        for (argv, reason) in table {
            assert_eq!(reasons("/usr/bin/dash", argv), Some(vec![reason.to_owned()]), "{argv:?}");
        }
    }

    #[test]
    fn a_wrapped_interpreter_is_seen() {
        assert_eq!(
            reasons("/usr/bin/env", &["env", "A=b", "bash", "-c", "ls"]),
            Some(vec!["command".to_owned()])
        );
        assert_eq!(
            reasons("/usr/bin/timeout", &["timeout", "3", "python3.11", "x.py"]),
            Some(vec!["language".to_owned()])
        );
        assert_eq!(reasons("/usr/bin/nice", &["nice", "ls"]), None);
    }

    #[test]
    fn a_plain_program_has_no_script() {
        assert_eq!(reasons("/usr/bin/ls", &["ls", "-c"]), None);
    }
}
