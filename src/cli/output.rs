//! Words to people and programs, and the ways a command can go wrong.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

const NO_SUCH_PROGRAM: u8 = 127;

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

    /// Whether it is that there is no such program.
    pub(super) const fn is_no_such_program(&self) -> bool {
        self.code == NO_SUCH_PROGRAM
    }

    /// Tells it and gives the exit code.
    pub(super) fn report(self) -> ExitCode {
        complain(&self.message);
        ExitCode::from(self.code)
    }
}

/// A line to standard output. A reader that went away ends the program quietly, as it does others.
pub(super) fn say(line: impl Display) -> Result<(), Trouble> {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Trouble::failed(format!("standard output: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A line to standard error.
pub(super) fn complain(message: impl Display) {
    // There is nobody left to tell when this fails.
    let _ = writeln!(io::stderr(), "execgate: {}", harmless(&message.to_string()));
}

/// Text from elsewhere, safe for a terminal: control characters but line feeds and tabs are escaped.
pub(super) fn harmless(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            if c.is_control() && c != '\n' && c != '\t' {
                c.escape_default().collect::<Vec<_>>()
            } else {
                vec![c]
            }
        })
        .collect()
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
