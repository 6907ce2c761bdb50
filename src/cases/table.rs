//! Files of cases.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::policy::{Module, PolicySettings, plain_file};

use super::Case;

/// Largest table, bytes.
const MOST: u64 = 4 << 20;

/// A file of cases, for one policy or for whatever is configured.
#[derive(Debug, Clone)]
pub struct Table {
    /// Where it was read from.
    pub path: PathBuf,
    /// The policy it is about; `None`: the configured ones, together.
    pub policy: Option<PolicySettings>,
    /// The cases, in order.
    pub cases: Vec<Case>,
}

/// A table that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CasesFailure {
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the kernel says.
        error: std::io::Error,
    },
    /// It is no table of cases.
    #[error("{}: {why}", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// What is wrong, with the line.
        why: String,
    },
    /// It has no case.
    #[error("{}: there is no [[case]] in it; write one, e.g. name, argv and expect", .0.display())]
    Empty(PathBuf),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    policy: Option<String>,
    #[serde(default)]
    settings: serde_json::Map<String, serde_json::Value>,
    #[serde(default, rename = "case")]
    cases: Vec<Case>,
}

/// Reads a table.
///
/// # Errors
/// What is wrong with it.
pub fn read(path: &Path) -> Result<Table, CasesFailure> {
    use std::io::Read as _;
    let unreadable = |error| CasesFailure::Unreadable { path: path.to_owned(), error };
    let mut text = String::new();
    let file = plain_file(path).map_err(unreadable)?;
    file.take(MOST).read_to_string(&mut text).map_err(unreadable)?;
    let malformed = |why: String| CasesFailure::Malformed { path: path.to_owned(), why };
    let written: Written = toml_edit::de::from_str(&text).map_err(|e| malformed(e.to_string()))?;
    if written.cases.is_empty() {
        return Err(CasesFailure::Empty(path.to_owned()));
    }
    for case in &written.cases {
        case.check().map_err(|why| malformed(format!("case {:?}: {why}", case.name)))?;
    }
    let settings = serde_json::Value::Object(written.settings).to_string();
    let policy = written.policy.map(|module| settings_of(path, &module, settings));
    Ok(Table { path: path.to_owned(), policy, cases: written.cases })
}

fn settings_of(table: &Path, module: &str, settings: String) -> PolicySettings {
    let named = |name: &str| PolicySettings::builtin(name, &settings);
    match module.strip_prefix("builtin:") {
        Some(builtin) => named(builtin),
        None => {
            let path = table.parent().unwrap_or(Path::new(".")).join(module);
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("policy").to_owned();
            PolicySettings { module: Module::File(path), ..named(&name) }
        }
    }
}
