//! How a shell is started: which language it speaks, and where its script comes from.

use super::findings::Reason;

/// The language of a shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// bash: everything that the parser knows.
    Bash,
    /// `sh`, whichever it is: what only bash would understand is in doubt.
    Posix,
    /// Like POSIX, but not to be relied on.
    Other,
}

/// `None` for what is no shell.
pub(super) fn dialect(name: &str) -> Option<Dialect> {
    match name.trim_start_matches('-') {
        "bash" | "rbash" => Some(Dialect::Bash),
        "sh" | "dash" | "ash" => Some(Dialect::Posix),
        "zsh" | "ksh" | "ksh93" | "mksh" | "lksh" | "pdksh" | "oksh" | "yash" | "fish" | "csh" | "tcsh"
        | "rc" | "es" | "posh" | "hush" | "xonsh" | "nu" | "pwsh" | "elvish" | "osh" | "brush" => {
            Some(Dialect::Other)
        }
        _ => None,
    }
}

/// Where a script comes from.
#[derive(Debug)]
pub(super) enum Source {
    /// `-c`.
    Text { text: String, doubts: Vec<Reason> },
    /// It only says what it is.
    Nothing,
}

/// Options of bash that take a word of their own.
const WITH_WORD: [&str; 4] = ["--rcfile", "--init-file", "--debugger", "--wordexp"];
/// Options that make it say something and leave, or change nothing that it runs.
const HARMLESS: [&str; 8] = [
    "--norc",
    "--noprofile",
    "--posix",
    "--noediting",
    "--restricted",
    "--verbose",
    "--noline-editing",
    "--dump-strings",
];

/// Whether this is a long option with one dash, as bash takes it where others read letters.
fn is_long(group: &str) -> bool {
    let long = format!("-{group}");
    [&HARMLESS[..], &WITH_WORD, &["--login", "--help", "--version"]].concat().contains(&long.as_str())
}

/// What the arguments make the shell read.
pub(super) fn source(argv: &[String]) -> Result<Source, Reason> {
    let mut seen = Seen::default();
    if argv.first().is_some_and(|name| name.starts_with('-')) {
        seen.doubts.push(Reason::Source);
    }
    let mut rest = argv.iter().skip(1).peekable();
    while let Some(argument) = rest.peek().map(|a| a.as_str()) {
        match argument {
            "-" | "--" => {
                rest.next();
                break;
            }
            "--version" | "--help" => return Ok(Source::Nothing),
            "--login" => seen.doubts.push(Reason::Source),
            long if WITH_WORD.contains(&long) => {
                seen.doubts.push(Reason::Options);
                rest.next();
            }
            long if HARMLESS.contains(&long) => {}
            long if long.starts_with("--") || is_long(long) => return Err(Reason::Options),
            group if group.starts_with(['-', '+']) => {
                let words = seen.group(group)?;
                for _ in 0..words {
                    rest.next();
                    seen.option_word(rest.peek().map_or("", |w| w.as_str()));
                }
            }
            _ => break,
        }
        rest.next();
    }
    seen.source(rest.next().map(String::as_str))
}

#[derive(Debug, Default)]
struct Seen {
    command: bool,
    stdin: bool,
    interactive: bool,
    doubts: Vec<Reason>,
}

impl Seen {
    /// A group of letters; how many words of its own it takes.
    fn group(&mut self, group: &str) -> Result<usize, Reason> {
        let on = group.starts_with('-');
        let mut words = 0;
        for letter in group.chars().skip(1) {
            match letter {
                'c' if on => self.command = true,
                's' => self.stdin = true,
                'i' => self.interactive = true,
                'l' => self.doubts.push(Reason::Source),
                'o' | 'O' => words += 1,
                'a' | 'k' => self.doubts.push(Reason::Variable),
                'b' | 'e' | 'f' | 'h' | 'm' | 'n' | 'p' | 'r' | 't' | 'u' | 'v' | 'x' | 'B' | 'C' | 'D'
                | 'E' | 'H' | 'P' | 'T' | 'V' | 'I' | 'q' => {}
                _ => return Err(Reason::Options),
            }
        }
        Ok(words)
    }

    /// The name after `-o` or `-O`: those that change what runs are in doubt.
    fn option_word(&mut self, name: &str) {
        const PLAIN: [&str; 20] = [
            "errexit",
            "nounset",
            "pipefail",
            "noglob",
            "xtrace",
            "verbose",
            "noclobber",
            "noexec",
            "monitor",
            "notify",
            "posix",
            "nullglob",
            "failglob",
            "globstar",
            "dotglob",
            "nocaseglob",
            "extglob",
            "lastpipe",
            "inherit_errexit",
            "privileged",
        ];
        if !PLAIN.contains(&name) {
            self.doubts.push(Reason::Options);
        }
    }

    fn source(mut self, operand: Option<&str>) -> Result<Source, Reason> {
        if self.interactive {
            if !self.command {
                return Err(Reason::Interactive);
            }
            self.doubts.push(Reason::Interactive);
        }
        match (self.command, operand) {
            (true, Some(text)) => Ok(Source::Text { text: text.to_owned(), doubts: self.doubts }),
            (true, None) => Err(Reason::Options),
            (false, Some(_)) if !self.stdin => Err(Reason::File),
            (false, _) => Err(Reason::Stdin),
        }
    }
}
