//! Typed settings: read once, kept for every decision.

use std::sync::OnceLock;

use serde::de::DeserializeOwned;

/// What is wrong with a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, e.g. `rules[3].programs`.
    pub path: String,
    /// What.
    pub message: String,
}

/// Reads settings from JSON. Use `#[serde(deny_unknown_fields)]`, so that a typing error is found.
///
/// # Errors
/// The first thing that is wrong, with its path.
pub fn read<T: DeserializeOwned>(json: &str) -> Result<T, Problem> {
    let mut reader = serde_json::Deserializer::from_str(json);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let message = error.inner().to_string();
        let message = message.split(" at line ").next().unwrap_or_default().to_owned();
        Problem { path: error.path().to_string(), message }
    })
}

/// A place for settings that `configure` fills.
#[derive(Debug)]
pub struct Configured<T>(OnceLock<T>);

impl<T> Configured<T> {
    /// An empty place, for a `static`.
    pub const fn new() -> Self {
        Self(OnceLock::new())
    }

    /// Fills it; only the first time counts.
    pub fn set(&self, settings: T) {
        // The host configures once.
        let _ = self.0.set(settings);
    }

    /// What was set; `None` before `configure`.
    pub fn get(&self) -> Option<&T> {
        self.0.get()
    }
}

impl<T> Default for Configured<T> {
    fn default() -> Self {
        Self::new()
    }
}
