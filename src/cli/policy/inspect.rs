//! `policy inspect`: what a module is, whatever its settings.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::cli::output::{Trouble, harmless, say};
use crate::policy;

use super::ask;
use super::options::Inspect;

pub(super) fn run(args: &Inspect) -> Result<ExitCode, Trouble> {
    let m = policy::inspect(&ask::module(&args.module)).map_err(Trouble::failed)?;
    let schema: Value = serde_json::from_str(&m.schema).unwrap_or(Value::Null);
    if args.schema {
        say(format!("{schema:#}"))?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.json {
        say(json!({
            "name": m.module, "version": m.version, "summary": m.summary, "hooks": m.hooks, "imports": m.imports, "sha256": m.digest,
            "size": m.size, "snapshot": m.snapshot.is_ok(), "snapshot_missing": m.snapshot.as_ref().err(), "settings_schema": schema,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    say(harmless(&format!("{} {}: {}", m.module, m.version, m.summary)))?;
    say(format!("hooks     {}", m.hooks.join(" ")))?;
    say(format!(
        "imports   {}",
        if m.imports.is_empty() { "nothing".to_owned() } else { m.imports.join(" ") }
    ))?;
    say(format!("sha256    {}", m.digest))?;
    say(format!("size      {} bytes", m.size))?;
    match &m.snapshot {
        Ok(()) => say("snapshot  yes")?,
        Err(why) => say(format!("snapshot  no: {why}"))?,
    }
    let settings: Vec<_> = schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(name, _)| name.clone())
        .collect();
    say(format!("settings  {}", if settings.is_empty() { "none".to_owned() } else { settings.join(" ") }))?;
    Ok(ExitCode::SUCCESS)
}
