//! The parser behind bounds: size, nesting, time; on a thread with a stack of its own, where a panic hurts nobody.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use brush_parser::ast::Program;
use brush_parser::word::{self, WordPieceWithSource};
use brush_parser::{ParserOptions, SourceSpan, Token, parse_tokens, uncached_tokenize_str};
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

/// Whether a parser and who waits for it have parted. The second of the two to let go takes it off the count of those left
/// behind.
#[derive(Clone)]
struct Parting {
    is_over: Arc<AtomicBool>,
    left_behind: &'static AtomicU32,
}

impl Parting {
    fn new(left_behind: &'static AtomicU32) -> Self {
        Self { is_over: Arc::default(), left_behind }
    }

    /// Nobody waits for the parser any more; it may just have ended.
    fn give_up(&self) {
        self.left_behind.fetch_add(1, Ordering::AcqRel);
        self.part();
    }

    fn part(&self) {
        if self.is_over.swap(true, Ordering::AcqRel) {
            self.left_behind.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// The parser's end of it: dropped however it ends, by a panic too.
struct Parser(Parting);

impl Drop for Parser {
    fn drop(&mut self) {
        self.0.part();
    }
}

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
    let parting = Parting::new(&LEFT_BEHIND);
    let parser = Parser(parting.clone());
    let work = move || {
        let _parser = parser;
        let mut findings = Findings::default();
        let mut examiner = Examiner { findings: &mut findings, env: &env, dialect: Dialect::Bash, depth: 0 };
        // The parser logs what it reads, word for word, and a script may hold secrets.
        dispatcher::with_default(&Dispatch::none(), || examiner.program(&argv));
        // Nobody waits any more when it took too long.
        let _ = done.send(findings);
    };
    let started = thread::Builder::new().name("script".to_owned()).stack_size(STACK).spawn(work);
    if started.is_err() {
        return gave_up();
    }
    match outcome.recv_timeout(TIME) {
        Ok(findings) => findings,
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
            parting.give_up();
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
    let tokens = tokens(text, dialect)?;
    if !is_sure(text, &tokens) {
        return Err(Reason::Syntax);
    }
    parse_tokens(&tokens, &options(dialect)).map_err(|_| Reason::Syntax)
}

fn tokens(text: &str, dialect: Dialect) -> Result<Vec<Token>, Reason> {
    uncached_tokenize_str(text, &options(dialect).tokenizer_options()).map_err(|_| Reason::Syntax)
}

/// Whether the tokens are read the same everywhere and hold all of the text: the tokenizer drops what it takes for a comment, and
/// within a word that may be none.
fn is_sure(text: &str, tokens: &[Token]) -> bool {
    let text: Vec<char> = text.chars().collect();
    let mut rest = tokens;
    while let Some((token, after)) = rest.split_first() {
        rest = after;
        let sure = match token {
            Token::Operator(operator, _) if matches!(operator.as_str(), "<<" | "<<-") => {
                // The word behind it, the document and its end.
                rest = after.get(3..).unwrap_or_default();
                after.first().is_some_and(|word| is_plain_end(word.to_str()))
            }
            // Arithmetic or two subshells: which, is found out by rules of each shell's own, and comments differ.
            Token::Operator(operator, at) if operator == "(" => {
                !matches!(after.first(), Some(Token::Operator(next, then)) if next == "(" && then.start.index == at.end.index)
            }
            Token::Operator(..) => true,
            Token::Word(word, at) => visible(word) == visible(&source(&text, at)),
        };
        if !sure {
            return false;
        }
    }
    true
}

fn source(text: &[char], at: &SourceSpan) -> String {
    text.get(at.start.index..at.end.index).unwrap_or_default().iter().collect()
}

/// Without blanks and continued lines, which the tokenizer may take away.
fn visible(text: &str) -> String {
    text.replace("\\\n", "").split_whitespace().collect()
}

/// A word that ends a here-document, without quotes or within one pair of them.
fn is_plain_end(word: &str) -> bool {
    let bare = ["'", "\""].into_iter().find_map(|quote| word.strip_prefix(quote)?.strip_suffix(quote));
    let bare = bare.or_else(|| word.strip_prefix('\\')).unwrap_or(word);
    !bare.is_empty() && bare.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

/// Whether a command substitution ends where it was taken to end, not in a comment, a quote or a here-document: the grammar of words
/// knows no comments and no documents.
pub(super) fn is_whole(command: &str, dialect: Dialect) -> bool {
    let tokens = tokens(&format!("{command})"), dialect).unwrap_or_default();
    matches!(tokens.last(), Some(Token::Operator(last, _)) if last == ")")
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
    // Old arithmetic in bash, text elsewhere.
    if text.contains("$[") {
        return Err(Reason::Syntax);
    }
    let substitutions = text.matches("$(").count() + text.matches("${").count() + text.matches('`').count();
    if text.len() > TEXT || substitutions > SUBSTITUTIONS { Err(Reason::Size) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parser_left_behind_is_counted_until_it_ends_whoever_lets_go_first() {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = || COUNT.load(Ordering::Relaxed);
        let begun = || {
            let parting = Parting::new(&COUNT);
            (Parser(parting.clone()), parting)
        };
        let (parser, _waits) = begun();
        drop(parser);
        assert_eq!(count(), 0, "it answered in time");
        let (parser, waits) = begun();
        waits.give_up();
        assert_eq!(count(), 1);
        drop(parser);
        assert_eq!(count(), 0, "it ended later");
        let (parser, waits) = begun();
        drop(parser);
        waits.give_up();
        assert_eq!(count(), 0, "its answer came between the patience and its end");
        let (parser, waits) = begun();
        waits.give_up();
        let broken = thread::spawn(move || {
            let _parser = parser;
            std::panic::panic_any("too strange");
        });
        assert!(broken.join().is_err());
        assert_eq!(count(), 0, "it panicked");
    }
}
