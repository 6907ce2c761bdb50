//! What the commands about policies share: from the command line to policies that can be asked.

use std::path::PathBuf;

use crate::cases::{self, Table};
use crate::cli::args::From;
use crate::cli::output::Trouble;
use crate::cli::serve::sources;
use crate::config::{self, Environment};
use crate::policy::{self, Module, Pinned, Policies};
use crate::server::{self, Setup};

/// The policies of the configuration, as the server would load them.
pub(super) fn configured(from: &From) -> Result<Policies, Trouble> {
    let loaded = config::load(&sources(from), &Environment::of_process()).map_err(Trouble::failed)?;
    let setup = Setup::new(&loaded.settings, None).map_err(Trouble::failed)?;
    server::load_policies(&setup.policy).map_err(Trouble::failed)
}

pub(super) fn module(text: &str) -> Module {
    match text.strip_prefix("builtin:") {
        Some(name) => Module::Builtin(name.to_owned()),
        None => Module::File(PathBuf::from(text)),
    }
}

/// The tables that were named, else those of the folder.
pub(super) fn tables(named: &[PathBuf]) -> Result<Vec<Table>, Trouble> {
    let mut paths = named.to_vec();
    if paths.is_empty() {
        let listed = std::fs::read_dir("tests").into_iter().flatten().flatten().map(|entry| entry.path());
        paths = listed.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
        paths.sort();
    }
    if paths.is_empty() {
        return Err(Trouble::usage("there is no table of cases: name one, or put some into tests/*.toml"));
    }
    paths.iter().map(|path| cases::read(path).map_err(Trouble::failed)).collect()
}

/// Loads what tables are about, each policy once an engine.
pub(super) struct Loader<'a> {
    from: &'a From,
    configured: Option<Policies>,
    engine: Option<Policies>,
}

impl<'a> Loader<'a> {
    pub(super) const fn new(from: &'a From) -> Self {
        Self { from, configured: None, engine: None }
    }

    /// The policies of the table; whether they are one that the table names.
    pub(super) fn load(&mut self, table: &Table) -> Result<(Pinned, bool), Trouble> {
        let told = |failure: policy::LoadFailure| {
            let unreadable = matches!(failure.fault, policy::PolicyFault::Unreadable { .. });
            let advice =
                if unreadable { "; if it is not built yet, `execgate policy build` first" } else { "" };
            Trouble::failed(format!("{}: {failure}{advice}", table.path.display()))
        };
        let Some(own) = &table.policy else {
            if self.configured.is_none() {
                self.configured = Some(configured(self.from)?);
            }
            let policies = self.configured.as_ref().map(Policies::pin);
            return policies.map(|pinned| (pinned, false)).ok_or_else(|| Trouble::failed("no policies"));
        };
        if let Some(engine) = &self.engine {
            return engine.prepare(std::slice::from_ref(own)).map(|pinned| (pinned, true)).map_err(told);
        }
        let engine = Policies::load(&policy::Settings::of(vec![own.clone()])).map_err(told)?;
        let pinned = engine.pin();
        self.engine = Some(engine);
        Ok((pinned, true))
    }
}
