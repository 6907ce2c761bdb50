//! Rule sets for common needs.
//!
//! `developer` restrains mistakes, not attackers: whoever may run a compiler or a shell may run anything. `read-only` allows
//! a small set of programs with the options it knows; an unknown option, an abbreviation or an option's value that is not
//! expected is denied.

use crate::wit::exports::execgate::policy::command::CommandRequest;
use serde::Deserialize;

use crate::rules::{Decided, allows_everything, denial, last_part};

/// Which preset.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Preset {
    /// Nothing beyond the rules.
    #[default]
    None,
    /// Look, do not touch.
    ReadOnly,
    /// Any program but those for administering the host.
    Developer,
    /// Any program.
    Unrestricted,
}

/// Programs that administer the host or change who one is.
const ADMIN: [&str; 22] = [
    "sudo", "su", "doas", "pkexec", "runuser", "setpriv", "shutdown", "reboot", "halt", "poweroff", "init",
    "telinit", "fdisk", "sfdisk", "cfdisk", "parted", "mount", "umount", "swapon", "swapoff", "losetup",
    "mkswap",
];

/// What a program of the read-only preset may be given.
struct Allowed {
    program: &'static str,
    /// One-letter options without a value.
    flags: &'static str,
    /// One-letter options with a value.
    values: &'static str,
    /// Long options; with `=` at the end, with a value.
    long: &'static [&'static str],
    /// It may be given operands.
    operands: bool,
}

const fn allowed(
    program: &'static str,
    flags: &'static str,
    values: &'static str,
    long: &'static [&'static str],
    operands: bool,
) -> Allowed {
    Allowed { program, flags, values, long, operands }
}

const READ_ONLY: [Allowed; 22] = [
    allowed(
        "ls",
        "1aAbBcCdfFgGhHiklLmnNopqQrRsStuUvxXZ",
        "IwT",
        &[
            "all",
            "almost-all",
            "human-readable",
            "recursive",
            "reverse",
            "size",
            "color",
            "color=",
            "sort=",
            "time=",
        ],
        true,
    ),
    allowed("cat", "AbeEnstTuv", "", &["number", "show-all", "squeeze-blank"], true),
    allowed("head", "qvz", "nc", &["lines=", "bytes=", "quiet", "verbose"], true),
    allowed("tail", "qvz", "nc", &["lines=", "bytes=", "quiet", "verbose"], true),
    allowed("wc", "clmwL", "", &["lines", "words", "bytes", "chars"], true),
    allowed("stat", "fLt", "c", &["format=", "terse", "dereference"], true),
    allowed("du", "abchHklLmsSx", "dt", &["all", "human-readable", "summarize", "max-depth=", "total"], true),
    allowed("df", "ahHiklPT", "t", &["all", "human-readable", "inodes", "type=", "total"], true),
    allowed("ps", "AadefFjlLMTuwxyH", "Cpostug", &["forest", "headers", "sort="], false),
    allowed(
        "grep",
        "aEFGHILPRTUVZbchilnoqrsvwxyz",
        "ABCem",
        &[
            "ignore-case",
            "invert-match",
            "count",
            "line-number",
            "recursive",
            "color",
            "color=",
            "include=",
            "exclude=",
        ],
        true,
    ),
    allowed("uniq", "cdDuiz", "fsw", &["count", "repeated", "unique", "ignore-case"], false),
    allowed("cut", "nsz", "bcdf", &["bytes=", "characters=", "delimiter=", "fields=", "complement"], true),
    allowed("uname", "asnrvmpio", "", &["all"], false),
    allowed("id", "agGnruzZ", "", &[], true),
    allowed("whoami", "", "", &[], false),
    allowed("pwd", "LP", "", &[], false),
    allowed("echo", "neE", "", &[], true),
    allowed("true", "", "", &[], false),
    allowed("false", "", "", &[], false),
    allowed("uptime", "ps", "", &["pretty", "since"], false),
    allowed("readlink", "femnqsvz", "", &["canonicalize"], true),
    allowed("basename", "az", "s", &[], true),
];

