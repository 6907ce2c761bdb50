//! The program as an author of policies runs it: in a folder, to its end.

#![allow(
    clippy::disallowed_methods,
    reason = "the program runs cargo, which keeps its things where the environment says"
)]

use std::path::Path;
use std::process::Output;

use super::Gateway;

/// Runs the program in a folder.
pub fn program(directory: &tempfile::TempDir, folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Gateway::command(directory);
    // cargo and rustup keep their things at home.
    for name in ["HOME", "CARGO_HOME", "RUSTUP_HOME"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.args(arguments).current_dir(folder).output().unwrap()
}

/// All it printed.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs it and wants it to succeed; all it printed.
#[track_caller]
pub fn succeeds(directory: &tempfile::TempDir, folder: &Path, arguments: &[&str]) -> String {
    let output = program(directory, folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    text(&output)
}
