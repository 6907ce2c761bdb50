//! Words to people and programs, and the ways a command can go wrong.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

const NO_SUCH_PROGRAM: u8 = 127;
/// As shells say that SIGPIPE ended a program.
const NOBODY_READS: u8 = 128 + 13;

/// A reason to stop, with what to tell and the exit code (sysexits.h).
#[derive(Debug)]
pub(super) struct Trouble {
    message: String,
    code: u8,
}

impl Trouble {
    pub(super) fn failed(message: impl Display) -> Self {
        Self { message: message.to_string(), code: 1 }
    }

    pub(super) fn usage(message: impl Display) -> Self {
        Self { message: message.to_string(), code: 2 }
    }

    /// EX_UNAVAILABLE
    pub(super) fn unreachable(message: impl Display) -> Self {
        Self { message: message.to_string(), code: 69 }
    }

    /// EX_TEMPFAIL
    pub(super) fn later(message: impl Display) -> Self {
        Self { message: message.to_string(), code: 75 }
    }

    /// EX_NOPERM
    pub(super) fn refused(message: impl Display) -> Self {
        Self { message: message.to_string(), code: 77 }
    }

    /// As shells say that a file cannot be executed.
    pub(super) fn not_executable(message: impl Display) -> Self {
        Self { message: message.to_string(), code: 126 }
    }

    /// As shells say that there is no such program.
    pub(super) fn no_such_program(message: impl Display) -> Self {
        Self { message: message.to_string(), code: NO_SUCH_PROGRAM }
    }

    /// Whoever read our output went away: nothing to tell, and the code of a program that SIGPIPE ended.
    pub(super) const fn nobody_reads() -> Self {
        Self { message: String::new(), code: NOBODY_READS }
    }

    /// A write to our standard output or error failed.
    pub(super) fn unwritten(stream: &str, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::nobody_reads();
        }
        Self::failed(format!("{stream} cannot be written: {error}; what it was to get is lost"))
    }

    /// Whether it is that whoever read our output went away.
    pub(super) const fn is_that_nobody_reads(&self) -> bool {
        self.code == NOBODY_READS
    }

    /// Whether it is that there is no such program.
    pub(super) const fn is_no_such_program(&self) -> bool {
        self.code == NO_SUCH_PROGRAM
    }

    /// Tells it and gives the exit code.
    pub(super) fn report(self) -> ExitCode {
        if !self.message.is_empty() {
            complain(&self.message);
        }
        ExitCode::from(self.code)
    }
}

/// A line to standard output. A reader that went away ends the program quietly, as it does others.
pub(super) fn say(line: impl Display) -> Result<(), Trouble> {
    writeln!(io::stdout(), "{line}").map_err(|error| Trouble::unwritten("standard output", &error))
}

/// A line to standard error.
pub(super) fn complain(message: impl Display) {
    // There is nobody left to tell when this fails.
    let _ = writeln!(io::stderr(), "execgate: {}", harmless(&message.to_string()));
}

/// Text from elsewhere, safe for a terminal: what controls one, or turns the direction of writing, is escaped, but for line
/// feeds and tabs.
pub(super) fn harmless(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            if (c.is_control() && c != '\n' && c != '\t') || turns_writing(c) {
                c.escape_default().collect::<Vec<_>>()
            } else {
                vec![c]
            }
        })
        .collect()
}

/// Text from elsewhere that is a part of a line and must stay one: [`harmless`], with line feeds and tabs escaped too.
pub(super) fn harmless_part(text: &str) -> String {
    harmless(text).replace('\n', "\\n").replace('\t', "\\t")
}

/// Separators of lines and the bidirectional controls (Unicode Standard Annex 9), by which a text shows otherwise than it is.
const fn turns_writing(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// What a word means, for those who see colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    Good,
    Bad,
    Doubt,
}

/// The text in a colour, on a terminal only.
pub(super) fn paint(colour: Colour, text: &str) -> String {
    if !is_for_people() {
        return text.to_owned();
    }
    let code = match colour {
        Colour::Good => 32,
        Colour::Bad => 31,
        Colour::Doubt => 33,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

/// Whether people read standard output.
pub(super) fn is_for_people() -> bool {
    io::stdout().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_elsewhere_neither_controls_a_terminal_nor_ends_a_line() {
        let shown = harmless_part("a\u{1b}[2J\nb\t\u{202e}c\u{2066}\u{9b}é");
        assert_eq!(shown, "a\\u{1b}[2J\\nb\\t\\u{202e}c\\u{2066}\\u{9b}é");
        assert_eq!(harmless("two\nlines\tand a tab"), "two\nlines\tand a tab");
    }
}
