//! Our own terminal: its size, and raw mode that is always given back.

use std::io;

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// Raw mode of standard input; dropping it restores what was.
pub(super) struct Raw {
    before: Termios,
}

impl Raw {
    /// Enters raw mode; `None` when standard input is no terminal.
    pub(super) fn enter() -> Option<Self> {
        let stdin = io::stdin();
        if !isatty(&stdin) {
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Drain, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}

/// Rows and columns of the terminal, or the conventional 24 × 80.
pub(super) fn size() -> (u16, u16) {
    let sizes = [tcgetwinsize(io::stdout()), tcgetwinsize(io::stdin())];
    let known = sizes.into_iter().flatten().find(|s| s.ws_row > 0 && s.ws_col > 0);
    known.map_or((24, 80), |s| (s.ws_row.min(1000), s.ws_col.min(1000)))
}
