//! What a command really is.
//!
//! Joins a command with what the leader-to-be saw of it, and says whether it would run a script. Does no IO:
//! paths and file identities come from the warden's answer.

mod script;

pub use script::needs_thread;

use crate::domain::{Command, Executable, Facts, Resolved};

/// The command together with its facts.
pub fn resolve(command: Command, executable: Executable, cwd: String) -> Resolved {
    let script = script::examine(&command, &executable);
    Resolved { command, facts: Facts { executable, cwd, script } }
}
