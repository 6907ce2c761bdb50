//! What a client asks to run, and what that turns out to be on this host.

use std::collections::BTreeMap;

/// A command as a client asked for it or as policy changed it: exactly what will be executed.
///
/// Bounds, checked before any guest runs: argv and env together at most 256 KiB and 4 096 items; no NUL bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Program and arguments; `argv[0]` names the program. Never empty.
    pub argv: Vec<String>,
    /// Working directory; `None` is the job identity's home.
    pub cwd: Option<String>,
    /// The complete environment of the job.
    pub env: BTreeMap<String, String>,
    /// A terminal instead of pipes.
    pub terminal: Option<Terminal>,
}

impl Command {
    /// The program as the client wrote it.
    pub fn program(&self) -> &str {
        self.argv.first().map_or("", String::as_str)
    }
}

/// A pseudo-terminal asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terminal {
    /// Its size before the first byte.
    pub size: TerminalSize,
    /// The value of `TERM`.
    pub term: String,
}

/// Rows and columns, 1..=1000 each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    rows: u16,
    cols: u16,
}

impl TerminalSize {
    /// Largest number of rows or columns.
    pub const MAX: u16 = 1000;

    /// A size within 1..=1000 each, else `None`.
    pub fn new(rows: u16, cols: u16) -> Option<Self> {
        let fits = |n| (1..=Self::MAX).contains(&n);
        (fits(rows) && fits(cols)).then_some(Self { rows, cols })
    }

    /// Rows, 1..=1000.
    pub const fn rows(self) -> u16 {
        self.rows
    }

    /// Columns, 1..=1000.
    pub const fn cols(self) -> u16 {
        self.cols
    }
}

/// What a command really is on this host, as the leader-to-be saw it under its own identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The program.
    pub executable: Executable,
    /// The working directory, canonical.
    pub cwd: String,
    /// Present when the program is a known interpreter or wrapper.
    pub script: Option<Script>,
}

/// A command together with what it turned out to be: the unit that policy reviews and the warden runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// What will be executed.
    pub command: Command,
    /// What that is on this host.
    pub facts: Facts,
}

/// A resolved program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executable {
    /// As written by the client.
    pub requested: String,
    /// The path before symlinks; present only when the name was found on the server's own PATH.
    pub found: Option<String>,
    /// The path after symlinks.
    pub canonical: String,
    /// Device and inode of the file that will be executed.
    pub identity: FileIdentity,
    /// The file is setuid, setgid or carries file capabilities.
    pub setuid: bool,
    /// For a `#!` script: what runs it (one level).
    pub interpreter: Option<Interpreter>,
}

/// The program named in the first line of a `#!` script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    /// The path as the script names it.
    pub requested: String,
    /// The path after symlinks.
    pub canonical: String,
    /// Device and inode of the file that will be executed.
    pub identity: FileIdentity,
    /// The one optional argument of the `#!` line.
    pub argument: Option<String>,
    /// The file is setuid, setgid or carries file capabilities.
    pub setuid: bool,
}

/// A file on this host, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

/// What an interpreter was asked to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// The simple commands it would run, where they are statically known.
    pub commands: Vec<Vec<String>>,
    /// Something in it is not statically known.
    pub opaque: bool,
    /// Why it is opaque: the words of the interfaces, e.g. `stdin`, `dynamic`.
    pub reasons: Vec<String>,
}

/// A text that may be a secret: it is given to jobs, and printed nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(redacted)")
    }
}
