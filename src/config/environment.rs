//! The process environment, read once.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Variables that begin with the prefix and are no settings.
const NOT_SETTINGS: [&str; 6] = [
    "EXECGATE_CA",
    "EXECGATE_URL",
    "EXECGATE_TOKEN",
    "EXECGATE_TOKEN_FILE",
    "EXECGATE_JOB",
    "EXECGATE_CONFIG",
];

/// What the environment says to this program.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
}

impl std::fmt::Debug for Environment {
    // Any value may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

impl Environment {
    /// The environment of this process; what is not UTF-8 is left out.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn of_process() -> Self {
        Self {
            variables: std::env::vars_os()
                .filter_map(|(k, v)| k.into_string().ok().zip(v.into_string().ok()))
                .collect(),
        }
    }

    /// A variable's value, when it is set and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The variables that are settings: name, dotted key, value.
    pub(super) fn settings(&self) -> Vec<(String, String, String)> {
        let setting = |(name, value): (&String, &String)| {
            let key = name.strip_prefix("EXECGATE_").filter(|_| !NOT_SETTINGS.contains(&name.as_str()))?;
            Some((name.clone(), key.to_ascii_lowercase().replace("__", "."), value.clone()))
        };
        self.variables.iter().filter_map(setting).collect()
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
