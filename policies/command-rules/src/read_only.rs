//! The preset `read-only`: look, do not touch.
//!
//! A program is known by the name under which it was found on the server's PATH, and may be given the options of its
//! table and no others. None of them writes a file, runs a program or opens a connection. As a second line the job may hold
//! no second process, so that an option nobody thought of has nothing to run a program with, and no file may grow, so that
//! it has nothing to write with. What a job may *read* is for
//! its identity and its confinement to bound.
//!
//! Invariant: whatever the client's environment holds, no variable that steers a program gets through, unless the operator
//! names it.

mod find;
mod git;
mod git_options;
mod programs;
mod small;

use execgate_policy_sdk::prelude::*;

use crate::denial;
use crate::options::{self, Arguments, Objection};
use crate::pattern::{is_like_any, last_part};
use crate::settings::Settings;

/// Variables that change looks, or that the server sets itself.
#[rustfmt::skip]
const HARMLESS: [&str; 32] = [
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "OLDPWD", "HOSTNAME", "LANG", "TERM", "COLORTERM", "COLUMNS", "LINES",
    "TZ", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "FORCE_COLOR", "LS_COLORS", "GREP_COLOR", "GREP_COLORS", "JQ_COLORS",
    "TREE_COLORS", "TIME_STYLE", "QUOTING_STYLE", "TABSIZE", "BLOCK_SIZE", "BLOCKSIZE", "LS_BLOCK_SIZE", "DF_BLOCK_SIZE",
    "DU_BLOCK_SIZE", "EXECGATE_JOB",
];

/// The only program that may write a temporary file: it takes a pipe's content into one, and unlinks it at once.
const TEMPORARY: &str = "tac";

/// Where temporary files cannot be made: what would write one ends with a message instead, and leaves nothing however it ends.
const NO_TEMPORARY: (&str, &str) = ("TMPDIR", "/dev/null");

/// What a program may be given.
struct Program {
    name: &'static str,
    /// As [`options::read`] takes them.
    options: &'static [&'static str],
    operands: Operands,
    /// Processes and threads it may hold; `None`: any number, for programs that work in threads.
    processes: Option<u32>,
}

/// Which operands.
enum Operands {
    Any,
    None,
    /// No more than so many.
    Most(usize),
    /// What this function does not object to.
    Judged(for<'a> fn(&Arguments<'a>) -> Result<(), Objection<'a>>),
}

/// The terms on which a program of the preset runs.
#[derive(Debug, Default)]
struct Terms {
    processes: Option<u32>,
    /// Replaces this argument, counted from the program.
    argument: Option<(u32, String)>,
    /// Variables that are set, whatever they were.
    env: Vec<(String, String)>,
}

/// What the preset decides; `None` when it does not know the program.
pub(crate) fn decide(request: &CommandRequest, settings: &Settings) -> Option<Result<Permission, Denial>> {
    let executable = &request.executable;
    if executable.interpreter.is_some() || executable.setuid {
        return None;
    }
    let program = last_part(executable.found.as_deref()?);
    let judged = judge(program, request.argv.get(1..).unwrap_or_default())?;
    let rule = format!("read-only.{program}");
    Some(match judged {
        Err(objection) => Err(denial::argument(&rule, program, &objection)),
        Ok(terms) => match request.env.iter().find(|v| !terms.allow(&v.name, &settings.env_allow)) {
            Some(variable) => Err(denial::variable(&rule, program, &variable.name)),
            None => Ok(terms.permission(&rule, settings.process_limit, program == TEMPORARY)),
        },
    })
}

fn judge<'a>(name: &str, arguments: &'a [String]) -> Option<Result<Terms, Objection<'a>>> {
    let alone = Terms { processes: Some(1), ..Terms::default() };
    match name {
        "git" => Some(git::judge(arguments)),
        "find" => Some(find::judge(arguments).map(|()| alone)),
        "ps" => Some(small::ps(arguments).map(|()| alone)),
        "echo" | "printf" | "true" | "false" | "test" | "[" | "expr" => Some(Ok(alone)),
        _ => {
            let program = programs::PROGRAMS.iter().find(|program| program.name == name)?;
            let mut terms = Terms { processes: program.processes, ..Terms::default() };
            if name == "sort" {
                terms.env.push((NO_TEMPORARY.0.to_owned(), NO_TEMPORARY.1.to_owned()));
            }
            Some(program.judge(arguments).map(|()| terms))
        }
    }
}

impl Program {
    fn judge<'a>(&self, arguments: &'a [String]) -> Result<(), Objection<'a>> {
        let read = options::read(self.options, arguments)?;
        self.operands.judge(&read)
    }
}

impl Operands {
    fn judge<'a>(&self, read: &Arguments<'a>) -> Result<(), Objection<'a>> {
        let most = match self {
            Self::Any => return Ok(()),
            Self::Judged(judge) => return judge(read),
            Self::None => 0,
            Self::Most(most) => *most,
        };
        match (read.operands.get(most), read.late) {
            (Some(operand), _) => Err(Objection::TooMany(operand)),
            // A program that stops at the first operand would take it for one more.
            (None, Some(option)) => Err(Objection::Because(option, "here options stand before operands")),
            (None, None) => Ok(()),
        }
    }
}

impl Terms {
    fn allow(&self, name: &str, env_allow: &[String]) -> bool {
        HARMLESS.contains(&name)
            || name.starts_with("LC_")
            || self.env.iter().any(|(set, _)| set == name)
            || is_like_any(name, env_allow)
    }

    fn permission(self, rule: &str, process_limit: bool, writes: bool) -> Permission {
        let mut permission = Permission::by(rule);
        permission.changes.extend(self.argument.map(Change::SetArg));
        for (name, value) in self.env {
            permission.set_env(name, value);
        }
        permission.limits.file_size_bytes = (!writes).then_some(0);
        permission.limits.processes = self.processes.filter(|_| process_limit);
        permission
    }
}
