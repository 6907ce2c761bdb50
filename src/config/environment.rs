//! The process environment, read once.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use super::ConfigFailure;
use super::layers::One;

/// Variables that begin with the prefix and are no settings.
const NOT_SETTINGS: [&str; 7] = [
    "EXECGATE_CA",
    "EXECGATE_CERT",
    "EXECGATE_KEY",
    "EXECGATE_URL",
    "EXECGATE_TOKEN",
    "EXECGATE_TOKEN_FILE",
    "EXECGATE_JOB",
];

/// What the environment says to this program.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, OsString>,
}

impl std::fmt::Debug for Environment {
    // Any value may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

impl Environment {
    /// The environment of this process.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn of_process() -> Self {
        let variables = std::env::vars_os();
        Self { variables: variables.map(|(k, v)| (k.to_string_lossy().into_owned(), v)).collect() }
    }

    /// A variable's value, when it is set, not empty, and text.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).and_then(|value| value.to_str()).filter(|value| !value.is_empty())
    }

    /// The variables that are settings.
    ///
    /// # Errors
    /// The first that names no key or is no text.
    pub(super) fn settings(&self) -> Result<Vec<One>, ConfigFailure> {
        let of_ours = self.variables.iter().filter(|(name, _)| !NOT_SETTINGS.contains(&name.as_str()));
        let settings =
            of_ours.filter_map(|(name, value)| Some((name, name.strip_prefix("EXECGATE_")?, value)));
        settings
            .map(|(name, rest, value)| {
                let name = format!("the environment variable {name}");
                let wrong = |what: &str| ConfigFailure::Wrong { place: name.clone(), what: what.to_owned() };
                let key = key(rest).ok_or_else(|| wrong("names no key; write EXECGATE_SECTION__KEY"))?;
                let value = value.to_str().ok_or_else(|| wrong("is no UTF-8 text"))?.to_owned();
                Ok(One { name, key, value })
            })
            .collect()
    }

    /// Where state is kept: `/var/lib/execgate` for root, else `$XDG_STATE_HOME/execgate` or `~/.local/state/execgate` (XDG
    /// Base Directory Specification).
    pub fn state_directory(&self) -> Option<PathBuf> {
        if nix::unistd::geteuid().is_root() {
            // Tests and containers point it elsewhere.
            let named = self.get("XDG_STATE_HOME").map(|d| PathBuf::from(d).join("execgate"));
            return named.or_else(|| Some(PathBuf::from("/var/lib/execgate")));
        }
        if let Some(directory) = self.get("XDG_STATE_HOME").map(PathBuf::from).filter(|d| d.is_absolute()) {
            return Some(directory.join("execgate"));
        }
        self.get("HOME").map(|home| PathBuf::from(home).join(".local/state/execgate"))
    }
}

/// The dotted key that the rest of a variable's name stands for. Names that others have given keep their case: those of variables,
/// which may have two underscores within, and ids of keys.
fn key(rest: &str) -> Option<String> {
    let lower = rest.to_ascii_lowercase();
    let given = |table: &str| lower.strip_prefix(table).and_then(|_| rest.get(table.len()..));
    let key = if let Some(name) = given("jobs__env__") {
        format!("jobs.env.{name}")
    } else if let Some(id) = given("auth__jwt__key__") {
        let (id, about) = id.split_at(id.find("__").unwrap_or(id.len()));
        format!("auth.jwt.key.{id}{}", dotted(&about.to_ascii_lowercase()))
    } else {
        dotted(&lower)
    };
    key.split('.').all(|part| !part.is_empty()).then_some(key)
}

fn dotted(name: &str) -> String {
    name.replace("__", ".")
}
