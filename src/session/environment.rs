//! The environment of a job: built from nothing, by rule.
//!
//! It starts empty; the server sets what every program expects, the client adds what the operator lets it add,
//! and policy changes the result afterwards. A variable that steers the loader or a shell's start-up is refused
//! unless the operator named it.

use std::collections::BTreeMap;

use crate::domain::{Command, Failure, JobId, Terminal};

use super::Settings;

/// Who the job runs as, as far as its environment tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// Login name.
    pub user: String,
    /// Home directory; also the default working directory.
    pub home: String,
    /// Login shell.
    pub shell: String,
}

/// What a client asked for.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) argv: Vec<String>,
    pub(super) cwd: Option<String>,
    pub(super) env: &'a BTreeMap<String, String>,
    pub(super) terminal: Option<Terminal>,
}

/// Builds the complete command of a job.
///
/// # Errors
/// [`Failure::InvalidParams`] naming the variable the client may not set.
pub(super) fn compose(
    asked: Asked<'_>,
    job: JobId,
    home: &Home,
    settings: &Settings,
) -> Result<Command, Failure> {
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), settings.path.clone()),
        ("HOME".to_owned(), home.home.clone()),
        ("USER".to_owned(), home.user.clone()),
        ("LOGNAME".to_owned(), home.user.clone()),
        ("SHELL".to_owned(), home.shell.clone()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
    ]);
    if let Some(terminal) = &asked.terminal {
        env.insert("TERM".to_owned(), terminal.term.clone());
    }
    env.extend(settings.env.iter().map(|(name, value)| (name.clone(), value.0.clone())));
    for (name, value) in asked.env {
        permitted(name, &settings.env_allow)?;
        env.insert(name.clone(), value.clone());
    }
    env.insert("EXECGATE_JOB".to_owned(), job.to_string());
    let cwd = asked.cwd.or_else(|| Some(home.home.clone()));
    Ok(Command { argv: asked.argv, cwd, env, terminal: asked.terminal })
}

/// Whether the client may set this variable: named by a pattern, and by its full name when it is dangerous.
fn permitted(name: &str, allow: &[String]) -> Result<(), Failure> {
    let by_name = allow.iter().any(|pattern| pattern == name);
    let by_pattern = allow.iter().any(|pattern| matches(pattern, name));
    if name == "EXECGATE_JOB" || (is_dangerous(name) && !by_name) || !by_pattern {
        return Err(Failure::InvalidParams(format!(
            "env: this gateway does not let clients set {name:?}; leave it out, or have the operator add it to jobs.env_allow"
        )));
    }
    Ok(())
}

/// `*` at the end of a pattern stands for any rest.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    }
}

/// Variables that make the loader or a shell run code before the program does (ld.so(8), bash(1)).
fn is_dangerous(name: &str) -> bool {
    name.starts_with("LD_") || name.starts_with("BASH_FUNC_") || matches!(name, "BASH_ENV" | "ENV")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allow(patterns: &[&str]) -> Vec<String> {
        patterns.iter().map(|p| (*p).to_owned()).collect()
    }

    #[test]
    fn a_client_sets_only_what_the_operator_allows() {
        let patterns = allow(&["LANG", "LC_*"]);
        assert!(permitted("LANG", &patterns).is_ok());
        assert!(permitted("LC_ALL", &patterns).is_ok());
        for name in ["LANGUAGE", "lang", "PATH", "EXECGATE_JOB"] {
            assert!(
                matches!(permitted(name, &patterns), Err(Failure::InvalidParams(m)) if m.contains(name)),
                "{name}"
            );
        }
    }

    #[test]
    fn a_wildcard_does_not_let_in_what_steers_the_loader_or_the_shell() {
        for name in ["LD_PRELOAD", "LD_AUDIT", "BASH_ENV", "ENV", "BASH_FUNC_x%%"] {
            assert!(permitted(name, &allow(&["*"])).is_err(), "{name}");
            assert!(permitted(name, &allow(&["*", name])).is_ok(), "{name}");
        }
        assert!(permitted("EXECGATE_JOB", &allow(&["*", "EXECGATE_JOB"])).is_err());
    }
}
