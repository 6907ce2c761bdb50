//! What a command hands to an interpreter, as far as that is known without running it.
//!
//! ```text
//! argv ──wrappers──> argv ──options of the shell──> text ──bounded parse──> simple commands, each again an argv
//! ```
//! The promise: every program that the script could start by name stands among `commands`, or the script is `opaque` and
//! `reasons` says why. So whatever is not understood must end in a reason; a branch that returns nothing is the fault to look
//! for. Programs that start others by options of their own (`find -exec`, `git -c`) are for policy to judge: facts know
//! shells and wrappers.

mod builtin;
mod findings;
mod names;
mod parse;
mod shell;
mod walk;
mod word;
mod wrapper;

use std::collections::BTreeMap;

use crate::domain::{Command, Executable, Script};

use findings::{Findings, Reason};
use shell::Dialect;

/// Nesting of scripts in scripts (`sh -c`, substitutions, `eval`) that is followed.
const DEPTH: u32 = 8;

/// Variables that change what a shell runs, when they are in its environment (bash(1), dash(1)).
const STEERING: [&str; 6] = ["BASH_ENV", "ENV", "SHELLOPTS", "BASHOPTS", "PS4", "PROMPT_COMMAND"];

/// Whether the facts of the command take a thread of their own: then do not wait for them where others wait too.
pub fn needs_thread(command: &Command, executable: &Executable) -> bool {
    executable.interpreter.is_none()
        && special(command, executable).is_some_and(|argv| parse::is_needed(&argv))
}

/// The arguments, under the name that makes the program special.
fn special(command: &Command, executable: &Executable) -> Option<Vec<String>> {
    let arguments = command.argv.get(1..).unwrap_or_default();
    let name = name(names::last_part(&executable.requested), names::last_part(&executable.canonical));
    let known = Some(name).filter(|name| names::is_special(name))?;
    Some(std::iter::once(known.to_owned()).chain(arguments.iter().cloned()).collect())
}

/// Which of two names says what the program does: what it is called, or what the file is.
fn name<'a>(requested: &'a str, canonical: &'a str) -> &'a str {
    let posix_bash = || {
        let dialects = (shell::dialect(requested), shell::dialect(canonical));
        dialects == (Some(Dialect::Posix), Some(Dialect::Bash))
    };
    if wrapper::is_multicall(canonical) || !names::is_special(canonical) || posix_bash() {
        requested
    } else {
        canonical
    }
}

/// The script facts of a command: `None` when it is neither a known interpreter nor a wrapper.
pub(super) fn examine(command: &Command, executable: &Executable) -> Option<Script> {
    if executable.interpreter.is_some() {
        return Some(opaque(Reason::File));
    }
    let argv = special(command, executable)?;
    let mut findings = if parse::is_needed(&argv) {
        parse::apart(argv, command.env.clone())
    } else {
        let mut findings = Findings::default();
        Examiner { findings: &mut findings, env: &command.env, dialect: Dialect::Bash, depth: 0 }
            .program(&argv);
        findings
    };
    findings.bound();
    Some(findings.into_script())
}

fn opaque(reason: Reason) -> Script {
    let mut findings = Findings::default();
    findings.doubt(reason);
    findings.into_script()
}

/// Follows commands into scripts and scripts into commands.
struct Examiner<'a> {
    findings: &'a mut Findings,
    /// The job's environment.
    env: &'a BTreeMap<String, String>,
    /// Of the script being read.
    dialect: Dialect,
    depth: u32,
}

impl Examiner<'_> {
    /// A program with arguments that are all known: what it would run in turn. The program itself is not noted.
    fn program(&mut self, argv: &[String]) {
        let Some(program) = argv.first() else { return };
        let name = names::last_part(program);
        if let Some(dialect) = shell::dialect(name) {
            return self.shell(dialect, argv);
        }
        if names::is_language(name) {
            return self.findings.doubt(Reason::Language);
        }
        if names::LOOSE_WRAPPERS.contains(&name) || name.starts_with("ld-linux") {
            return self.findings.doubt(Reason::Wrapper);
        }
        if let Some(grammar) = wrapper::grammar(name) {
            wrapper::unwrap(self, grammar, argv);
        }
    }

    /// A command that would run: noted, and followed.
    fn noted(&mut self, argv: Vec<String>) {
        self.findings.command(argv.clone());
        if self.depth >= DEPTH {
            return self.findings.doubt(Reason::Depth);
        }
        self.depth += 1;
        self.program(&argv);
        self.depth -= 1;
    }

    fn shell(&mut self, dialect: Dialect, argv: &[String]) {
        if self.is_steered() {
            self.findings.doubt(Reason::Variable);
        }
        match shell::source(argv) {
            Ok(shell::Source::Text { text, doubts }) => {
                doubts.into_iter().for_each(|doubt| self.findings.doubt(doubt));
                if dialect == Dialect::Other {
                    self.findings.doubt(Reason::Dialect);
                }
                self.text(dialect, &text);
            }
            Ok(shell::Source::Nothing) => {}
            Err(reason) => self.findings.doubt(reason),
        }
    }

    fn is_steered(&self) -> bool {
        self.env.keys().any(|name| STEERING.contains(&name.as_str()) || name.starts_with("BASH_FUNC_"))
    }

    /// The text of a script, one level further down.
    fn text(&mut self, dialect: Dialect, text: &str) {
        if self.depth >= DEPTH {
            return self.findings.doubt(Reason::Depth);
        }
        let before = std::mem::replace(&mut self.dialect, dialect);
        self.depth += 1;
        match parse::program(text, dialect) {
            Ok(program) => self.whole(&program),
            Err(reason) => self.findings.doubt(reason),
        }
        self.depth -= 1;
        self.dialect = before;
    }
}

#[cfg(test)]
mod tests;