/// What the preset decides; `None` when it says nothing.
pub(crate) fn decide(preset: Preset, request: &CommandRequest) -> Option<Decided> {
    match preset {
        Preset::None => None,
        Preset::Unrestricted => Some(Decided::Allow("unrestricted".to_owned())),
        Preset::Developer => Some(developer(request)),
        Preset::ReadOnly => read_only(request),
    }
}

fn developer(request: &CommandRequest) -> Decided {
    let executable = &request.executable;
    let setuid = executable.setuid || executable.interpreter.as_ref().is_some_and(|i| i.setuid);
    let requested = &executable.requested;
    let wraps = executable.found.as_deref().is_some_and(|found| allows_everything(last_part(found)));
    let arguments = request.argv.get(1..).unwrap_or_default();
    let wrapped = arguments.iter().map(String::as_str).find(|a| wraps && is_admin(a));
    let named =
        [Some(requested.as_str()), executable.found.as_deref(), Some(executable.canonical.as_str()), wrapped];
    if let Some(program) = named.into_iter().flatten().find(|program| is_admin(program)) {
        let message = format!("{:?} administers the host, which jobs may not", last_part(program));
        let remedy = "do it outside execgate, or ask the operator for a rule that allows it".to_owned();
        return Decided::Deny(denial("admin_program", message, Some(remedy), "developer.admin-programs"));
    }
    if setuid {
        let message = format!(
            "{requested:?} is setuid, setgid or carries capabilities; in a job it would not gain them"
        );
        let remedy = "use a program that needs no privileges".to_owned();
        return Decided::Deny(denial("setuid_program", message, Some(remedy), "developer.setuid"));
    }
    Decided::Allow("developer.any".to_owned())
}

fn is_admin(program: &str) -> bool {
    let name = last_part(program);
    ADMIN.contains(&name) || name.starts_with("mkfs")
}

fn read_only(request: &CommandRequest) -> Option<Decided> {
    let executable = &request.executable;
    let found = executable.found.as_deref()?;
    if executable.interpreter.is_some() || executable.setuid {
        return None;
    }
    let allowed = READ_ONLY.iter().find(|allowed| allowed.program == last_part(found))?;
    match allowed.objection(request.argv.get(1..).unwrap_or_default()) {
        None => Some(Decided::Allow(format!("read-only.{}", allowed.program))),
        Some(argument) => {
            let message = format!("{} may not be given {argument:?} here", allowed.program);
            let remedy =
                "leave it out; the read-only preset allows only options it knows to be harmless".to_owned();
            Some(Decided::Deny(denial(
                "argument_not_allowed",
                message,
                Some(remedy),
                &format!("read-only.{}", allowed.program),
            )))
        }
    }
}

impl Allowed {
    /// The first argument that is not allowed.
    fn objection<'a>(&self, arguments: &'a [String]) -> Option<&'a str> {
        let mut rest = arguments.iter();
        let mut only_operands = false;
        while let Some(argument) = rest.next() {
            if only_operands || argument == "-" || !argument.starts_with('-') {
                if !self.operands {
                    return Some(argument);
                }
            } else if argument == "--" {
                only_operands = true;
            } else if let Some(long) = argument.strip_prefix("--") {
                if !self.knows_long(long) {
                    return Some(argument);
                }
            } else if !self.knows_short(argument, &mut rest) {
                return Some(argument);
            }
        }
        None
    }

    /// `--name` or `--name=value`, spelled in full.
    fn knows_long(&self, long: &str) -> bool {
        match long.split_once('=') {
            None => self.long.contains(&long),
            Some((name, _)) => self.long.iter().any(|known| known.strip_suffix('=') == Some(name)),
        }
    }

    /// A group of letters; the first that takes a value ends it, and takes the next argument when nothing follows.
    fn knows_short<'a>(&self, argument: &str, rest: &mut impl Iterator<Item = &'a String>) -> bool {
        let mut letters = argument.chars().skip(1);
        while let Some(letter) = letters.next() {
            if self.values.contains(letter) {
                return letters.next().is_some() || rest.next().is_some();
            }
            if !self.flags.contains(letter) {
                // `head -5` and `tail -5` are numbers of lines.
                let number = argument.chars().skip(1).all(|c| c.is_ascii_digit());
                return number && self.values.contains('n');
            }
        }
        true
    }
}
