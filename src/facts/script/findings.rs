//! What was found, and what remains in doubt.

use std::collections::BTreeSet;

use crate::domain::Script;

/// Most commands kept of one script; more is opaque.
const COMMANDS: usize = 256;
/// Most bytes kept of them: they travel to every policy and into the decision log.
const BYTES: usize = 64 * 1024;

/// Why something is not known. The words are part of the interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    Stdin,
    File,
    Interactive,
    Language,
    Syntax,
    Dynamic,
    Eval,
    Source,
    Variable,
    Redirect,
    Wrapper,
    Options,
    Size,
    Depth,
    Dialect,
}

impl Reason {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Stdin => "stdin",
            Self::File => "file",
            Self::Interactive => "interactive",
            Self::Language => "language",
            Self::Syntax => "syntax",
            Self::Dynamic => "dynamic",
            Self::Eval => "eval",
            Self::Source => "source",
            Self::Variable => "variable",
            Self::Redirect => "redirect",
            Self::Wrapper => "wrapper",
            Self::Options => "options",
            Self::Size => "size",
            Self::Depth => "depth",
            Self::Dialect => "dialect",
        }
    }
}

/// Commands and doubts so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    commands: Vec<Vec<String>>,
    doubts: BTreeSet<Reason>,
}

impl Findings {
    pub(super) fn command(&mut self, argv: Vec<String>) {
        if self.commands.len() >= COMMANDS {
            return self.doubt(Reason::Size);
        }
        if !self.commands.contains(&argv) {
            self.commands.push(argv);
        }
    }

    pub(super) fn doubt(&mut self, reason: Reason) {
        self.doubts.insert(reason);
    }

    /// Drops commands beyond the bound of bytes.
    pub(super) fn bound(&mut self) {
        let mut left = BYTES;
        let mut fits = |argv: &Vec<String>| {
            let size = argv.iter().map(|a| a.len() + 1).sum::<usize>();
            let fits = size <= left;
            left = left.saturating_sub(size);
            fits
        };
        let kept = self.commands.iter().take_while(|argv| fits(argv)).count();
        if kept < self.commands.len() {
            self.commands.truncate(kept);
            self.doubt(Reason::Size);
        }
    }

    pub(super) fn into_script(self) -> Script {
        Script {
            commands: self.commands,
            opaque: !self.doubts.is_empty(),
            reasons: self.doubts.into_iter().map(|reason| reason.as_str().to_owned()).collect(),
        }
    }
}
