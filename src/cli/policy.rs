//! `policy check`, `policy inspect`, `audit verify`.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::audit;
use crate::config::{self, Environment};
use crate::policy::{self, Policies, PolicySummary};
use crate::server::Setup;

use super::args::{AuditCommand, From, PolicyCommand};
use super::output::{Trouble, say};
use super::serve::sources;

pub(super) fn run(command: &PolicyCommand) -> Result<ExitCode, Trouble> {
    match command {
        PolicyCommand::Check { from, json } => check(from, *json),
        PolicyCommand::Inspect { module, json } => inspect(module, *json),
    }
}

fn check(from: &From, as_json: bool) -> Result<ExitCode, Trouble> {
    let loaded = config::load(&sources(from), &Environment::of_process()).map_err(Trouble::failed)?;
    let setup = Setup::new(&loaded.settings, None).map_err(Trouble::failed)?;
    let policies = Policies::load(&setup.policy).map_err(Trouble::failed)?.list();
    if as_json {
        say(Value::Array(policies.iter().map(shown).collect()))?;
        return Ok(ExitCode::SUCCESS);
    }
    for policy in &policies {
        say(format!(
            "{}: {} {}, hooks {}",
            policy.name,
            policy.module,
            policy.version,
            policy.hooks.join(" ")
        ))?;
        if let Err(why) = &policy.snapshot {
            say(format!("  no snapshot, so it is configured for every decision: {why}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(policy: &PolicySummary) -> Value {
    json!({
        "name": policy.name, "module": policy.module, "version": policy.version, "hooks": policy.hooks, "sha256": policy.digest,
        "snapshot": policy.snapshot.is_ok(), "snapshot_missing": policy.snapshot.as_ref().err(),
    })
}

fn inspect(module: &Path, as_json: bool) -> Result<ExitCode, Trouble> {
    let m = policy::inspect(module).map_err(Trouble::failed)?;
    if as_json {
        let schema: Value = serde_json::from_str(&m.schema).unwrap_or(Value::Null);
        say(json!({
            "name": m.module, "version": m.version, "summary": m.summary, "hooks": m.hooks, "sha256": m.digest, "size": m.size,
            "snapshot": m.snapshot.is_ok(), "snapshot_missing": m.snapshot.as_ref().err(), "settings_schema": schema,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    say(format!("{} {}: {}", m.module, m.version, m.summary))?;
    say(format!("hooks     {}", m.hooks.join(" ")))?;
    say(format!("sha256    {}", m.digest))?;
    say(format!("size      {} bytes", m.size))?;
    match &m.snapshot {
        Ok(()) => say("snapshot  yes")?,
        Err(why) => say(format!("snapshot  no: {why}"))?,
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn audit(command: &AuditCommand) -> Result<ExitCode, Trouble> {
    let AuditCommand::Verify { file } = command;
    match audit::verify(file) {
        Ok(verified) => {
            say(format!("{} lines, unbroken; head {}", verified.lines, verified.head))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(bad) => Err(Trouble::failed(format!("{}: {bad}", file.display()))),
    }
}
