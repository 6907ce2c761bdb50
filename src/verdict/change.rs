//! Changes a policy may make to a command.

use crate::domain::Command;

/// One change. Later changes of the same thing win.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Runs another program, with the same arguments.
    SetProgram(String),
    /// Replaces the argument at this index; 1 is the first argument.
    SetArg {
        /// Which argument.
        index: u32,
        /// Its new text.
        value: String,
    },
    /// Sets an environment variable.
    SetEnv {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
    },
    /// Removes an environment variable.
    UnsetEnv(String),
    /// Sets the working directory.
    SetCwd(String),
}

/// The change cannot be applied to this command: the answer makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inapplicable;

/// Applies one change.
pub(super) fn apply(command: &mut Command, change: &Change) -> Result<(), Inapplicable> {
    match change {
        Change::SetProgram(program) => replace(command, 0, program),
        Change::SetArg { index: 0, .. } => Err(Inapplicable),
        Change::SetArg { index, value } => replace(command, *index as usize, value),
        Change::SetEnv { name, value } => {
            let nameable = !name.is_empty() && !name.contains(['=', '\0']);
            if !nameable || value.contains('\0') {
                return Err(Inapplicable);
            }
            command.env.insert(name.clone(), value.clone());
            Ok(())
        }
        Change::UnsetEnv(name) => {
            command.env.remove(name);
            Ok(())
        }
        Change::SetCwd(cwd) => {
            if cwd.is_empty() || cwd.contains('\0') {
                return Err(Inapplicable);
            }
            command.cwd = Some(cwd.clone());
            Ok(())
        }
    }
}

fn replace(command: &mut Command, index: usize, value: &str) -> Result<(), Inapplicable> {
    if value.contains('\0') || (index == 0 && value.is_empty()) {
        return Err(Inapplicable);
    }
    let arg = command.argv.get_mut(index).ok_or(Inapplicable)?;
    value.clone_into(arg);
    Ok(())
}
