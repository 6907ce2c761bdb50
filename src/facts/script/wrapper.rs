//! Programs that run the program named by their operands, and how to find it among their options.

use super::Examiner;
use super::findings::Reason;

/// How a wrapper reads its arguments.
#[derive(Debug, Clone, Copy)]
pub(super) struct Grammar {
    /// Letters of options without a word.
    flags: &'static str,
    /// Letters of options whose word is the rest of the group, or the next argument.
    words: &'static str,
    /// Letters whose word, if any, is the rest of the group.
    optional: &'static str,
    /// Long options without a word; those with one are written `--name=` or followed by it.
    long_flags: &'static [&'static str],
    long_words: &'static [&'static str],
    /// Operands of its own before the program.
    operands: usize,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    /// Sets variables: `NAME=VALUE` before the program.
    Env,
    /// `-5` is a number.
    Nice,
    /// Adds arguments of its own.
    Xargs,
}

const PLAIN: Grammar = Grammar {
    flags: "",
    words: "",
    optional: "",
    long_flags: &[],
    long_words: &[],
    operands: 0,
    kind: Kind::Plain,
};

/// The wrappers that are understood.
const GRAMMARS: [(&str, Grammar); 11] = [
    ("nohup", PLAIN),
    (
        "env",
        Grammar {
            flags: "iv0",
            words: "uC",
            long_flags: &["--ignore-environment", "--null", "--debug"],
            long_words: &["--unset", "--chdir"],
            kind: Kind::Env,
            ..PLAIN
        },
    ),
    ("nice", Grammar { words: "n", long_words: &["--adjustment"], kind: Kind::Nice, ..PLAIN }),
    (
        "timeout",
        Grammar {
            flags: "vfp",
            words: "ks",
            long_flags: &["--foreground", "--preserve-status", "--verbose"],
            long_words: &["--kill-after", "--signal"],
            operands: 1,
            ..PLAIN
        },
    ),
    ("setsid", Grammar { flags: "cfw", long_flags: &["--ctty", "--fork", "--wait"], ..PLAIN }),
    ("stdbuf", Grammar { words: "ioe", long_words: &["--input", "--output", "--error"], ..PLAIN }),
    (
        "xargs",
        Grammar {
            flags: "0oprtx",
            words: "adEILnPs",
            optional: "eil",
            long_flags: &[
                "--null",
                "--open-tty",
                "--interactive",
                "--no-run-if-empty",
                "--verbose",
                "--exit",
            ],
            long_words: &["--arg-file", "--delimiter", "--max-args", "--max-procs", "--max-chars"],
            kind: Kind::Xargs,
            ..PLAIN
        },
    ),
    (
        "ionice",
        Grammar {
            flags: "t",
            words: "cn",
            long_flags: &["--ignore"],
            long_words: &["--class", "--classdata"],
            ..PLAIN
        },
    ),
    (
        "chrt",
        Grammar {
            flags: "bdfiorRvam",
            words: "TPD",
            long_flags: &["--batch", "--fifo", "--idle", "--other", "--rr", "--reset-on-fork", "--verbose"],
            operands: 1,
            ..PLAIN
        },
    ),
    ("taskset", Grammar { flags: "ac", long_flags: &["--all-tasks", "--cpu-list"], operands: 1, ..PLAIN }),
    (
        "time",
        Grammar {
            flags: "apvq",
            words: "fo",
            long_flags: &["--append", "--portability", "--verbose", "--quiet"],
            long_words: &["--format", "--output"],
            ..PLAIN
        },
    ),
];

/// Whether the first operand is the name of an applet. BusyBox goes by the beginning of its name.
pub(super) fn is_multicall(name: &str) -> bool {
    ["busybox", "toybox"].iter().any(|multicall| name.starts_with(multicall))
}

/// `None` for what is no wrapper that is understood.
pub(super) fn grammar(name: &str) -> Option<Grammar> {
    if is_multicall(name) {
        return Some(PLAIN);
    }
    GRAMMARS.iter().find(|(known, _)| *known == name).map(|(_, grammar)| *grammar)
}

/// Notes and follows the program that a wrapper would run.
pub(super) fn unwrap(examiner: &mut Examiner<'_>, grammar: Grammar, argv: &[String]) {
    let mut rest = argv.get(1..).unwrap_or_default();
    let mut left = grammar.operands;
    let mut options = true;
    while let Some((argument, after)) = rest.split_first() {
        if options && argument == "--" {
            options = false;
            rest = after;
            continue;
        }
        if options && argument.starts_with('-') && argument.len() > 1 {
            match option(grammar, argument) {
                Ok(words) => rest = after.get(words..).unwrap_or_default(),
                Err(Say::Nothing) => return,
                Err(Say::Doubt) => return examiner.findings.doubt(Reason::Wrapper),
            }
            continue;
        }
        if grammar.kind == Kind::Env && argument == "-" {
            options = false;
            rest = after;
        } else if grammar.kind == Kind::Env && argument.contains('=') {
            options = false;
            rest = after;
            examiner.exported(argument.split('=').next().unwrap_or_default());
        } else if left > 0 {
            // None takes options behind its operands.
            options = false;
            left -= 1;
            rest = after;
            if !argument.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
                return examiner.findings.doubt(Reason::Wrapper);
            }
        } else {
            break;
        }
    }
    wrapped(examiner, grammar, rest);
}

fn wrapped(examiner: &mut Examiner<'_>, grammar: Grammar, argv: &[String]) {
    if grammar.kind == Kind::Xargs {
        // What comes by standard input becomes arguments.
        examiner.findings.doubt(Reason::Dynamic);
        if argv.is_empty() {
            return examiner.noted(vec!["echo".to_owned()]);
        }
    }
    if !argv.is_empty() {
        examiner.noted(argv.to_vec());
    }
}

enum Say {
    /// It says something about itself and runs nothing.
    Nothing,
    Doubt,
}

/// How many of the next arguments belong to the option.
fn option(grammar: Grammar, argument: &str) -> Result<usize, Say> {
    if let Some(long) = argument.strip_prefix("--") {
        let name = argument.split('=').next().unwrap_or_default();
        return match (grammar.long_flags.contains(&name), grammar.long_words.contains(&name), long) {
            (_, _, "help" | "version") => Err(Say::Nothing),
            (true, _, _) if name == argument => Ok(0),
            (_, true, _) => Ok(usize::from(name == argument)),
            _ => Err(Say::Doubt),
        };
    }
    let group = argument.trim_start_matches('-');
    if grammar.kind == Kind::Nice && group.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(0);
    }
    for (at, letter) in group.char_indices() {
        if grammar.words.contains(letter) {
            return Ok(usize::from(at + letter.len_utf8() == group.len()));
        }
        if grammar.optional.contains(letter) {
            return Ok(0);
        }
        if !grammar.flags.contains(letter) {
            return Err(Say::Doubt);
        }
    }
    Ok(0)
}
