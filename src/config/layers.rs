//! The layers, in order, and what is wrong with them.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Format as _, Toml};
use figment::value::Dict;

use super::{ConfigFailure, Environment, Loaded, check, locate};

/// The lowest layer.
pub(super) const DEFAULTS: &str = include_str!("../../config/execgate.toml");

/// The name of the lowest layer.
pub(super) const BUILT_IN: &str = "the built-in defaults";

/// Where the system keeps its configuration.
const SYSTEM: &str = "/etc/execgate";

/// Where configuration comes from.
#[derive(Clone, Default)]
pub struct Sources {
    /// Each `--config`, in order.
    pub files: Vec<PathBuf>,
    /// Command-line flags, by dotted key.
    pub flags: Vec<(String, String)>,
    /// Leave the system's files out.
    pub no_system: bool,
}

impl std::fmt::Debug for Sources {
    // A flag's value may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let keys: Vec<_> = self.flags.iter().map(|(key, _)| key).collect();
        f.debug_struct("Sources")
            .field("files", &self.files)
            .field("flags", &keys)
            .field("no_system", &self.no_system)
            .finish()
    }
}

/// Puts the layers together and checks the result.
///
/// # Errors
/// The first thing that is wrong, with file and line where there are any.
pub fn load(sources: &Sources, environment: &Environment) -> Result<Loaded, ConfigFailure> {
    let mut figment = Figment::from(Named { text: DEFAULTS.to_owned(), name: BUILT_IN.to_owned() });
    let mut files = Vec::new();
    if !sources.no_system {
        files.extend(system_files()?);
    }
    files.extend(sources.files.iter().cloned());
    for path in &files {
        let text = read(path)?;
        figment = figment.merge(Named { text, name: path.display().to_string() });
    }
    for (name, key, value) in environment.settings() {
        figment = figment.merge(One { name: format!("the environment variable {name}"), key, value });
    }
    for (key, value) in &sources.flags {
        let name = format!("the flag for {key}");
        figment = figment.merge(One { name, key: key.clone(), value: value.clone() });
    }
    let settings = figment.extract().map_err(|error| locate::explain(&error, &files))?;
    check::whole(&settings)?;
    Ok(Loaded { settings, figment })
}

/// A TOML text under the name of its file.
#[derive(Debug, Clone)]
struct Named {
    text: String,
    name: String,
}

impl figment::Provider for Named {
    fn metadata(&self) -> figment::Metadata {
        figment::Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<figment::value::Map<figment::Profile, Dict>, figment::Error> {
        Toml::string(&self.text).data()
    }
}

/// One value from outside a file, under the name of where it came from. Read as figment reads environment variables: a
/// number, a word, or TOML-like lists and tables.
struct One {
    name: String,
    key: String,
    value: String,
}

impl figment::Provider for One {
    fn metadata(&self) -> figment::Metadata {
        figment::Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<figment::value::Map<figment::Profile, Dict>, figment::Error> {
        // Reading a value cannot fail: what is nothing else is a string.
        let value = self.value.parse().unwrap_or_else(|never: std::convert::Infallible| match never {});
        let nested = figment::util::nest(&self.key, value);
        let dict = nested.into_dict().unwrap_or_default();
        Ok(figment::Profile::Default.collect(dict))
    }
}

fn system_files() -> Result<Vec<PathBuf>, ConfigFailure> {
    let main = Path::new(SYSTEM).join("execgate.toml");
    let mut files: Vec<_> = main.exists().then_some(main).into_iter().collect();
    let directory = Path::new(SYSTEM).join("conf.d");
    if let Ok(entries) = std::fs::read_dir(&directory) {
        let mut parts: Vec<_> = entries
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "toml"))
            .collect();
        parts.sort();
        files.extend(parts);
    }
    Ok(files)
}

/// Reads a file that nobody but us and root can change.
fn read(path: &Path) -> Result<String, ConfigFailure> {
    let real = guarded(path)?;
    std::fs::read_to_string(&real).map_err(|error| ConfigFailure::Unreadable { path: path.to_owned(), error })
}

/// The file after symlinks, when nobody but us and root can change it.
///
/// # Errors
/// That it cannot be found, or that it or its directory is open to others.
pub fn guarded(path: &Path) -> Result<PathBuf, ConfigFailure> {
    let unreadable = |error| ConfigFailure::Unreadable { path: path.to_owned(), error };
    let real = path.canonicalize().map_err(unreadable)?;
    for place in [Some(real.as_path()), real.parent()].into_iter().flatten() {
        safe(place, &std::fs::metadata(place).map_err(unreadable)?)?;
    }
    Ok(real)
}

/// # Errors
/// [`ConfigFailure::Unsafe`] for what others could change. A directory with the sticky bit protects its entries.
fn safe(path: &Path, metadata: &Metadata) -> Result<(), ConfigFailure> {
    const OTHERS_WRITE: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    let path = path.to_owned();
    let ours = [0, nix::unistd::geteuid().as_raw()];
    if !ours.contains(&metadata.uid()) {
        let remedy = format!("chown root {}", path.display());
        return Err(ConfigFailure::Unsafe { path, why: "its owner is another user", remedy });
    }
    let sticky = metadata.is_dir() && metadata.mode() & STICKY != 0;
    if metadata.mode() & OTHERS_WRITE != 0 && !sticky {
        let remedy = format!("chmod go-w {}", path.display());
        return Err(ConfigFailure::Unsafe { path, why: "group or others may write", remedy });
    }
    Ok(())
}
