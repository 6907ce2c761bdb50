//! Tests a policy's logic with plain `cargo test`: tables of cases, and the schema kept equal to the settings.
//!
//! The tables are the ones that `execgate policy test` runs against the built module, so the same cases hold natively and as
//! WebAssembly. A command that a policy changes is reviewed once more, as the host does.
//!
//! ```toml
//! policy = "builtin:command-rules"
//! settings = { preset = "read-only" }
//!
//! [[case]]
//! name = "find may list"
//! argv = ["find", ".", "-name", "x"]
//! expect = "allow"                # allow | deny | abstain | charge
//! rule = "read-only.find"         # optional: a rule that must be named
//! ```

mod case;
mod request;
mod table;

pub use case::{Case, Expected, Hook};
pub use table::{Table, Tables};

use std::path::Path;

use crate::policy::Policy;
use crate::types::{CommandRequest, SettingError};

/// The policy's settings from JSON, read and checked as the host has it done.
///
/// # Errors
/// What is wrong with them.
pub fn settings<P: Policy>(json: &str) -> Result<P::Settings, Vec<SettingError>> {
    crate::export::prepare::<P>(json)
}

/// The request for a command in an ordinary place, by an ordinary caller; `argv[0]` is found in /usr/bin.
pub fn command(argv: &[&str]) -> CommandRequest {
    request::plain(argv)
}

/// Keeps the schema file equal to what the settings derive: writes it when `UPDATE_SCHEMA` is set in the environment.
///
/// # Panics
/// When the file differs from the derived schema, or is not the one the policy shows.
#[allow(clippy::disallowed_methods, reason = "a test has no configuration but its environment")]
pub fn schema<P: Policy>(file: impl AsRef<Path>)
where
    P::Settings: schemars::JsonSchema,
{
    let file = file.as_ref();
    let derived = schemars::schema_for!(P::Settings);
    let mut derived = serde_json::to_string_pretty(&derived).unwrap_or_default();
    derived.push('\n');
    if std::env::var_os("UPDATE_SCHEMA").is_some_and(|value| !value.is_empty()) {
        std::fs::write(file, &derived).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        return;
    }
    let hint = "run the test once with UPDATE_SCHEMA=1 and look at the difference";
    assert_eq!(std::fs::read_to_string(file).unwrap_or_default(), derived, "{}: {hint}", file.display());
    assert_eq!(P::SCHEMA, derived, "the policy shows another schema than {}", file.display());
}
