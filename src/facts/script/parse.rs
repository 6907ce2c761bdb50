//! The parser behind bounds: size, nesting, time; on a thread with a stack of its own, where a panic hurts nobody.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use brush_parser::ast::Program;
use brush_parser::word::{self, WordPieceWithSource};
use brush_parser::{ParserOptions, parse_tokens, uncached_tokenize_str};
use tracing::dispatcher::{self, Dispatch};

use super::findings::{Findings, Reason};
use super::shell::Dialect;
use super::{Examiner, names, wrapper};

/// Longest script read, bytes.
const TEXT: usize = 16 * 1024;
/// Most brackets and compound commands in a script: each may nest, and nesting is stack.
const BRACKETS: usize = 400;
/// Most substitutions in one word: the parser looks at nested ones twice a level.
const SUBSTITUTIONS: usize = 10;
/// Stack of the parser's thread: several times what `BRACKETS` levels take in an unoptimised build. Only what is touched is
/// memory.
const STACK: usize = 256 * 1024 * 1024;
/// How long reading a script may take; it takes microseconds.
const TIME: Duration = Duration::from_millis(500);
/// Parsers that may be left behind over time, each a thread that ends by itself.
const LEFT: u32 = 4;

static LEFT_BEHIND: AtomicU32 = AtomicU32::new(0);

/// Whether following these arguments may reach a shell's `-c`: only that is worth a thread.
pub(super) fn is_needed(argv: &[String]) -> bool {
    argv.iter().any(|a| super::shell::dialect(names::last_part(a)).is_some())
        || argv.first().is_some_and(|name| wrapper::grammar(name).is_some())
}

/// Examines the command on a thread of its own.
pub(super) fn apart(argv: Vec<String>, env: BTreeMap<String, String>) -> Findings {
    let gave_up = || {
        let mut findings = Findings::default();
        findings.doubt(Reason::Size);
        findings
    };
    if LEFT_BEHIND.load(Ordering::Relaxed) >= LEFT {
        return gave_up();
    }
    let (done, outcome) = sync_channel(1);
    let work = move || {
        let mut findings = Findings::default();
        let mut examiner = Examiner { findings: &mut findings, env: &env, dialect: Dialect::Bash, depth: 0 };
        // The parser logs what it reads, word for word, and a script may hold secrets.
        dispatcher::with_default(&Dispatch::none(), || examiner.program(&argv));
        // Nobody waits any more when it took too long.
        if done.send(findings).is_err() {
            LEFT_BEHIND.fetch_sub(1, Ordering::Relaxed);
        }
    };
    let started = thread::Builder::new().name("script".to_owned()).stack_size(STACK).spawn(work);
    if started.is_err() {
        return gave_up();
    }
    match outcome.recv_timeout(TIME) {
        Ok(findings) => findings,
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
            LEFT_BEHIND.fetch_add(1, Ordering::Relaxed);
            gave_up()
        }
        // It panicked: the text was too strange for the parser.
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
            tracing::warn!("the parser of scripts panicked; what it was given counts as no syntax it knows");
            let mut findings = Findings::default();
            findings.doubt(Reason::Syntax);
            findings
        }
    }
}

fn options(dialect: Dialect) -> ParserOptions {
    let posix = dialect == Dialect::Posix;
    ParserOptions { sh_mode: posix, posix_mode: posix, ..ParserOptions::default() }
}

/// # Errors
/// Why the text cannot be read.
pub(super) fn program(text: &str, dialect: Dialect) -> Result<Program, Reason> {
    if text.len() > TEXT {
        return Err(Reason::Size);
    }
    // Shells know blanks and line feeds only; whatever else looks like space or steers a terminal is no honest script.
    let strange =
        |c: char| (c.is_control() && c != '\n' && c != '\t') || (c.is_whitespace() && !c.is_ascii());
    if text.contains(strange) {
        return Err(Reason::Syntax);
    }
    if nesting(text) > BRACKETS {
        return Err(Reason::Depth);
    }
    let options = options(dialect);
    let tokens = uncached_tokenize_str(text, &options.tokenizer_options()).map_err(|_| Reason::Syntax)?;
    parse_tokens(&tokens, &options).map_err(|_| Reason::Syntax)
}

/// More than the deepest nesting: every opening bracket and word counts, wherever it stands.
fn nesting(text: &str) -> usize {
    let brackets = text.bytes().filter(|b| matches!(b, b'(' | b'{' | b'`')).count();
    let opens = |word: &&str| {
        matches!(*word, "if" | "while" | "until" | "for" | "case" | "coproc" | "function" | "!")
    };
    let words = text.split(|c: char| !c.is_ascii_alphabetic() && c != '!').filter(opens).count();
    brackets + words
}

/// # Errors
/// Why the word cannot be read.
pub(super) fn word(text: &str, dialect: Dialect) -> Result<Vec<WordPieceWithSource>, Reason> {
    within(text)?;
    word::parse(text, &options(dialect)).map_err(|_| Reason::Syntax)
}

/// The body of a here-document that is expanded.
///
/// # Errors
/// Why it cannot be read.
pub(super) fn here_document(text: &str, dialect: Dialect) -> Result<Vec<WordPieceWithSource>, Reason> {
    within(text)?;
    word::parse_heredoc(text, &options(dialect)).map_err(|_| Reason::Syntax)
}

fn within(text: &str) -> Result<(), Reason> {
    let substitutions = text.matches("$(").count() + text.matches("${").count() + text.matches('`').count();
    if text.len() > TEXT || substitutions > SUBSTITUTIONS { Err(Reason::Size) } else { Ok(()) }
}
