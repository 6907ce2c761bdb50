//! The layers, in order, and what is wrong with them.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Format as _, Toml};
use figment::value::Dict;

use super::guard::{self, GuardFailure, Holds};
use super::{ConfigFailure, Environment, Loaded, check, locate};

/// The lowest layer.
pub(super) const DEFAULTS: &str = include_str!("../../config/execgate.toml");

/// The name of the lowest layer.
pub(super) const BUILT_IN: &str = "the built-in defaults";

/// Where the system keeps its configuration.
const SYSTEM: &str = "/etc/execgate";

/// Most dots of a key and brackets of a value that comes by the environment or by a flag: each may nest.
const MOST_NESTED: usize = 256;

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
    let mut paths = Vec::new();
    if !sources.no_system {
        paths.extend(system_files(Path::new(SYSTEM))?);
    }
    paths.extend(sources.files.iter().cloned());
    let mut files = Vec::new();
    for path in &paths {
        let named = Named {
            text: guard::read_text(path, Holds::Public, guard::MOST)?,
            name: path.display().to_string(),
        };
        figment = figment.merge(named.clone());
        files.push(named);
    }
    let flags = sources.flags.iter().map(|(key, value)| One {
        name: format!("the flag for {key}"),
        key: key.clone(),
        value: value.clone(),
    });
    for one in environment.settings()?.into_iter().chain(flags) {
        one.is_shallow()?;
        figment = figment.merge(one);
    }
    let settings = figment.extract().map_err(|error| locate::explain(&error, &files))?;
    check::whole(&settings)?;
    Ok(Loaded { settings, figment })
}

/// A TOML text under the name of its file.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) text: String,
    pub(super) name: String,
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
pub(super) struct One {
    pub(super) name: String,
    pub(super) key: String,
    pub(super) value: String,
}

impl One {
    /// # Errors
    /// That it could nest deeper than any setting does: reading it takes stack.
    fn is_shallow(&self) -> Result<(), ConfigFailure> {
        if self.key.matches('.').count() + self.value.matches(['[', '{']).count() <= MOST_NESTED {
            return Ok(());
        }
        let what = format!("more than {MOST_NESTED} dots and brackets; write it in a file");
        Err(ConfigFailure::Wrong { place: self.name.clone(), what })
    }
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

/// The files of the system's directory. Only what is not there may be left out: who cannot look must not say that all is good.
fn system_files(directory: &Path) -> Result<Vec<PathBuf>, ConfigFailure> {
    let main = directory.join("execgate.toml");
    let mut files: Vec<_> = is_there(&main)?.then_some(main).into_iter().collect();
    let parts = directory.join("conf.d");
    if is_there(&parts)? {
        let unreadable = |error| GuardFailure::Unreadable { path: parts.clone(), error };
        let entries = std::fs::read_dir(&parts).map_err(unreadable)?;
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        let mut found = paths.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
        found.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        found.sort();
        files.extend(found);
    }
    Ok(files)
}

/// Whether the path names something, a dangling symlink included.
fn is_there(path: &Path) -> Result<bool, GuardFailure> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(GuardFailure::Unreadable { path: path.to_owned(), error }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn of_the_systems_files_only_what_is_not_there_is_left_out() {
        let place = tempfile::tempdir().unwrap();
        let within = |name: &str| place.path().join(name);
        assert_eq!(system_files(&within("nothing")).unwrap(), Vec::<PathBuf>::new());
        assert_eq!(system_files(place.path()).unwrap(), Vec::<PathBuf>::new());
        symlink("nowhere", within("execgate.toml")).unwrap();
        let found = system_files(place.path()).unwrap();
        assert_eq!(found, [within("execgate.toml")], "reading it will tell that it leads nowhere");
        std::fs::write(within("conf.d"), "").unwrap();
        let refused = system_files(place.path()).unwrap_err().to_string();
        assert!(refused.contains("conf.d"), "{refused}");
        let refused = system_files(&within("conf.d")).unwrap_err().to_string();
        assert!(refused.contains("conf.d/execgate.toml"), "{refused}");
        std::fs::remove_file(within("conf.d")).unwrap();
        std::fs::create_dir(within("conf.d")).unwrap();
        for name in ["conf.d/b.toml", "conf.d/a.toml", "conf.d/c.bak"] {
            std::fs::write(within(name), "").unwrap();
        }
        let found = system_files(place.path()).unwrap();
        assert_eq!(found, ["execgate.toml", "conf.d/a.toml", "conf.d/b.toml"].map(within));
    }
}
