//! `config check` and `config show`.

use std::process::ExitCode;

use crate::config::{self, Environment, Sources};
use crate::server::{self, Setup};

use super::args::{ConfigCommand, From};
use super::output::{Trouble, say};
use super::serve::sources;

pub(super) fn run(command: &ConfigCommand) -> Result<ExitCode, Trouble> {
    match command {
        ConfigCommand::Check(from) => check(from),
        ConfigCommand::Schema => schema(),
        ConfigCommand::Show { from, json } => show(from, *json),
    }
}

fn check(from: &From) -> Result<ExitCode, Trouble> {
    let loaded = config::load(&sources(from), &Environment::of_process()).map_err(Trouble::failed)?;
    let setup = Setup::new(&loaded.settings, None).map_err(Trouble::failed)?;
    for warning in &setup.warnings {
        say(format!("warning: {warning}"))?;
    }
    let policies = server::load_policies(&setup.policy).map_err(Trouble::failed)?;
    say(format!("the configuration is good; {} policies load", policies.list().len()))?;
    Ok(ExitCode::SUCCESS)
}

fn schema() -> Result<ExitCode, Trouble> {
    let defaults = Sources { no_system: true, ..Sources::default() };
    let loaded = config::load(&defaults, &Environment::default()).map_err(Trouble::failed)?;
    say(config::schema(&loaded))?;
    Ok(ExitCode::SUCCESS)
}

fn show(from: &From, json: bool) -> Result<ExitCode, Trouble> {
    let loaded = config::load(&sources(from), &Environment::of_process()).map_err(Trouble::failed)?;
    let text = if json { config::show_json(&loaded) } else { config::show(&loaded) };
    say(text.trim_end())?;
    Ok(ExitCode::SUCCESS)
}
